"""The one request of a route that somebody named on the command line: a real one, with all of its effects."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.doctor.findings.asking import Headers
from proxy.errors import HeadgateError
from proxy.http.headers import HOP_BY_HOP
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.values import PARAMETER
from proxy.settings.routes import PathTemplate


class BadRequest(HeadgateError):
    """No request can be made of what the command line says. The message names the option."""


@dataclass(frozen=True, slots=True)
class RealRequest:
    """One request to a route."""

    route: RouteSettings
    method: str
    path: str
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


def request_of(
    route: RouteSettings, parameters: Mapping[str, str], headers: Path | None, body: Path | None
) -> RealRequest:
    """The request that the command line describes.

    Args:
        route: as the settings have it.
        parameters: values of the parameters in `match`.
        headers: a file of lines `Name: value`, such as the user's `Authorization`.
        body: a file of JSON. None: `{}`.

    Raises:
        BadRequest: a parameter is missing, or a file cannot be read.
    """
    method, _, template = route.match.partition(" ")
    for name in PARAMETER.findall(template):
        if name not in parameters:
            raise BadRequest(f"--param {name}=VALUE is missing: route {route.name} is {route.match}")
    content = b"{}" if body is None else _bytes(body, "--data")
    try:
        json.loads(content)
    except ValueError:
        raise BadRequest("--data: the file is no JSON") from None
    fields = [("content-type", "application/json"), ("accept", "application/json")]
    return RealRequest(
        route,
        method,
        PathTemplate(template).fill(parameters),
        [*fields, *(_fields(_bytes(headers, "--headers")) if headers is not None else [])],
        content,
    )


def _bytes(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadRequest(f"{option}: cannot be read: {exc.strerror}") from None


def _fields(text: bytes) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(text.decode("latin-1").splitlines(), 1):
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or not name.strip() or name != name.strip():
            raise BadRequest(f"--headers: line {number} is not 'Name: value'")
        if name.lower().encode() not in HOP_BY_HOP:
            found.append((name.lower(), value.strip()))
    return found
