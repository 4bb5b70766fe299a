"""Invariants, which hold whatever has happened: pure checks of what was seen. Each returns what is wrong."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from proxy.errors import Fault
from proxy.observe.labels import FaultPhase
from tests.faults.upstream import SENTENCE, Round
from tests.faults.viewers import TERMINAL, Saw

Counts = Counter[tuple[str, ...]]


def shown(events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what these events leave on the screen, stage by stage."""
    texts: dict[str, str] = {}
    for event in events:
        match event["type"]:
            case "stage_start":
                texts.setdefault(event["stage"], "")
            case "content_chunk":
                texts[event["stage"]] = texts.get(event["stage"], "") + event["content"]
            case "content_replace":
                texts[event["stage"]] = event["content"]
    return texts


def of_a_log(events: Sequence[Mapping[str, Any]], run: str) -> list[str]:
    """All events of one run, from the first: in order, and at most one terminal, at the end.

    A viewer that is behind gets chunks of a stage as one, with the id and the index of the last: only there
    may an id be left out.
    """
    wrong = []
    seq = 0
    chunks: dict[str, int] = {}
    for event in events:
        stage, skipped = event["stage"], (event["seq"] or 0) - seq - 1
        if event["run"] != run or skipped < 0 or (skipped and event["type"] != "content_chunk"):
            wrong.append(f"the id {event['run']}:{event['seq']} ({event['type']}) after {run}:{seq}")
        if event["type"] == "content_chunk":
            index = event["metadata"]["chunk_index"]
            if index != chunks.get(stage, 0) + skipped:
                wrong.append(
                    f"chunk {index} of {stage}, {skipped} ids left out, after {chunks.get(stage, 0)} chunks"
                )
            chunks[stage] = index + 1
        seq = event["seq"] or seq
    if any(event["type"] in TERMINAL for event in events[:-1]):
        wrong.append("a terminal event that is not the last")
    return wrong + _of_the_stages(events)


def _of_the_stages(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each begins once and ends once, with the digest of its text."""
    wrong = []
    open_stages: set[str] = set()
    begun: set[str] = set()
    for at, event in enumerate(events):
        stage = event["stage"]
        match event["type"]:
            case "stage_start":
                if stage in begun:
                    wrong.append(f"{stage} begins twice")
                open_stages.add(stage)
                begun.add(stage)
            case "content_chunk":
                if stage not in open_stages:
                    wrong.append(f"text of {stage}, which is not open")
            case "stage_complete":
                if stage not in open_stages:
                    wrong.append(f"{stage} ends without a beginning")
                open_stages.discard(stage)
                text = shown(events[:at]).get(stage, "")
                if event["metadata"]["sha256"] != hashlib.sha256(text.encode()).hexdigest():
                    wrong.append(f"the digest of {stage} is another text's")
    return wrong


def of_an_end(saw: Saw, events: Sequence[Mapping[str, Any]], round_: Round) -> list[str]:
    """One ending, the true one: `events` are all that this run's viewer had, over all its connections."""
    if not saw.is_stream:
        return _of_a_status(saw, round_)
    wrong = of_a_log(events, round_.run)
    terminal = events[-1] if events else None
    if terminal is None or terminal["type"] not in TERMINAL:
        return [*wrong, f"the stream ended without a terminal event: {events[-1:]}"]
    if not saw.is_clean:
        wrong.append("the stream was cut after its terminal event")
    if any(SENTENCE[:16] in text for text in shown(events).values()):
        wrong.append("an error sentence was shown")
    if terminal["type"] == "stream_done":
        return wrong + _of_a_whole(events, terminal["metadata"], round_)
    return wrong + _of_a_failure(events, terminal["metadata"], round_)


def _of_a_whole(events: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any], round_: Round) -> list[str]:
    wrong = []
    if shown(events) != round_.texts:
        wrong.append(f"`stream_done`, but the text is {shown(events)} and not {round_.texts}")
    result = metadata["result"]
    exact = round_.case.source == "stages" or result.encode() == round_.body()
    if not exact or json.loads(result) != json.loads(round_.body()):
        wrong.append("`result` is not the batch answer")
    if metadata["sha256"] != hashlib.sha256(result.encode()).hexdigest():
        wrong.append("`sha256` is not that of `result`")
    if metadata["status"] != 200 or metadata["source"] != round_.case.source:
        wrong.append(f"the end says {metadata['status']}, {metadata['source']}")
    if metadata["recovered"] is not bool(round_.injected):
        wrong.append(f"`recovered` is {metadata['recovered']} after {round_.injected}")
    return wrong


def _of_a_failure(
    events: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any], round_: Round
) -> list[str]:
    wrong = []
    texts = shown(events)
    has_content = any(event["type"] == "content_chunk" for event in events)
    if metadata["partial"] is not has_content:
        wrong.append(f"`partial` is {metadata['partial']} with the text {texts}")
    if not all(round_.texts[stage].startswith(text) for stage, text in texts.items()):
        wrong.append(f"not the beginning of the batch text: {texts}")
    if not round_.injected and not round_.is_cancelled:
        wrong.append(f"an error of nobody's: {metadata}")
    return wrong


def _of_a_status(saw: Saw, round_: Round) -> list[str]:
    """An answer instead of a stream: a failure's own status, before anything was shown."""
    if not saw.is_clean:
        return [f"the answer {saw.status} was cut"]
    if saw.status < 300:
        return [f"a {saw.status} that is no stream, for a client that takes nothing else"]
    try:
        json.loads(saw.body)
    except ValueError:
        return [f"the answer {saw.status} is no JSON: {saw.body[:80]!r}"]
    return []


def has_answer(events: Sequence[Mapping[str, Any]], round_: Round) -> bool:
    """True if the complete and correct answer was delivered."""
    ends = [event["type"] for event in events if event["type"] in TERMINAL]
    return ends == ["stream_done"] and shown(events) == round_.texts


def of_the_outcome(saw: Saw, events: Sequence[Mapping[str, Any]], round_: Round) -> list[str]:
    """Check what the design promises for this case: the answer, or the failure's own words."""
    case = round_.case
    if case.answer_exists:
        told = saw.status if not events else events[-1]["metadata"].get("error_code", "no error")
        return [] if has_answer(events, round_) else [f"an answer existed and was not delivered: {told}"]
    code, status = case.ends
    if not saw.is_stream:
        told = [] if saw.status == status else [f"{saw.status} instead of {status}"]
        if case.phase is not FaultPhase.NOTHING:
            told.append("a status of its own after the headers")
        return told
    metadata = events[-1]["metadata"] if events else {}
    ended = (metadata.get("error_code"), metadata.get("status"))
    return [] if ended == (code, status) else [f"ended with {ended} instead of {(code, status)}"]


def of_the_calls(round_: Round, *, exactly: bool = True) -> list[str]:
    """No call more than the policy allows; and where nobody left, none less."""
    wrong = []
    for endpoint in sorted(round_.case.main):
        made, allowed = round_.calls[endpoint], round_.case.allowed(endpoint)
        if made > allowed or (exactly and made != allowed):
            wrong.append(f"{made} calls of {endpoint}, where the policy has {allowed}")
    return wrong


def of_the_log(round_: Round) -> list[str]:
    """A lost source is said once."""
    lost = any(fault is Fault.SOURCE_LOST for fault, _ in round_.injected)
    if round_.losses_logged != int(lost):
        return [f"a lost source was logged {round_.losses_logged} times, not {int(lost)}"]
    return []


def counted(round_: Round, *, complete: bool) -> tuple[Counts, Counts]:
    """Return the counts of a round: `faults`, by fault and phase, and `recoveries`, by fault and result."""
    route = round_.case.route
    faults = Counter((route, str(fault), str(phase)) for fault, phase in round_.injected)
    without_live_text = any(
        fault is Fault.SOURCE_LOST and phase is not FaultPhase.CONTENT for fault, phase in round_.injected
    )
    result = ("fell_back" if without_live_text else "recovered") if complete else "failed"
    recoveries = Counter((route, str(fault), result) for fault in {fault for fault, _ in round_.injected})
    return faults, recoveries


def of_metrics(name: str, expected: Counts, found: Counts) -> list[str]:
    """Every label set, also those that must not have moved."""
    return [
        f"{name}{{{', '.join(key)}}} is {found[key]}, and {expected[key]} were injected"
        for key in sorted(expected.keys() | found.keys())
        if expected[key] != found[key]
    ]
