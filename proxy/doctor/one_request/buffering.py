"""A run's stream as it comes out of Headgate, beside the same stream through a public address.

One real request is sent to `listen`; the stream through each address is another viewer of the same run.
"""

import asyncio
import ssl
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from urllib.parse import urlsplit

import anyio
import httpx

from proxy.doctor.findings.asking import Headers, trusting
from proxy.doctor.findings.diagnosis import Diagnosis, Grade, fail, ok, skipped, warn
from proxy.doctor.one_request.real_request import RealRequest
from proxy.settings.blocks.values import unix_path
from proxy.text.sse import Decoder

MAX_EVENT_BYTES = 32 * 1024 * 1024

HELD_BACK_S = 1.0
"""An event that comes so much later through an address was held back there."""

CHECK = "stream"


@dataclass(slots=True)
class Arrivals:
    """A stream as it came."""

    status: int = 0
    version: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    at: dict[str, float] = field(default_factory=dict)
    """The time of each event, by its id: `perf_counter()`."""
    problem: str = ""
    """The reason why the stream could not be read to its end; "" if it could."""

    @property
    def is_stream(self) -> bool:
        kind = self.headers.get("content-type", "").partition(";")[0]
        return self.status == 200 and kind == "text/event-stream"

    @property
    def lasted_s(self) -> float:
        """Seconds between the first event and the last."""
        return max(self.at.values()) - min(self.at.values()) if self.at else 0.0


async def look(
    listen: str,
    addresses: Sequence[str],
    request: RealRequest,
    *,
    strict: bool,
    wait_s: float,
    speaks_tls: bool = False,
) -> list[Diagnosis]:
    """The findings, one for Headgate itself and one for each address.

    Args:
        listen: where Headgate listens.
        addresses: origins under which it is reached, the nearest first.
        request: of a route that streams for its user.
        strict: see `tls.strict`.
        wait_s: for the whole stream.
        speaks_tls: whether `listen` does. Its certificate is for other names than this machine's own, and is
            not verified here.
    """
    run = str(uuid.uuid4())
    path = unix_path(listen)
    host, _, port = listen.rpartition(":")
    place = f"{'127.0.0.1' if host in {'0.0.0.0', '[::]', '::'} else host}:{port}"
    here = f"{'https' if speaks_tls else 'http'}://{place if path is None else 'localhost'}"
    own_tls, their_tls = trusting(None, strict=strict, verify=False), trusting(None, strict=strict)
    user = [pair for pair in request.headers if pair[0] not in {"accept", "content-type"}]
    browser: Headers = [*user, ("accept", "text/event-stream"), ("accept-encoding", "gzip")]
    others = [pair for pair in request.headers if pair[0] != "accept"]
    # With JSON as well, or a batch answer would come as events, in time for everybody.
    asked = [*others, ("accept", "text/event-stream, application/json"), ("headgate-run", run)]
    direct, *through = await asyncio.gather(
        _arrivals(here + request.path, asked, request, own_tls, wait_s, path),
        *(
            _arrivals(f"{each.rstrip('/')}/_headgate/runs/{run}/events", browser, None, their_tls, wait_s)
            for each in addresses
        ),
    )
    return judged(direct, dict(zip(addresses, through, strict=True)))


async def _arrivals(
    url: str,
    headers: Headers,
    request: RealRequest | None,
    tls: ssl.SSLContext,
    wait_s: float,
    path: str | None = None,
) -> Arrivals:
    found = Arrivals()
    events = Decoder(max_event_bytes=MAX_EVENT_BYTES)
    method, body = ("GET", None) if request is None else (request.method, request.body)
    try:
        with anyio.fail_after(wait_s):
            async with (
                httpx.AsyncClient(
                    transport=None if path is None else httpx.AsyncHTTPTransport(uds=path),
                    verify=tls,
                    timeout=None,
                    trust_env=False,
                ) as client,
                client.stream(method, url, headers=list(headers), content=body) as answer,
            ):
                found.status, found.version = answer.status_code, answer.http_version
                found.headers = answer.headers
                if not found.is_stream:
                    return found
                async for piece in answer.aiter_bytes():
                    now = perf_counter()
                    for event in events.feed(piece):
                        found.at.setdefault(event.id or "", now)
    except TimeoutError:
        found.problem = f"it had not ended after {wait_s:g} s"
    except (httpx.HTTPError, OSError) as exc:
        found.problem = f"{'no connection' if not found.status else 'it broke off'} ({type(exc).__name__})"
    return found


def judged(direct: Arrivals, through: Mapping[str, Arrivals]) -> list[Diagnosis]:
    """Diagnose each address by the arrivals of one stream.

    Args:
        direct: the stream as Headgate sent it.
        through: the same, by address, the nearest first.
    """
    trouble = _no_stream(direct)
    if trouble is not None:
        return [trouble, *(skipped(_check(url), "there was no stream to compare with") for url in through)]
    findings = [ok(CHECK, f"{len(direct.at)} events within {direct.lasted_s:.1f} s out of Headgate")]
    last_good = "Headgate"
    for url, arrivals in through.items():
        findings.append(_through(url, arrivals, direct, last_good))
        if findings[-1].status is Grade.OK:
            last_good = url
    return findings


def _no_stream(direct: Arrivals) -> Diagnosis | None:
    if not direct.status:
        return fail(
            CHECK, f"Headgate does not answer at listen: {direct.problem}", "Start `headgate serve` here."
        )
    if not direct.is_stream:
        return skipped(
            CHECK,
            f"the request got a batch answer, with the status {direct.status}",
            "Give --headers with a user who has the route's flag, and a request that the upstream accepts; "
            "the log's line of the request has the reason.",
        )
    return None


def _check(url: str) -> str:
    return f"stream from {urlsplit(url).netloc}"


def _through(url: str, arrivals: Arrivals, direct: Arrivals, last_good: str) -> Diagnosis:
    check = _check(url)
    if not arrivals.is_stream:
        seen = arrivals.problem or f"answers {arrivals.status}, and no stream"
        return fail(check, seen, "Let /_headgate/ through to Headgate, as all other paths.")
    lags = [arrivals.at[event] - at for event, at in direct.at.items() if event in arrivals.at]
    hints = _hints(arrivals)
    if arrivals.problem or len(lags) < len(direct.at):
        missing = len(direct.at) - len(lags)
        return fail(
            check,
            f"{missing} of {len(direct.at)} events did not come: {arrivals.problem or 'it was cut'}{hints}",
            f"Something between {last_good} and here cuts long answers: raise its limits for silence and for "
            "the whole answer.",
        )
    latest_s = max(lags, default=0.0)
    if latest_s >= HELD_BACK_S:
        return warn(
            check,
            f"events come up to {latest_s:.1f} s late: held back between {last_good} and here{hints}",
            "Turn off buffering there for text/event-stream; X-Accel-Buffering: no is sent already.",
        )
    if direct.lasted_s < HELD_BACK_S:
        return skipped(check, f"the stream lasted {direct.lasted_s:.1f} s, too short to tell")
    if "content-encoding" in arrivals.headers:
        return warn(
            check,
            f"events come in time, compressed on their way{hints}",
            "Leave text/event-stream out of the types that are compressed: compression may hold events back.",
        )
    return ok(check, f"events come within {latest_s * 1000:.0f} ms of Headgate's own{hints}")


def _hints(arrivals: Arrivals) -> str:
    """An answer's hints about the hops that it came by."""
    headers = arrivals.headers
    told = [
        f"{name}: {headers[name][:60]}" for name in ("server", "via", "content-encoding") if name in headers
    ]
    if arrivals.version == "HTTP/1.0":
        told.append("HTTP/1.0")
    if "cf-ray" in headers:
        told.append("Cloudflare")
    return f" ({', '.join(told)})" if told else ""
