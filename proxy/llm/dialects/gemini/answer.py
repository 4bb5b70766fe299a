"""A stream of Google's generateContent as the batch answer that it stands for. No I/O.

Every event of the stream is a GenerateContentResponse of its own. They are joined by tables, one for each
level, that name every field and how it joins; a field that no table names makes the stream unfaithful.
Sources: Google's API reference, "GenerateContentResponse"; its guide "Thought signatures"; and its own two
joiners of streams, `_join_chunks` of generative-ai-python and `aggregateResponses` of the Vertex AI SDK for
Node. Where those two differ, a field joins only if it comes once, or the same each time.

* A batch answer has each text in one part. So pieces of one kind (thought or not) that follow one another are
  one text; every other part comes whole.
* Google's JSON is indented and ours is not: both are the same value, and a client parses it.
* Vertex AI has `avgLogprobs` in some batch answers and not in their streams: they are then not in ours.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.llm.assembly.dialect import AbnormalFinish, ProviderFailed, Unfaithful
from proxy.llm.assembly.joins import MAX_ANSWER_CHARS, Join, Text, check_texts, last
from proxy.llm.assembly.json_values import as_list, as_object, as_text, as_word, parsed, serialized, shown
from proxy.llm.assembly.kept_fields import KeptFields
from proxy.llm.dialects.gemini.arguments import check_calls, has_pieces, join_pieces

MAX_CANDIDATES = 8
"""`candidateCount` of the API."""

COMPACT = (",", ":")
"""The separators of the answer's JSON."""

HARMLESS_FINISHES = frozenset({"STOP", "MAX_TOKENS"})
"""Reasons to finish after which the batch answer has the stream's text. After all others, most of them about
safety or a failed call, the batch answer may have no text, or another one."""


def same(so_far: Any, new: Any) -> Any:
    """The field comes once, or again unchanged."""
    if so_far is not None and so_far != new:
        raise Unfaithful("a field comes again, and differs")
    return new


def ambiguous(_: Any, new: Any) -> Any:
    """No source says whether the field is about the event or about the answer so far."""
    raise Unfaithful("a field is about a part of the answer, or about all of it")


def fields(table: Mapping[str, Join]) -> Join:
    """Joins objects, field by field, as a table says."""

    def join(so_far: dict[str, Any] | None, new: Any) -> dict[str, Any]:
        return _joined(table, {} if so_far is None else so_far, new)

    return join


def _joined(
    table: Mapping[str, Join], so_far: dict[str, Any], new: Any, unknown: KeptFields | None = None
) -> dict[str, Any]:
    """`so_far` with an event's fields; `unknown` takes those that the table does not name."""
    for name, value in as_object(new).items():
        join = table.get(name)
        if value is None or (join is None and unknown is None):
            raise Unfaithful("an event has a field that is not known")
        if join is not None:
            so_far[name] = join(so_far.get(name), value)
        elif unknown is not None:
            unknown.take(name, value)
    return so_far


def parts(so_far: list[Any] | None, new: Any) -> list[Any]:
    """Pieces of text are joined; every other part comes whole."""
    so_far = [] if so_far is None else so_far
    for place, part in enumerate(as_list(new)):
        if as_object(part).keys() <= TEXT_PART:
            _join_text(so_far, part, is_beside=place > 0)
        else:
            _join_whole(so_far, part)
    return so_far


def ratings(so_far: list[Any] | None, new: Any) -> list[Any]:
    """Each event has the ratings of the answer so far, of the same categories. Both of Google's joiners take
    the last ones, and one that was blocked stays blocked."""
    categories = [as_object(rating).get("category") for rating in as_list(new)]
    before = [] if so_far is None else so_far
    if so_far is not None and [rating.get("category") for rating in before] != categories:
        raise Unfaithful("a field comes again, and differs")
    blocked = [rating.get("category") for rating in before if rating.get("blocked")]
    return [rating | {"blocked": True} if rating.get("category") in blocked else rating for rating in new]


def supports(so_far: Any, new: Any) -> Any:
    """A segment numbers the parts of the batch answer, and a stream has other parts: refused beyond part
    0."""
    if any(as_object(as_object(support).get("segment", {})).get("partIndex") for support in as_list(new)):
        raise Unfaithful("a source is of a part that may have another number")
    return same(so_far, new)


TEXT_PART = frozenset({"text", "thought", "thoughtSignature"})
"""Gemini 2.5 signs the first piece of a text, Gemini 3 the last, which is then empty or only signed. The
batch answer has the signature in the one part that the text is."""

WHOLE_PARTS: Mapping[str, frozenset[str]] = {
    "functionCall": frozenset({"id", "name", "args"}),  # in pieces it has `partialArgs` and `willContinue`
    "inlineData": frozenset({"mimeType", "data", "displayName"}),
    "executableCode": frozenset({"id", "language", "code"}),
    "codeExecutionResult": frozenset({"id", "outcome", "output"}),
    "toolCall": frozenset({"id", "toolType", "args"}),
    "toolResponse": frozenset({"id", "toolType", "response"}),
    "fileData": frozenset({"mimeType", "fileUri", "displayName"}),
}

CODE = frozenset({"executableCode", "codeExecutionResult"})
"""Two of a kind in a row are one part for Google's joiner in Python, and two for the one in Node."""

GROUNDING: Mapping[str, Join] = {
    "groundingChunks": same,
    "groundingSupports": supports,
    "webSearchQueries": same,
    "imageSearchQueries": same,
    "retrievalQueries": same,
    "searchEntryPoint": same,
    "retrievalMetadata": same,
    "sourceFlaggingUris": same,
    "googleMapsWidgetContextToken": same,
}

CANDIDATE: Mapping[str, Join] = {
    "index": same,
    "content": fields({"role": same, "parts": parts}),
    "finishReason": same,
    "finishMessage": same,
    "safetyRatings": ratings,
    "citationMetadata": same,
    "groundingMetadata": fields(GROUNDING),
    "urlContextMetadata": same,
    "avgLogprobs": ambiguous,
    "logprobsResult": ambiguous,
    "tokenCount": ambiguous,
    "continuationToken": ambiguous,
}

RESPONSE: Mapping[str, Join] = {
    "promptFeedback": fields({"blockReason": same, "blockReasonMessage": same, "safetyRatings": same}),
    "usageMetadata": last,
    "modelVersion": same,
    "modelStatus": same,
    "responseId": same,
    "createTime": same,
}


class Response:
    """The answer that one stream makes; for `choices` see `Dialect.assembler`."""

    def __init__(self, choices: int | None = None) -> None:
        self._choices = choices
        self.arguments = ""
        self.headers = ()
        self._has_called = False
        self._answer: dict[str, Any] = {}
        self._chars = 0
        self._is_counted = True
        self._candidates: dict[int, dict[str, Any]] = {}
        self._unknown = KeptFields()
        self._unknown_of_candidates: dict[int, KeptFields] = {}

    def feed(self, data: str) -> str:
        """Take one event's data; the text, not of thoughts, that it adds to candidate 0."""
        self._chars += len(data)
        if self._chars > MAX_ANSWER_CHARS:
            raise Unfaithful("the answer is too large")
        event = parsed(data)
        error = event.get("error")
        if error or (error is not None and "candidates" not in event):  # an empty one beside all else is none
            raise ProviderFailed(_status(error), data.encode())
        if event and "candidates" not in event and event.keys().isdisjoint(RESPONSE):
            raise Unfaithful("an event is no chunk")
        if "candidates" in event or "usageMetadata" in event:
            self._is_counted = "usageMetadata" in event
        candidates = as_list(event.pop("candidates", []))
        try:
            self._join(event, candidates)
        except RecursionError:  # two values that are compared
            raise Unfaithful("an event is too deep") from None
        return self._text(candidates)

    def _text(self, candidates: list[dict[str, Any]]) -> str:
        """The text that an event adds to candidate 0; its arguments are in `arguments`."""
        self.arguments, text = "", ""
        for candidate in candidates:
            for part in _parts(candidate) if candidate.get("index", 0) == 0 else ():
                if not part.get("thought"):
                    text += part.get("text", "")
                if "functionCall" in part and not self._has_called:  # the first tool's, which come whole
                    self._has_called = True
                    self.arguments = serialized(part["functionCall"].get("args", {})).decode()
        return shown(text)

    def _join(self, event: dict[str, Any], candidates: list[Any]) -> None:
        self._unknown.events += 1
        _joined(RESPONSE, self._answer, event, self._unknown)
        for candidate in candidates:
            self._join_candidate(as_object(candidate))

    def _join_candidate(self, candidate: dict[str, Any]) -> None:
        """Join a candidate to that of the same index, which Vertex AI leaves out when it is 0."""
        index = candidate.get("index", 0)
        if type(index) is not int or not 0 <= index < MAX_CANDIDATES:
            raise Unfaithful("an index is none")
        so_far = self._candidates.get(index)
        if so_far is None:
            so_far = self._candidates[index] = {}
            self._unknown_of_candidates[index] = KeptFields("candidates[].")
        had_ended = "finishReason" in so_far
        unknown = self._unknown_of_candidates[index]
        unknown.events += 1
        _joined(CANDIDATE, so_far, candidate, unknown)
        if had_ended and any(part.get("text", True) for part in _parts(candidate)):
            raise Unfaithful("an answer goes on after its end")

    @property
    def is_complete(self) -> bool:
        """True if every candidate has its reason to finish, or the prompt is blocked: no event says more."""
        found = self._candidates
        if not found or self._is_blocked:
            return self._is_blocked
        return all("finishReason" in found.get(index, ()) for index in range(max(found) + 1))

    @property
    def is_terminated(self) -> bool:
        """Never: usage may come after every reason to finish."""
        return False

    def answer(self) -> bytes:
        """The GenerateContentResponse as JSON."""
        answer = {**self._answer, **self._unknown.values()}
        if self._candidates:
            answer["candidates"] = [
                candidate | self._unknown_of_candidates[index].values()
                for index, candidate in sorted(self._candidates.items())
            ]
            check_calls(part for each in answer["candidates"] for part in _parts(each))
        if self._choices is not None:
            for candidate in answer.get("candidates", ()):
                check_texts(part.get("text") for part in _parts(candidate))
            self._check_finishes(answer.get("candidates", []), self._choices)
        if self._is_blocked and answer.get("candidates"):
            raise Unfaithful("the prompt was blocked after its answer began")
        is_used = "usageMetadata" in answer
        if (is_used and not self._is_counted) or (not is_used and self._choices is not None):
            raise Unfaithful("the last event does not say what was used")
        return serialized(answer, COMPACT)

    def kept_fields(self) -> Iterator[str]:
        """See `Assembler`."""
        for unknown in (self._unknown, *self._unknown_of_candidates.values()):
            yield from unknown.names()

    def _check_finishes(self, candidates: list[dict[str, Any]], asked: int) -> None:
        """Check that each candidate is there, and has finished as it would have in the batch answer."""
        ratings = [rating for each in candidates for rating in each.get("safetyRatings", ())]
        if (
            self._is_blocked
            or any(as_word(each["finishReason"]) not in HARMLESS_FINISHES for each in candidates)
            or any(isinstance(rating, dict) and rating.get("blocked") for rating in ratings)
        ):
            raise AbnormalFinish("the prompt was blocked, or a candidate was ended before its end")
        if len(candidates) != asked:
            raise Unfaithful("there are more or fewer candidates than were asked for")

    @property
    def _is_blocked(self) -> bool:
        return "blockReason" in self._answer.get("promptFeedback", ())


def _join_text(so_far: list[Any], part: dict[str, Any], *, is_beside: bool) -> None:
    """Join a part to the text before it; `is_beside`: the part before it is of the same event."""
    text, signature = as_text(part.get("text", "")), part.get("thoughtSignature")
    run = so_far[-1] if so_far and so_far[-1].keys() <= TEXT_PART else None
    if run is not None and _is_thought(run) == _is_thought(part):
        if text and is_beside:
            raise Unfaithful("two texts of one event may be one or two")
        run["text"].pieces.append(text)
        if signature is not None:
            run["thoughtSignature"] = same(run.get("thoughtSignature"), signature)
    elif "text" not in part:
        raise Unfaithful("a part has nothing that is known")
    elif text or signature is not None or not so_far:
        _append(so_far, {**part, "text": Text(text)})


def _join_whole(so_far: list[Any], part: dict[str, Any]) -> None:
    kinds = part.keys() - {"thought", "thoughtSignature"}
    if len(kinds) != 1 or not kinds <= WHOLE_PARTS.keys():
        raise Unfaithful("a part has a field that is not known")
    (kind,) = kinds
    if kind == "functionCall" and has_pieces(so_far, as_object(part[kind])):
        join_pieces(so_far, part)
        return
    if not as_object(part[kind]).keys() <= WHOLE_PARTS[kind]:
        raise Unfaithful("a part comes in pieces, or has a field that is not known")
    if so_far and kind in CODE & so_far[-1].keys():
        raise Unfaithful("two parts with code may be one or two")
    if "id" in part[kind] and any(
        kind in each and each[kind].get("id") == part[kind]["id"] for each in so_far
    ):
        raise Unfaithful("a part comes again")
    _append(so_far, part)


def _append(so_far: list[Any], part: dict[str, Any]) -> None:
    """Add a part. An empty text at the start is dropped, as Google's joiner in Node does."""
    if so_far and not so_far[0].get("text", True) and "thoughtSignature" not in so_far[0]:
        so_far.clear()
    so_far.append(part)


def _is_thought(part: Mapping[str, Any]) -> bool:
    return bool(part.get("thought"))


def _parts(candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of an event's candidate, whose types were checked when they were joined."""
    found: list[dict[str, Any]] = candidate.get("content", {}).get("parts", [])
    return found


def _status(error: Any) -> int:
    """The status that an error in a stream would have had."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def is_candidate(found: Any) -> bool:
    """True if a value is a finished candidate of a batch answer."""
    if not isinstance(found, dict) or not isinstance(found.get("finishReason"), str):
        return False
    return bool(found["finishReason"]) and isinstance(found.get("content", {}), dict)
