"""The page about the dialects of the model port, from their tables."""

from collections.abc import Iterable, Iterator, Mapping

from proxy.llm.assembly.kept_fields import MAX_FIELDS
from proxy.llm.dialects import anthropic, cohere, converse_answer, invoked_answer, ollama
from proxy.llm.dialects.apis import APIS, TRIED
from proxy.llm.dialects.gemini import answer as gemini_answer
from proxy.llm.dialects.openai import answer as openai_answer
from proxy.llm.dialects.openai import fields as openai_fields
from proxy.llm.dialects.openai import responses

INTRO = """\
The source `tap` asks a provider for a stream and answers with the batch answer that it stands for. A
**dialect** says how, for one shape of API. `llm.providers[].api` names the shape of a provider; its dialects
are told apart by the path of a call, so that the base URL of any client keeps the provider's own paths. Calls
of other paths are passed on as they came.
"""

RULE = f"""\
A field that no table names is kept as it came if it stands at the top of an event or beside a choice, and
comes in one event only or with the same value in every event; up to {MAX_FIELDS} of one place. The admin port
counts kept fields by name at `/llm`. Any other unknown field is uncertain, and the call is asked again as
batch.
"""

UNTRIED = """\
Recorded streams of these providers were put through the assemblers: whole, cut at every event, and cut at
odd bytes (`python -m tests.recordings FOLDER`). Of 88 streams, 84 made their batch answer or the provider's
own error. Four did not, and such calls are asked again as batch: two of Amazon Bedrock end before their end,
one of Anthropic has a second message in it, and one of Cohere calls a tool without arguments, of which its
batch answer may say `{}`. All other servers of these shapes are read as their
documentation says: OpenRouter, Together, Fireworks, Hugging Face, Snowflake, vLLM, SGLang, LiteLLM
and Ollama have tests with the shapes that they document. The tests run a real llama.cpp server, and the
providers' own packages as a backend's client: for Python `openai`, `anthropic`, `google-genai`, `ollama`,
`cohere`, `mistralai` and `boto3`, and those of the same makers for Node. `headgate check` says it of each
provider in the settings.
"""


def _statuses(found: Mapping[str, int]) -> list[str]:
    return [f"{name} {status}" for name, status in found.items()]


SHAPES: tuple[tuple[str, str, str, Mapping[str, Iterable[str]]], ...] = (
    (
        "OpenAI, chat completions",
        "`…/chat/completions`, and Mistral's `…/agents/completions`",
        "`stream: true`, and `stream_options.include_usage` unless the host is known to refuse it. "
        "Not streamed: `n` over one with `logprobs`, audio, `store`.",
        {
            "a chunk": openai_fields.CHUNK,
            "a choice": openai_fields.CHOICE,
            "a delta": openai_fields.DELTA,
            "a tool's call": openai_fields.TOOL_CALL,
            "not in the batch answer": (
                *openai_fields.ONLY_IN_CHUNKS,
                *openai_fields.ONLY_IN_CHOICES,
                *openai_fields.ONLY_IN_DELTAS,
            ),
            "a harmless end": openai_answer.HARMLESS_FINISHES,
        },
    ),
    (
        "OpenAI, responses",
        "`…/responses`",
        "`stream: true`; OpenAI's own hosts are asked for no padding. The last event has the whole "
        "answer. Not streamed: `background`, `store: true`, `conversation`.",
        {
            "an end": responses.ENDS,
            "shown": responses.SHOWN,
            "an error, with its status": _statuses(responses.STATUSES),
        },
    ),
    (
        "Anthropic, messages",
        "`…/messages`; of Vertex AI `…/publishers/anthropic/models/NAME:rawPredict`",
        "`stream: true`; on Vertex AI `:streamRawPredict`.",
        {
            "an event": anthropic.EVENTS,
            "a delta": anthropic.DELTAS,
            "a harmless end": anthropic.HARMLESS_FINISHES,
            "an error, with its status": _statuses(anthropic.STATUSES),
        },
    ),
    (
        "Gemini, content",
        "`…/models/NAME:generateContent`, and of tuned models `…/tunedModels/NAME:…`, `…/endpoints/NUMBER:…`",
        "`:streamGenerateContent?alt=sse`. Not streamed: several candidates, "
        "other modalities than text, `logprobs`.",
        {
            "an event": gemini_answer.RESPONSE,
            "a candidate": gemini_answer.CANDIDATE,
            "sources": gemini_answer.GROUNDING,
            "a part": [*gemini_answer.TEXT_PART, *gemini_answer.WHOLE_PARTS],
            "a harmless end": gemini_answer.HARMLESS_FINISHES,
        },
    ),
    (
        "Ollama, chat and generate",
        "`…/api/chat`, `…/api/generate`",
        "`stream: true`, as NDJSON. A call that does not say `stream: false` is a stream of its own.",
        {"a line": ollama.LINE, "a message": ollama.MESSAGE, "a harmless end": ollama.HARMLESS_FINISHES},
    ),
    (
        "Cohere, chat",
        "`…/v2/chat`",
        "`stream: true`. Not streamed: `logprobs`.",
        {
            "an event": [
                "message-start",
                *cohere.LISTS,
                "content-delta",
                "tool-plan-delta",
                "tool-call-delta",
                *cohere.IGNORED,
                "message-end",
            ],
            "a harmless end": cohere.HARMLESS_FINISHES,
        },
    ),
    (
        "Bedrock, Converse",
        "`…/model/NAME/converse`",
        "`…/converse-stream`, with the permission `bedrock:InvokeModelWithResponseStream`. "
        "Not streamed: calls with a guardrail. A citation, and what a server's tool adds, is uncertain.",
        {
            "an event": converse_answer.EVENTS,
            "a delta": converse_answer.DELTAS,
            "an end": converse_answer.KNOWN,
            "a harmless end": converse_answer.HARMLESS_FINISHES,
            "an error, with its status": _statuses(converse_answer.STATUSES),
        },
    ),
    (
        "Bedrock, InvokeModel",
        "`…/model/NAME/invoke` with a body of Anthropic's",
        "`…/invoke-with-response-stream`, with the same permission. The events are Anthropic's, each within "
        "one of Amazon's; the figures of the last one are headers of the batch answer. Bodies of other "
        "makers are not streamed.",
        {
            "an event": anthropic.EVENTS,
            "a header": [name.decode() for name in invoked_answer.HEADERS.values()],
        },
    ),
)


def text(note: str) -> str:
    """The whole page."""
    lines = [note, "# Dialects", "", INTRO, "| `api` | dialects |", "| --- | --- |"]
    for api, dialects in APIS.items():
        names = [
            f"{type(each).__module__.removesuffix('.calls').rpartition('.')[2]}" for each in dialects("")
        ]
        lines.append(f"| `{api}` | {', '.join(names)} |")
    lines += ["", RULE]
    for title, paths, asked, tables in SHAPES:
        lines += [
            f"## {title}",
            "",
            f"Calls: {paths}. Asked as a stream: {asked}",
            "",
            "| | fields |",
            "| --- | --- |",
        ]
        lines += [f"| {place} | {', '.join(_sorted(names))} |" for place, names in tables.items()]
        lines.append("")
    lines += [
        "## What was tried",
        "",
        UNTRIED,
        "| provider | hosts | recorded streams of |",
        "| --- | --- | --- |",
    ]
    for provider in TRIED:
        hosts = ", ".join(f"`{host}`" for host in provider.hosts)
        lines.append(f"| {provider.name} | {hosts} | {', '.join(provider.streams)} |")
    return "\n".join(lines) + "\n"


def _sorted(names: Iterable[str]) -> Iterator[str]:
    return (f"`{name}`" for name in sorted(names))
