"""An answer of Gemini's is put together again, however it is cut into a stream."""

import base64
import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.llm.assembly.dialect import ProviderFailed, Unfaithful
from proxy.llm.dialects.gemini import answer as gemini
from proxy.llm.dialects.gemini.calls import Gemini
from tests.llm.gemini_events import GROUNDING, HEAD, REPEATED, USAGE, Json, assembled

base64s = st.binary(min_size=1, max_size=8).map(lambda raw: base64.b64encode(raw).decode())
scalars = st.none() | st.booleans() | st.integers(1 - 10**18, 10**18 - 1) | st.text(max_size=5)
values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
calls = st.fixed_dictionaries(
    {"name": st.text()}, optional={"args": st.dictionaries(st.text(), values, max_size=3)}
)
whole = (
    calls.map(lambda call: {"functionCall": call})
    | base64s.map(lambda data: {"inlineData": {"mimeType": "image/png", "data": data}})
    | st.text().map(lambda code: {"executableCode": {"language": "PYTHON", "code": code}})
    | st.text().map(lambda output: {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": output}})
)
texts = st.fixed_dictionaries(
    {"text": st.text(min_size=1, max_size=20)},
    optional={"thought": st.just(True), "thoughtSignature": base64s},
)
usages = st.fixed_dictionaries({}, optional=dict.fromkeys(USAGE, st.integers(0, 10**6)))


def kind(part: Json) -> str:
    """Parts of these kinds that follow one another are not told apart in a stream."""
    for name in ("executableCode", "codeExecutionResult"):
        if name in part:
            return name
    return f"text {part.get('thought', False)}" if "text" in part else ""


@st.composite
def batch_candidates(draw: st.DrawFn, index: int) -> Json:
    """A candidate as the batch answer has it."""
    parts: list[Json] = []
    for part in draw(st.lists(whole | texts, max_size=5)):
        if not parts or not kind(part) or kind(part) != kind(parts[-1]):
            parts.append(part)
    said = REPEATED | {"groundingMetadata": GROUNDING}
    chosen = draw(st.lists(st.sampled_from(sorted(said)), unique=True))
    content = {"role": "model", "parts": parts} if parts else {"role": "model"}
    reason = draw(st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY"]))
    return {"content": content, "finishReason": reason, "index": index} | {
        name: said[name] for name in chosen
    }


@st.composite
def pieces(draw: st.DrawFn, part: Json) -> list[Json]:
    """A part as a stream has it: a text in pieces, whose first or last is signed, or one that is empty."""
    if "text" not in part:
        return [part]
    text, signature = part["text"], part.get("thoughtSignature")
    unsigned = {name: value for name, value in part.items() if name != "thoughtSignature"}
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)) | {0, len(text)})
    found = [unsigned | {"text": text[start:end]} for start, end in pairwise(cuts)]
    if signature is not None:
        found += [unsigned | {"text": ""}] if draw(st.booleans()) else []
        found[draw(st.sampled_from([0, -1]))]["thoughtSignature"] = signature
    return found


@st.composite
def streams_of(draw: st.DrawFn, candidate: Json) -> list[Json]:
    """Its events: each piece of its parts in one, the rest in any of them, or in several."""
    contents: list[Json] = [
        {"role": "model", "parts": [piece]}
        for part in candidate["content"].get("parts", [])
        for piece in draw(pieces(part))
    ]
    if contents:
        empty = [{"role": "model", "parts": [{"text": ""}]}]
        contents = empty * draw(st.integers(0, 1)) + contents + empty * draw(st.integers(0, 1))
    index = candidate["index"]
    events: list[Json] = [{"content": each, "index": index} for each in contents or [{"role": "model"}]]
    for name in candidate.keys() - {"content", "index", "finishReason"}:
        for at in draw(st.sets(st.integers(0, len(events) - 1), min_size=1, max_size=2)):
            events[at][name] = candidate[name]
    events[-1]["finishReason"] = candidate["finishReason"]
    return events


@given(data=st.data())
def test_however_a_batch_answer_is_cut_into_a_stream_it_is_made_of_it_again(data: st.DataObject) -> None:
    """Any answer of what can be joined, its candidates in any interleaving; and Google's client reads it."""
    count = data.draw(st.integers(1, 3))
    batch = [data.draw(batch_candidates(index)) for index in range(count)]
    usage = data.draw(usages)
    streams = [data.draw(streams_of(candidate)) for candidate in batch]
    events: list[Json] = []
    while any(streams):
        stream = data.draw(st.sampled_from([stream for stream in streams if stream]))
        events.append({"candidates": [stream.pop(0)], "usageMetadata": data.draw(usages)} | HEAD)
    events[-1]["usageMetadata"] = usage

    answer, shown = assembled(*events)

    assert answer == {"candidates": batch, "usageMetadata": usage} | HEAD
    said = batch[0]["content"].get("parts", [])
    assert shown == "".join(part.get("text", "") for part in said if not part.get("thought"))


names = st.sampled_from(
    [*gemini.RESPONSE, *gemini.CANDIDATE, *gemini.TEXT_PART, *gemini.WHOLE_PARTS, "parts", "blockReason"]
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
candidates_of_anything = st.lists(
    st.dictionaries(st.sampled_from([*gemini.CANDIDATE]), anything, max_size=4)
    | st.fixed_dictionaries({"content": st.fixed_dictionaries({"parts": st.lists(anything, max_size=3)})}),
    max_size=2,
)


@given(st.lists(anything | st.fixed_dictionaries({"candidates": candidates_of_anything}), max_size=4))
def test_whatever_comes_is_joined_or_refused(events: list[Any]) -> None:
    assembler = Gemini().assembler()
    try:
        for each in events:
            assembler.feed(json.dumps(each))
            assert assembler.is_complete in (True, False)
        json.loads(assembler.answer())
    except (Unfaithful, ProviderFailed):
        pass
