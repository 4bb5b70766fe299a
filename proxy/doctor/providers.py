"""The providers of language models: are they there, and does a stream of theirs make their batch answer?

`reach` asks `GET /` alone, without a credential. `compare` makes two calls of one token, which cost.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from flags.egress import Egress
from proxy.doctor.findings.asking import Headers, NoAnswer, Reply, ask, client, trusting
from proxy.doctor.findings.diagnosis import Diagnosis, fail, ok, skipped, warn
from proxy.llm.assembly.dialect import ProviderFailed, Unfaithful
from proxy.llm.dialects.apis import APIS
from proxy.llm.stream_events import StreamEvents
from proxy.settings.blocks.upstream import ProviderSettings

MODEL_S = 60.0
"""The most seconds for one call of a few tokens: a model may have to be loaded."""

TOKENS = 1


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that asks a provider of one `api` for a few tokens."""

    path: str
    body: Callable[[str], Mapping[str, Any]]
    credential: Callable[[str], Headers]


def _bearer(key: str) -> Headers:
    return (("authorization", f"Bearer {key}"),)


_HELLO = [{"role": "user", "content": "Say hello."}]

_CALLS: Mapping[str, _Call] = {
    "openai": _Call(
        "/v1/chat/completions",
        lambda model: {"model": model, "messages": _HELLO, "max_tokens": TOKENS},
        _bearer,
    ),
    "anthropic": _Call(
        "/v1/messages",
        lambda model: {"model": model, "messages": _HELLO, "max_tokens": TOKENS},
        lambda key: (("x-api-key", key), ("anthropic-version", "2023-06-01")),
    ),
    "gemini": _Call(
        "/v1beta/models/{model}:generateContent",
        lambda model: {
            "contents": [{"role": "user", "parts": [{"text": "Say hello."}]}],
            "generationConfig": {"maxOutputTokens": TOKENS},
        },
        lambda key: (("x-goog-api-key", key),),
    ),
    "ollama": _Call(
        "/api/chat",
        lambda model: {
            "model": model,
            "messages": _HELLO,
            "stream": False,
            "options": {"num_predict": TOKENS},
        },
        _bearer,
    ),
    "cohere": _Call(
        "/v2/chat",
        lambda model: {"model": model, "messages": _HELLO, "max_tokens": TOKENS},
        _bearer,
    ),
}


async def reach(provider: ProviderSettings, ways: Egress, *, strict: bool) -> Diagnosis:
    """Ask a provider for anything at all.

    Args:
        provider: as the settings have it.
        ways: to it, straight or through a proxy.
        strict: see `tls.strict`.
    """
    check = f"provider {provider.name}"
    through = ways.through(provider.url)
    try:
        async with _client(provider, ways, strict=strict) as asking:
            reply = await ask(asking, f"{provider.url}/")
    except NoAnswer as exc:
        advice = "Open the way from here to this address and port, or mend its url or tls.ca_file."
        if through:
            advice = "See whether the proxy lets this machine go there, or name the provider in NO_PROXY."
        return fail(check, f"does not answer{through}: {exc}", advice)
    return ok(check, f"answers {reply.status} to GET /{through} after {reply.took_s * 1000:.0f} ms")


def _client(
    provider: ProviderSettings, ways: Egress, *, strict: bool
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    is_tls = provider.url.startswith("https:")
    tls = trusting(provider.tls.ca_file, strict=strict, verify=provider.tls.verify) if is_tls else None
    return client(tls, ways.proxy_for(provider.url))


async def compare(
    provider: ProviderSettings, ways: Egress, model: str, key: str, *, strict: bool
) -> Diagnosis:
    """Ask for the same few tokens as a batch and as a stream, as the model port would.

    Args:
        provider: as the settings have it.
        ways: to it, straight or through a proxy.
        model: its name there.
        key: the credential; "" for none.
        strict: see `tls.strict`.
    """
    check = f"model of {provider.name}"
    call = _CALLS.get(provider.api)
    if call is None:
        return skipped(
            check,
            "its calls are signed, and are not made here",
            "--route sends a request whose calls the upstream makes.",
        )
    path = call.path.format(model=model)
    body = json.dumps(call.body(model)).encode()
    headers = (("content-type", "application/json"), *(call.credential(key) if key else ()))
    dialects = APIS[provider.api](urlsplit(provider.url).hostname or "")
    dialect = next(each for each in dialects if each.is_call("POST", path.encode()))
    stream = dialect.as_stream("POST", path.encode(), body)
    assert stream is not None, "a call for text"
    try:
        async with _client(provider, ways, strict=strict) as asking:
            batch = await _post(asking, provider.url + path, headers, body)
            if batch.status != 200:
                return _refused(check, "the batch call", batch)
            target = provider.url + stream.target.decode()
            streamed = await _post(asking, target, headers, stream.body)
            if streamed.status != 200:
                return _refused(check, "the stream", streamed)
    except NoAnswer as exc:
        return fail(check, f"does not answer: {exc}", "See that the way there bears streams, too.")
    assembler = dialect.assembler(stream.choices)
    events = StreamEvents(dialect.media_type)
    try:
        for event in events.feed(streamed.body):
            assembler.feed(event)
        answer = assembler.answer() if assembler.is_complete else b""
    except Unfaithful as exc:
        return _unlike(check, str(exc))
    except ProviderFailed as exc:
        return fail(check, f"its stream says {exc.status}", "See what the provider says of streams of it.")
    if not answer:
        return _unlike(check, f"its stream ({streamed.headers.get('content-type', 'no type')}) is not whole")
    return alike(check, batch.body, answer)


async def _post(asking: httpx.AsyncClient, url: str, headers: Headers, body: bytes) -> Reply:
    return await ask(asking, url, method="POST", headers=headers, body=body, within_s=MODEL_S)


def _refused(check: str, what: str, reply: Reply) -> Diagnosis:
    advice = {
        401: "Set HEADGATE_PROBE_KEY to a key of this provider.",
        403: "Set HEADGATE_PROBE_KEY to a key that may use this model.",
        404: "See that the provider has this model, at this address.",
        429: "Wait, and look again.",
    }
    return fail(
        check,
        f"{what} is answered with {reply.status}",
        advice.get(reply.status, "See what the provider says of this status."),
    )


def _unlike(check: str, why: str) -> Diagnosis:
    return warn(
        check,
        f"no batch answer can be made of its stream: {why}",
        "Calls of this model go through as batch, and show no live text; the model port remembers it.",
    )


def alike(check: str, batch: bytes, made: bytes) -> Diagnosis:
    """Compare the fields of both answers, which must be the same; texts, ids and times may differ."""
    try:
        missing = sorted(_fields(json.loads(batch)) - _fields(json.loads(made)))
    except ValueError:
        return fail(check, "the batch answer is no JSON", "See that the address is the provider's API.")
    if not missing:
        return ok(check, "a stream of it makes its batch answer")
    return warn(
        check,
        f"the answer made of its stream lacks {', '.join(missing[:10])}",
        "If the upstream reads these fields, leave this provider out of tap.calls.",
    )


def _fields(value: Any, path: str = "") -> set[str]:
    """The paths of all fields that have a value; list items share theirs."""
    if isinstance(value, dict):
        found = {
            f"{path}.{name}".lstrip(".") for name, each in value.items() if each not in (None, [], {}, "")
        }
        return found.union(*(_fields(each, f"{path}.{name}") for name, each in value.items()))
    if isinstance(value, list):
        return set().union(*(_fields(each, path) for each in value))
    return set()
