"""The catalogue: every fault in every phase of every source, and what the design makes of it."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

from proxy.errors import Fault
from proxy.observe.labels import FaultPhase
from tests.faults.acts import (
    accepts,
    after_the_content,
    after_the_loss,
    answers,
    breaks_off,
    closing,
    cut_at,
    done,
    floods,
    goes_wrong_within_the_body,
    hangs_up,
    one_byte_at_a_time,
    resets,
    resets_within_the_body,
    resets_within_the_head,
    rows,
    says_nothing,
    sends_a_comment_without_end,
    sends_a_header_of_ten_megabytes,
    sends_a_line_of_ten_megabytes,
    sends_interim_answers_without_end,
    sentence,
    speaks_no_http,
    stalls_within_the_body,
    status,
    told_in,
    trickles_without_end,
    whole,
    working,
)
from tests.faults.upstream import Act, Case, Play

FRAMINGS = ("length", "chunked", "close")
ATTEMPTS = 3
"""The most times that a call is sent (`proxy/runs/recovery.py`: two pauses)."""

WITHOUT_TEXTS = "an answer without the texts"
"""A fault of a stage that is asked for alone. A whole answer may have none: it ends as it came."""

BEFORE_THE_BODY: dict[str, tuple[Play, Fault, int]] = {
    "reset before the head": (resets, Fault.RESET, 502),
    "closed before the head": (hangs_up, Fault.RESET, 502),
    "reset within the head": (resets_within_the_head, Fault.RESET, 502),
    "silent before the head": (says_nothing, Fault.FIRST_BYTE_TIMEOUT, 504),
    "no HTTP": (speaks_no_http, Fault.MALFORMED, 502),
    "a header of 10 MB": (sends_a_header_of_ten_megabytes, Fault.TOO_LARGE, 502),
    "interim answers without end": (sends_interim_answers_without_end, Fault.TOO_LARGE, 502),
    "a comment without end": (sends_a_comment_without_end, Fault.TOO_LARGE, 502),
    "400": (status(b"400 Bad"), Fault.STATUS, 400),
    "401": (status(b"401 Who"), Fault.STATUS, 401),
    "404": (status(b"404 None"), Fault.STATUS, 404),
    "500": (status(b"500 Oh"), Fault.STATUS, 500),
    "502": (status(b"502 Oh"), Fault.STATUS, 502),
    "429": (status(b"429 Slow"), Fault.STATUS, 429),
    "503": (status(b"503 Busy"), Fault.STATUS, 503),
    "429 with Retry-After": (status(b"429 Slow", b"0"), Fault.STATUS, 429),
    "503 with Retry-After": (status(b"503 Busy", b"0"), Fault.STATUS, 503),
    "503 with a long Retry-After": (status(b"503 Busy", b"11"), Fault.STATUS, 503),
    "503 with a date": (status(b"503 Busy", b"Wed, 21 Oct 2015 07:28:00 GMT"), Fault.STATUS, 503),
    "an answer that is no JSON": (answers(b'{"result": {'), Fault.MALFORMED, 502),
    WITHOUT_TEXTS: (answers(b'{"result": {}}'), Fault.MALFORMED, 502),
}
WITHIN_THE_BODY: dict[str, tuple[Play, Fault, int]] = {
    **{f"broken off ({f})": (breaks_off(f), Fault.TRUNCATED, 502) for f in FRAMINGS},
    "silent within the body": (stalls_within_the_body, Fault.IDLE_TIMEOUT, 504),
    "a trickle without end": (trickles_without_end, Fault.TOTAL_TIMEOUT, 504),
    "a flood": (floods, Fault.TOO_LARGE, 502),
    "a line of 10 MB": (sends_a_line_of_ten_megabytes, Fault.TOO_LARGE, 502),
    "JSON that goes wrong": (goes_wrong_within_the_body, Fault.MALFORMED, 502),
}
ONLY_WITH_CONTENT: dict[str, tuple[Play, Fault, int]] = {
    "reset within the body": (resets_within_the_body, Fault.TRUNCATED, 502),
}

SENT_AGAIN_IF_SAFE = frozenset(
    {Fault.RESET, Fault.FIRST_BYTE_TIMEOUT, Fault.IDLE_TIMEOUT, Fault.TRUNCATED, Fault.MALFORMED}
)
"""Design, section 4; with `replay: safe` a second call may have the answer that the first had not."""

SENT_AGAIN_BY_STATUS = {
    "never": frozenset({"429 with Retry-After", "503 with Retry-After"}),
    "safe": frozenset({"429 with Retry-After", "503 with Retry-After", "429", "503", "500", "502"}),
}


def sent_again(name: str, fault: Fault, replay: str) -> bool:
    """True if the design sends the call again."""
    if fault is Fault.STATUS:
        return name in SENT_AGAIN_BY_STATUS[replay]
    return replay == "safe" and fault in SENT_AGAIN_IF_SAFE and name != WITHOUT_TEXTS


Row = tuple[str, Play, Fault, int, FaultPhase]


def _rows(source: str) -> Iterator[Row]:
    """Every fault of the call itself, in every phase it can come in."""
    before = (FaultPhase.NOTHING, FaultPhase.HEADERS) if source == "batch" else tuple(FaultPhase)
    for (name, (play, fault, code)), phase in itertools.product(BEFORE_THE_BODY.items(), before):
        if name != WITHOUT_TEXTS or source == "stages":
            yield name, play, fault, code, phase
    for (name, (play, fault, code)), phase in itertools.product(WITHIN_THE_BODY.items(), FaultPhase):
        yield name, play, fault, code, phase
    if source == "batch":
        for name, (play, fault, code) in ONLY_WITH_CONTENT.items():
            yield name, play, fault, code, FaultPhase.CONTENT


def _call_cases(source: str) -> Iterator[Case]:
    """The call itself fails; where it may be sent again, the second time is fine, or no time is."""
    for (name, play, fault, code, phase), replay in itertools.product(_rows(source), ("never", "safe")):
        again = sent_again(name, fault, replay)
        bad = Act(play, fault, phase)
        for endpoint, when in _endpoints(source, phase):
            acts = _good(source, when)
            tail = (Act(whole()),) if again else ()
            case = Case(
                name,
                source,
                {**acts, endpoint: (bad, *tail)},
                phase,
                replay,
                answer_exists=again,
                calls={
                    endpoint: 2 if again else 1,
                    **({"two": 0} if endpoint == "one" and not again else {}),
                },
                ends=(fault, code),
            )
            yield case
            if again and fault in {Fault.RESET, Fault.STATUS} and phase is not FaultPhase.CONTENT:
                yield replace(
                    case,
                    name=f"{name}, again and again",
                    acts={**acts, endpoint: (bad,)},
                    answer_exists=False,
                    calls={endpoint: ATTEMPTS, **({"two": 0} if endpoint == "one" else {})},
                )


def _endpoints(source: str, phase: FaultPhase) -> list[tuple[str, FaultPhase]]:
    if source != "stages":
        return [("start", phase)]
    return [("two", phase)] if phase is FaultPhase.CONTENT else [("one", phase)]


def _good(source: str, phase: FaultPhase) -> dict[str, tuple[Act, ...]]:
    """Acts with which all is fine: for `poll`, the first text is there to be seen if it is to be shown."""
    match source:
        case "stages":
            return {"one": (Act(whole()),), "two": (Act(whole()),)}
        case "poll":
            seen = 1 if phase is FaultPhase.CONTENT else 0
            return {"start": (Act(whole()),), "details": (Act(rows(0)), Act(rows(seen)))}
        case _:
            return {"start": (Act(whole()),)}


def _sentences() -> Iterator[Case]:
    """A 200 with an error sentence: it is the answer, and it is stored, so it is never asked for again."""
    for replay in ("never", "safe"):
        for source, stage, phase in (
            ("batch", "extraction", FaultPhase.NOTHING),
            ("batch", "extraction", FaultPhase.HEADERS),
            ("batch", "summary", FaultPhase.CONTENT),
            ("poll", "extraction", FaultPhase.HEADERS),
            ("poll", "summary", FaultPhase.CONTENT),
            ("stages", "extraction", FaultPhase.NOTHING),
            ("stages", "summary", FaultPhase.CONTENT),
        ):
            endpoint = {"extraction": "one", "summary": "two"}[stage] if source == "stages" else "start"
            # The other text of the same answer is shown before the truth is told.
            told = FaultPhase.CONTENT if source != "stages" and stage == "extraction" else phase
            act = Act(sentence(stage, told), Fault.FAILURE_TEXT, phase)
            yield Case(
                f"an error sentence ({stage})",
                source,
                {**_good(source, phase), endpoint: (act,)},
                phase,
                replay,
                answer_exists=False,
                calls={"two": 0} if endpoint == "one" else {},
                ends=(Fault.FAILURE_TEXT, 502 if source == "stages" else 200),
            )


LOOKS: dict[str, Play] = {
    "refused by status": status(b"404 None"),
    "failing": status(b"500 Oh"),
    "broken": answers(b'{"rows": ['),
    "empty": answers(b""),
    "broken off": breaks_off("length"),
    "closed": hangs_up,
}
"""A look is a GET: a reset on a kept connection is asked again, so only what comes each time is counted."""

STRIKES = 3


def _look_cases() -> Iterator[Case]:
    """Looks fail; the answer of the call is still coming."""
    for (name, play), replay in itertools.product(
        {**LOOKS, "silent": says_nothing}.items(), ("never", "safe")
    ):
        for phase in (FaultPhase.NOTHING, FaultPhase.HEADERS):
            yield Case(
                f"the first look is {name}",
                "poll",
                {"start": (Act(whole()),), "details": (Act(play, Fault.SOURCE_LOST, phase),)},
                phase,
                replay,
            )
        for phase in FaultPhase:
            shown = (Act(rows(1)),) if phase is FaultPhase.CONTENT else ()
            bad = (
                (Act(play, Fault.SOURCE_LOST, phase),)
                if name == "silent"
                else (*(Act(play, None, phase),) * (STRIKES - 1), Act(play, Fault.SOURCE_LOST, phase))
            )
            yield Case(
                f"looks are {name}",
                "poll",
                {"start": (Act(after_the_loss),), "details": (Act(rows(0)), *shown, *bad)},
                phase,
                replay,
            )


LOOKS_AT_A_JOB: dict[str, tuple[Play, Fault]] = {
    "failing": (status(b"500 Oh"), Fault.STATUS),
    "busy": (status(b"503 Busy", b"0"), Fault.STATUS),
    "broken": (answers(b'{"state": '), Fault.MALFORMED),
    "empty": (answers(b""), Fault.MALFORMED),
    "broken off": (breaks_off("length"), Fault.TRUNCATED),
}


def _job_cases() -> Iterator[Case]:
    """A look at a job that fails, or the first try of its result: the job is known, so nothing is lost."""
    for replay, phase in itertools.product(("never", "safe"), FaultPhase):
        start = {"start": (Act(accepts),), "result": (Act(whole()),)}
        begun = (Act(working(1)),) if phase is FaultPhase.CONTENT else ()
        for name, (play, fault) in LOOKS_AT_A_JOB.items():
            bad = Act(play, fault, phase)
            looks = {"job": (*begun, bad, Act(play, None, phase), Act(done))}
            yield Case(f"two looks are {name}", "job", start | looks, phase, replay)
            result = {"job": (*begun, Act(done)), "result": (bad, Act(whole()))}
            if name != "empty":  # that is a whole answer, as of every call
                yield Case(f"the result is {name}", "job", start | result, phase, replay)
        missing = (
            *(Act(status(b"404 None"), None, phase),) * 2,
            Act(status(b"404 None"), Fault.STATUS, phase),
        )
        failed = (Act(answers(b'{"state": "failed"}'), Fault.JOB_FAILED, phase),)
        for name, acts, ends in (
            ("the job is not found", missing, (Fault.STATUS, 404)),
            ("the job fails", failed, (Fault.JOB_FAILED, 502)),
        ):
            looks = {"job": (*begun, *acts)}
            yield Case(name, "job", start | looks, phase, replay, answer_exists=False, ends=ends)


def healthy() -> list[Case]:
    """Odd, but no fault: nothing may be counted, and nothing may be asked twice."""
    cases = [
        Case(f"whole ({framing})", "batch", {"start": (Act(whole(framing)),)}, phase)
        for framing in FRAMINGS
        for phase in (FaultPhase.NOTHING, FaultPhase.HEADERS)
    ]
    cases += [
        Case(
            "one byte at a time",
            source,
            {**_good(source, FaultPhase.NOTHING), endpoint: (Act(one_byte_at_a_time),)},
        )
        for source, endpoint in (("batch", "start"), ("poll", "start"), ("stages", "one"), ("stages", "two"))
    ]
    strikes = tuple(itertools.repeat(Act(status(b"500 Oh"), None, FaultPhase.NOTHING), STRIKES - 1))
    job = {"start": (Act(accepts),), "job": (Act(working(1)), Act(working(2)), Act(done))}
    cases.append(Case("a job", "job", {**job, "result": (Act(whole()),)}))
    cases.append(
        Case(
            "two looks fail and the third is fine",
            "poll",
            {"start": (Act(after_the_content),), "details": (Act(rows(0)), *strikes, Act(rows(1)))},
        )
    )
    return cases


def upstream_faults() -> list[Case]:
    """Everything but refused connections."""
    cases = [case for source in ("batch", "poll", "stages") for case in _call_cases(source)]
    return [*cases, *_sentences(), *_look_cases(), *_job_cases()]


def refusals() -> list[Case]:
    """Connections are refused: no byte has reached the upstream, so any call may be sent again."""
    cases = []
    for phase, replay, times in itertools.product(
        (FaultPhase.NOTHING, FaultPhase.HEADERS), ("never", "safe"), (1, 2, 3)
    ):
        for source, endpoint, before in (
            ("batch", "start", ()),
            ("poll", "start", (False,)),
            ("stages", "one", ()),
        ):
            gone = {endpoint: 0, "two": 0} if times == ATTEMPTS else {}
            cases.append(
                Case(
                    f"refused {times} times",
                    source,
                    {name: tuple(map(_closing, acts)) for name, acts in _good(source, phase).items()},
                    phase,
                    replay,
                    answer_exists=times < ATTEMPTS,
                    calls=gone,
                    ends=(Fault.CONNECT, 502),
                    refusals=(*before, *(True,) * times),
                )
            )
    for replay, times in itertools.product(("never", "safe"), (1, 2, 3)):
        cases.append(
            Case(
                f"refused {times} times",
                "stages",
                {"one": (Act(closing),), "two": (Act(closing),)},
                FaultPhase.CONTENT,
                replay,
                answer_exists=times < ATTEMPTS,
                calls={"two": 0} if times == ATTEMPTS else {},
                ends=(Fault.CONNECT, 502),
                refusals=(False, *(True,) * times),
            )
        )
    return cases


def _closing(act: Act) -> Act:
    return replace(act, play=closing)


# Truncation


def cut_calls(framing: str, replay: str, body: bytes, end_of_first_text: int) -> Iterator[Case]:
    """The batch answer, cut at every byte."""
    whole_too = framing == "chunked"  # without its last chunk it is cut, though no byte of text is missing
    for at in range(len(body) + whole_too):
        told = FaultPhase.CONTENT if at >= end_of_first_text else FaultPhase.NOTHING
        act = Act(told_in(cut_at(at, framing), told), Fault.TRUNCATED)
        yield Case(
            f"cut at {at} ({framing})",
            "batch",
            {"start": (act, Act(whole()))},
            FaultPhase.NOTHING,
            replay,
            answer_exists=replay == "safe",
            calls={"start": 2 if replay == "safe" else 1},
            ends=(Fault.TRUNCATED, 502),
        )


def cut_stages(endpoint: str, framing: str, body: bytes) -> Iterator[Case]:
    """One stage's answer, cut at every byte, and fine the second time."""
    phase = FaultPhase.CONTENT if endpoint == "two" else FaultPhase.NOTHING
    for at in range(len(body)):
        bad = Act(cut_at(at, framing), Fault.TRUNCATED, phase)
        acts = {**_good("stages", phase), endpoint: (bad, Act(whole()))}
        yield Case(f"{endpoint} cut at {at} ({framing})", "stages", acts, phase, "safe", calls={endpoint: 2})


def cut_looks(framing: str, body: bytes) -> Iterator[Case]:
    """The polled document, cut at every byte before the call, which is not touched by it."""
    for at in range(len(body)):
        look = Act(cut_at(at, framing), Fault.SOURCE_LOST)
        yield Case(f"a look cut at {at} ({framing})", "poll", {"start": (Act(whole()),), "details": (look,)})
