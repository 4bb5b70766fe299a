"""A server of Ollama's shape in front of llama.cpp's, as Ollama is one: `/api/chat`, as NDJSON or whole."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.servers.scripted import Asked, ScriptedUpstream

Json = dict[str, Any]


class OllamaServer:
    """Counts what it was asked for, as streams and as batch.

    Args:
        llama_url: of llama.cpp's server.
    """

    def __init__(self, llama_url: str) -> None:
        self.upstream = ScriptedUpstream(self._answer)
        self.streams: list[bool] = []
        self._llama_url = llama_url

    async def _answer(self, asked: Asked) -> None:
        call = json.loads(await asked.read_body())
        is_stream = call.get("stream") is not False
        self.streams.append(is_stream)
        lines = [line async for line in self._lines(call)]
        if not is_stream:
            text = "".join(line["message"]["content"] for line in lines)
            await asked.answer(json.dumps(lines[-1] | {"message": _said(text)}).encode())
            return
        await asked.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for line in lines:
            data = json.dumps(line).encode() + b"\n"
            await asked.send(b"%x\r\n%b\r\n" % (len(data), data))
        await asked.send(b"0\r\n\r\n")

    async def _lines(self, call: Json) -> AsyncIterator[Json]:
        """The model's words, and at the end why it stopped, and what was counted."""
        options = call.get("options") or {}
        asked = {"messages": call["messages"], "max_tokens": options.get("num_predict", 24), "stream": True}
        asked |= {name: options[name] for name in ("temperature", "seed") if name in options}
        asked["stream_options"] = {"include_usage": True}
        common = {"model": call["model"], "created_at": "2026-01-01T00:00:00Z"}
        reason, used = "stop", {"prompt_tokens": 0, "completion_tokens": 0}
        url = f"{self._llama_url}/v1/chat/completions"
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as client,
            client.stream("POST", url, json=asked) as answer,
        ):
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                used = chunk.get("usage") or used
                for choice in chunk["choices"]:
                    reason = choice["finish_reason"] or reason
                    if text := choice["delta"].get("content"):
                        yield common | {"message": _said(text), "done": False}
        counts = {"prompt_eval_count": used["prompt_tokens"], "eval_count": used["completion_tokens"]}
        yield common | {"message": _said(""), "done": True, "done_reason": reason} | counts


def _said(text: str) -> Json:
    return {"role": "assistant", "content": text}
