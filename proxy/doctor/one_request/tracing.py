"""One request of a route, straight to the upstream: do its model calls come, and with which context?

And what does the upstream answer others meanwhile?

Without `headgate serve`, the calls come to a listener of our own, which passes them on. Beside a `serve` its
counters tell.
"""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from flags.egress import Egress
from proxy.doctor.findings.asking import NoAnswer, Reply, ask, client
from proxy.doctor.findings.diagnosis import Diagnosis, Grade, fail, ok, skipped, warn
from proxy.doctor.one_request.model_calls import counted, judged, no_call
from proxy.doctor.one_request.model_listener import listening
from proxy.doctor.one_request.real_request import RealRequest
from proxy.http.tracing import TraceId, trace_ids_of, with_token
from proxy.settings.settings import Settings
from proxy.upstream.pool import Origin

EVERY_S = 0.25
"""Between two looks at an upstream that works."""

HELD_UP_S = 1.0
"""An answer to `GET /` that took so long, and came no sooner than the call's end, has waited for it."""


@dataclass(frozen=True, slots=True)
class Glance:
    """One `GET /` while the call was under way."""

    asked_at: float
    answered_at: float

    @property
    def took_s(self) -> float:
        return self.answered_at - self.asked_at


async def look(
    settings: Settings, request: RealRequest, to: Origin, ways: Egress, wait_s: float
) -> list[Diagnosis]:
    """The findings of one request; it is sent once.

    Args:
        settings: the whole file.
        request: whose route says how its model calls are known.
        to: how Headgate reaches the upstream.
        ways: to the providers.
        wait_s: for its answer.
    """
    name = request.route.name
    tracing, busy = f"tracing {name}", f"busy upstream {name}"
    tap = request.route.tap
    token = TraceId.random() if tap and tap.match == "traceparent" else secrets.token_urlsafe(24)
    sent = with_token([(n.encode("latin-1"), v.encode("latin-1")) for n, v in request.headers], token)
    [trace_id] = trace_ids_of(sent)
    headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in sent]
    if tap is None or settings.llm is None or request.route.job is not None:
        answered, looks, ended_at = await _asked(request, headers, to, wait_s)
        why = "has no block 'tap'" if tap is None else "begins a job, whose calls come later"
        traced = skipped(tracing, f"the route {why}")
    else:
        async with listening(settings.llm, token, trace_id, ways, strict=settings.tls.strict) as listener:
            before = None if listener else await _results(settings.admin)
            answered, looks, ended_at = await _asked(request, headers, to, wait_s)
            if listener is not None:
                traced = judged(tracing, listener.calls, tap.match, len(tap.calls))
            elif before is None or (after := await _results(settings.admin)) is None:
                traced = fail(
                    tracing,
                    f"something listens on llm.listen, and no Headgate answers on admin ({settings.admin})",
                    "Stop what listens there, or start `headgate serve` with these settings.",
                )
            else:
                new = {result: value - before.get(result, 0) for result, value in after.items()}
                traced = counted(tracing, new, tap.match)
    route = _answered(f"route {name}", answered)
    if route.status is not Grade.OK and traced == no_call(tracing):
        traced = skipped(tracing, "the request was not answered well", "First mend the request.")
    return [route, traced, waiting(busy, looks, ended_at)]


def _answered(check: str, answered: Reply | NoAnswer) -> Diagnosis:
    if isinstance(answered, NoAnswer):
        return fail(check, f"{answered}", "Give it longer by --wait, or see what the upstream's log says.")
    seen = f"the upstream answers {answered.status} after {answered.took_s:.1f} s"
    if 200 <= answered.status < 300:
        return ok(check, seen)
    return warn(
        check, seen, "Give a request that it accepts: --param, --data, and --headers with its user's."
    )


async def _asked(
    request: RealRequest, headers: list[tuple[str, str]], to: Origin, wait_s: float
) -> tuple[Reply | NoAnswer, list[Glance], float]:
    """The answer, the looks meanwhile, and when the answer was there."""
    looks: list[Glance] = []
    async with client(to.tls, to.via, to.path) as asking:
        looking = asyncio.create_task(_looking(to, looks))
        try:
            answered: Reply | NoAnswer = await ask(
                asking,
                to.url + request.path,
                method=request.method,
                headers=headers,
                body=None if request.method == "GET" else request.body,
                within_s=wait_s,
            )
        except NoAnswer as exc:
            answered = exc
        ended_at = perf_counter()
        looking.cancel()
        await asyncio.wait([looking])
    return answered, looks, ended_at


async def _looking(to: Origin, looks: list[Glance]) -> None:
    """`GET /` again and again, each on a connection of its own; one that is cut off counts, too."""
    async with client(to.tls, to.via, to.path) as asking:
        while True:
            await asyncio.sleep(EVERY_S)
            began = perf_counter()
            try:
                await ask(asking, f"{to.url}/")
            except NoAnswer:
                pass
            finally:
                looks.append(Glance(began, perf_counter()))


def waiting(check: str, looks: list[Glance], ended_at: float) -> Diagnosis:
    """Diagnose whether one busy worker holds up others.

    Args:
        check: the finding's name.
        looks: what was asked while a call was under way.
        ended_at: when that was answered.
    """
    if not looks:
        return skipped(check, "the answer came too soon to tell")
    longest = max(looks, key=lambda each: each.took_s)
    if longest.took_s < HELD_UP_S or longest.answered_at < ended_at:
        return ok(check, f"GET / is answered within {longest.took_s * 1000:.0f} ms while the request works")
    return warn(
        check,
        f"GET / waited {longest.took_s:.1f} s for the request's end: one busy worker holds up all others",
        "Give the upstream more workers, and `poll` none of its resources: it cannot answer while it works.",
    )


async def _results(admin: str) -> Mapping[str, float] | None:
    """`headgate_tap_calls_total` by result. None: no Headgate answers there."""
    name = "headgate_tap_calls_total{"
    host, _, port = admin.rpartition(":")
    address = f"{'127.0.0.1' if host in {'0.0.0.0', '[::]', '::'} else host}:{port}"
    try:
        async with client() as asking:
            page = (await ask(asking, f"http://{address}/metrics")).body.decode()
    except NoAnswer:
        return None
    lines = [line for line in page.splitlines() if line.startswith(name)]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines} or None
