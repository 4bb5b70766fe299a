"""The types of single values in the settings, and what each of them refuses."""

import re
import ssl
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, ValidationInfo

from proxy.text.sections import compile_path

UNMATCHED = "unmatched"
"""The label `route` of requests that match no route; no route may have this name."""

PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
"""A parameter in a path."""

PAGE_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?")


MAX_SOCKET_PATH = 103
"""Bytes of a Unix socket's path, as the smallest of systems has it; Linux takes four more."""


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
        raise ValueError("must be 1 to 63 of a-z, 0-9, '-' and '_': it becomes a metric's label")
    if value == UNMATCHED:
        raise ValueError(f"'{UNMATCHED}' is the label of requests that match no route")
    return value


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:8080")
    return value


def unix_path(address: str) -> str | None:
    """The path of a Unix socket, `unix:/PATH`; None: the address is another one's."""
    return address.removeprefix("unix:") if address.startswith("unix:") else None


def _socket_path(path: str) -> None:
    if not re.fullmatch(r"(/[^/\s:?#]+)+", path) or len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(
            f"must be unix: and the absolute path of a socket, of at most {MAX_SOCKET_PATH} bytes and "
            "without a colon, for example unix:/run/headgate/app.sock"
        )


def _listen(value: str) -> str:
    path = unix_path(value)
    if path is None:
        return _address(value)
    _socket_path(path)
    return value


def _upstream(value: str) -> str:
    path = unix_path(value)
    if path is None:
        return _origin(value)
    _socket_path(path)
    return value


def _peers(value: str) -> str:
    if value == "unix":
        return value
    try:
        return str(ip_network(value))
    except ValueError:
        pass
    try:
        meant = f", for example {ip_network(value, strict=False)}"
    except ValueError:
        meant = ", for example 10.0.0.0/8; or unix, for whoever connects by a Unix socket"
    raise ValueError(f"must be a network or an address{meant}")


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("must be an origin without a path: paths go through as the client sent them")
    if not _has_good_port(parts):
        raise ValueError("must have a port from 1 to 65535")
    if parts.username or parts.password:
        raise ValueError("must not carry credentials: those of each client go through")
    return value


def _has_good_port(parts: SplitResult) -> bool:
    """True for none, too."""
    try:
        return parts.port != 0
    except ValueError:  # as asking for one that is no number says
        return False


def _page_origin(value: str) -> str:
    found = PAGE_ORIGIN.fullmatch(value)
    if found is None:
        raise ValueError("must be one page's origin as browsers say it, for example https://app.example.org")
    if (found[1], found[3]) in {("http", ":80"), ("https", ":443")}:
        raise ValueError("must have no port: browsers leave out the one that its scheme has by default")
    return value


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not _has_good_port(parts):
        raise ValueError("must be a URL with http or https")
    return value


def _beside_the_settings(value: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base / value


def _readable(value: Path) -> Path:
    try:
        value.open("rb").close()
    except OSError as exc:
        raise ValueError(f"cannot be read: {exc.strerror}") from None
    return value


def _authorities(value: Path) -> Path:
    try:
        ssl.create_default_context(cafile=value)
    except ssl.SSLError:
        raise ValueError("must be a PEM file of certificates") from None
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as exc:
        raise ValueError(f"is not a regular expression: {exc}") from None
    return value


def _request(value: str) -> str:
    method, space, target = value.partition(" ")
    if not space or not re.fullmatch(r"[A-Z]+", method) or not re.fullmatch(r"/[!-~]*", target):
        raise ValueError("must be METHOD /path, for example POST /api/cases/{case_id}/start")
    _parameters(target)
    return value


def _match(value: str) -> str:
    _request(value)
    _path(value.partition(" ")[2])
    return value


def _path(value: str) -> str:
    if not re.fullmatch(r"/[!-~]*", value) or "?" in value or "#" in value:
        raise ValueError("must be a path in ASCII (else percent-encoded) that starts with / and has no query")
    _parameters(value)
    return value


def _target(value: str) -> str:
    if not re.fullmatch(r"/[!-~]*", value) or "#" in value:
        raise ValueError("must be a path in ASCII that starts with /; it may have a query")
    _parameters(value)
    return value


def _header(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise ValueError("must be the name of a header")
    return value


def _parameters(path: str) -> None:
    names = PARAMETER.findall(path)
    if "{" in PARAMETER.sub("", path) or "}" in PARAMETER.sub("", path):
        raise ValueError("has a brace that is no parameter: those are a-z, 0-9 and '_', as in {case_id}")
    if len(set(names)) < len(names):
        raise ValueError("names a parameter twice")


def _stage(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise ValueError("must be 1 to 64 of letters, digits, '_', '.' and '-'")
    return value


def _json_path(value: str) -> str:
    compile_path(value.replace("{stage}", "stage"))
    return value


Name = Annotated[str, AfterValidator(_name)]
"""A label's value, and part of paths."""
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Address = Annotated[str, AfterValidator(_address)]
ListenAddress = Annotated[str, AfterValidator(_listen)]
"""`HOST:PORT`, or `unix:/PATH`."""
UpstreamAddress = Annotated[str, AfterValidator(_upstream)]
"""An origin, or `unix:/PATH`."""
PeerNetwork = Annotated[str, AfterValidator(_peers)]
"""A network of peers, an address, or `unix`."""
Origin = Annotated[str, AfterValidator(_origin)]
PageOrigin = Annotated[str, AfterValidator(_page_origin)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
File = Annotated[Path, AfterValidator(_beside_the_settings)]
ReadableFile = Annotated[File, AfterValidator(_readable)]
Authorities = Annotated[ReadableFile, AfterValidator(_authorities)]
Pattern = Annotated[str, AfterValidator(_pattern)]
RequestLine = Annotated[str, AfterValidator(_request)]
"""Method, path and query."""
MethodAndPath = Annotated[str, AfterValidator(_match)]
PathText = Annotated[str, AfterValidator(_path)]
TargetText = Annotated[str, AfterValidator(_target)]
"""Path and query."""
HeaderName = Annotated[str, AfterValidator(_header)]
StageName = Annotated[str, AfterValidator(_stage)]
JsonPath = Annotated[str, AfterValidator(_json_path)]
