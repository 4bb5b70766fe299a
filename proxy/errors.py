"""The errors of the proxy, and the answers that clients get for them.

* HeadgateError
  * StoreDown                 the store of shared runs did not answer
  * SettingsError             the process does not start; every problem is listed
  * RequestRefused            400, 501: the request must not be forwarded as it is
  * UpstreamError             the upstream did not give a whole answer
    * UpstreamUnreachable     502, nothing was sent
    * UpstreamBusy            503, our own bound on connections; nothing was sent
    * UpstreamSilent          504, no first byte in time
    * UpstreamStalled         504, or a cut connection once the status has gone out
    * UpstreamBroke           502, or a cut connection once the status has gone out
    * UpstreamMalformed       502, what came is not the HTTP or JSON it should be
    * UpstreamAborted         no answer: the client has left, so we closed it
    * JobFailed               502, the job that the upstream had accepted has failed

What a client reads names no host, no port and no exception: those are for the log.
"""

from enum import StrEnum
from typing import Self

import orjson

PROBLEM_TYPE = b"application/problem+json"


class Fault(StrEnum):
    """Failure classes; the label `fault` of `headgate_faults_total`."""

    CONNECT = "connect"
    BUSY = "busy"
    RESET = "reset"
    STATUS = "status"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    SOURCE_LOST = "source_lost"
    LOG_STORE = "log_store"
    FAILURE_TEXT = "failure_text"
    JOB_FAILED = "job_failed"
    INTERNAL = "internal"


class HeadgateError(Exception):
    """Base of everything that Headgate raises on purpose."""

    def bare(self) -> Self:
        """This error without traceback, cause and context, to be kept as a value.

        Their frames hold their local values, this error included: a cycle with a user's text in it.
        """
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


class SettingsError(HeadgateError):
    """The settings cannot be used. `problems` holds one line each, path first."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StoreDown(HeadgateError):
    """The store did not answer, or refused; or it failed before, and was not asked again."""


class RequestRefused(HeadgateError):
    """The request is not forwarded; `status` and `detail` go to the client."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class UpstreamError(HeadgateError):
    """The upstream did not give a whole answer. The message is for the log alone."""

    status = 502
    fault = Fault.RESET
    detail = "The service behind this proxy did not answer properly."

    def __init__(self, message: str, fault: Fault | None = None) -> None:
        super().__init__(message)
        if fault is not None:
            self.fault = fault


class UpstreamUnreachable(UpstreamError):
    fault = Fault.CONNECT
    detail = "The service behind this proxy cannot be reached."


class UpstreamBusy(UpstreamError):
    status = 503
    fault = Fault.BUSY
    detail = "This proxy has as many requests under way as it may have. Please try again."


class UpstreamSilent(UpstreamError):
    status = 504
    fault = Fault.FIRST_BYTE_TIMEOUT
    detail = "The service behind this proxy did not answer in time."


class UpstreamStalled(UpstreamError):
    status = 504
    fault = Fault.IDLE_TIMEOUT
    detail = "The service behind this proxy stopped in the middle of its answer."


class UpstreamBroke(UpstreamError):
    detail = "The service behind this proxy broke off its answer."


class UpstreamMalformed(UpstreamError):
    fault = Fault.MALFORMED
    detail = "The service behind this proxy gave an answer that cannot be read."


class UpstreamAborted(UpstreamError):
    """Headgate closed the connection, because the client has left."""


class JobFailed(UpstreamError):
    """The upstream says so of a job that it had accepted."""

    fault = Fault.JOB_FAILED
    detail = "The service behind this proxy says that its work has failed."


def problem(status: int, title: str, detail: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of an RFC 9457 problem; `type` is left out, which means `about:blank`."""
    body = orjson.dumps({"title": title, "status": status, "detail": detail})
    headers = [
        (b"content-type", PROBLEM_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    return headers, body
