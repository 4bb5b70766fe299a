"""A job's API, read by a route's settings: the place of its status, its state, its result. Pure."""

import re
from collections.abc import Collection
from enum import Enum, auto
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from jsonpath import JSONPathError

from proxy.errors import UpstreamMalformed
from proxy.settings.blocks.sources import JobSettings
from proxy.text.templates import Excerpt, find_all
from proxy.upstream.client import Answer

ACCEPTED = 202
SEE_OTHER = frozenset({302, 303})
"""Statuses which say that a job is done, and where its result is (RFC 9110 15.4.4)."""

MAX_TARGET_BYTES = 4096
MAX_ID_CHARS = 512

_TARGET = re.compile(r"/[!-~]*")


class JobLost(UpstreamMalformed):
    """The API's answer makes no sense by the settings, and another look would not change it."""


class JobState(Enum):
    """The result of one look."""

    RUNNING = auto()
    DONE = auto()
    FAILED = auto()


def only(document: Any, path: str) -> Any:
    """The only value that a document has at a path; None if there is none, or are several."""
    if isinstance(document, Excerpt):
        count, value = document.at[path]
        return value if count == 1 else None
    try:
        found = find_all(document, path) if isinstance(document, dict | list) else []
    except JSONPathError:  # too deep, or a filter that cannot be applied
        return None
    return found[0] if len(found) == 1 else None


def state(settings: JobSettings, answer: Answer, document: Any) -> JobState:
    """The state that a good answer to a look says.

    Args:
        document: of the answer; None if it has none.

    Raises:
        JobLost: it is none that the settings have.
        UpstreamMalformed: it says none.
    """
    if settings.status is None:
        return JobState.RUNNING if answer.status == ACCEPTED else JobState.DONE
    value = only(document, settings.status)
    if _is_in(value, settings.done):
        return JobState.DONE
    if _is_in(value, settings.failed):
        return JobState.FAILED
    if _is_in(value, settings.running) or (answer.status == ACCEPTED and value is None):
        return JobState.RUNNING
    if not isinstance(value, bool | int | str):
        raise UpstreamMalformed("a look finds no state of the job")
    if settings.running:
        raise JobLost("the job has a state that is in none of running, done, failed")
    return JobState.RUNNING


def _is_in(value: Any, states: Collection[bool | int | str]) -> bool:
    return any(type(value) is type(each) and value == each for each in states)


def job_id(value: Any) -> str:
    """A job's id as one segment of a path. Raises `JobLost` for a value that is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise JobLost("the answer has no id of a job")
    text = str(value)
    if text in ("", ".", "..") or len(text) > MAX_ID_CHARS:
        raise JobLost("the id of the job is none")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:  # half a character
        raise JobLost("the id of the job is none") from None


def target_of(url: Any, base: bytes, authorities: Collection[bytes]) -> bytes:
    """Path and query of a URL that the upstream gives.

    Args:
        url: absolute or relative.
        base: path and query of the request that it answers.
        authorities: how the upstream may call itself. Headgate asks nobody else, so a URL of another origin
            would be another resource.

    Raises:
        JobLost: there is no URL, or it is of another origin.
    """
    if not isinstance(url, str) or not url:
        raise JobLost("the answer does not say where the job is")
    try:
        # `-` is the host of a URL that has none, and is no host's name.
        parts = urlsplit(urljoin("http://-" + base.decode("latin-1"), url))
        parts.port  # noqa: B018 - raises for a port that is none
    except ValueError:
        raise JobLost("the URL of the job is none") from None
    if parts.netloc != "-" and _authority(parts.scheme, parts.netloc) not in {
        _authority(parts.scheme, each.decode("latin-1")) for each in authorities
    }:
        raise JobLost("the job is at another origin")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if (
        parts.scheme not in ("http", "https")
        or not _TARGET.fullmatch(target)
        or len(target) > MAX_TARGET_BYTES
    ):
        raise JobLost("the URL of the job is none")
    return target.encode("ascii")


def _authority(scheme: str, netloc: str) -> str:
    """An authority without the port that its scheme has by default."""
    return netloc.lower().removesuffix(":443" if scheme == "https" else ":80")
