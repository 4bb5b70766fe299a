"""The rollout, as its controller's metrics show it. It is asked while somebody looks at the page."""

import asyncio
from collections.abc import Iterable, Mapping
from time import monotonic, time
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

EVERY_S, TIMEOUT_S = 5.0, 3.0
"""The least seconds between two questions to a controller, and the most seconds for one."""

MOST_BYTES = 256 * 1024

PREFIX = "headgate_rollout_"


class ControllerPage:
    """The page of the controller at an address. Nothing is fetched unless somebody asks. Not for two at once.

    Args:
        url: `http://HOST:PORT`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._at_s = -EVERY_S
        self._last: dict[str, Any] | None = None
        self._lock = asyncio.Lock()

    async def shown(self) -> dict[str, Any] | None:
        """The rollout as it was at `asked_at` (Unix time), or `problem` why it cannot be seen; None if there
        is none."""
        async with self._lock:
            if monotonic() - self._at_s >= EVERY_S:
                self._last = await self._asked(self._url)
                self._at_s = monotonic()
            return self._last

    async def _asked(self, url: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                # It speaks plain HTTP; a context of TLS would take the loop 20 ms to make.
                async with httpx.AsyncClient(verify=False, trust_env=False) as client:
                    text = await _read(client, f"{url}/metrics")
            return {**rollout_of(text), "asked_at": time()}
        except (httpx.HTTPError, TimeoutError, ValueError) as exc:
            return {"problem": f"the controller does not answer: {type(exc).__name__}"}


async def _read(client: httpx.AsyncClient, url: str) -> str:
    body = bytearray()
    async with client.stream("GET", url) as response:
        response.raise_for_status()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MOST_BYTES:
                raise ValueError("too long")
    return body.decode()


def rollout_of(page: str) -> dict[str, Any]:
    """Return what a page of a controller's metrics says. Raises ValueError if it is none."""
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(page):
        if family.name.startswith(PREFIX):
            found[family.name.removeprefix(PREFIX)] = family.samples
    if not found:
        raise ValueError("no metrics of a controller")
    info = found["info"][0].labels if found.get("info") else {}
    return {
        "run": info.get("run", ""),
        "flag": info.get("flag", ""),
        "mode": info.get("mode", ""),
        **{name: _chosen(found.get(name, ()), name) for name in ("phase", "move", "reason")},
        **{name: _value(found.get(name, ())) for name in ("step", "steps", "not_in_force")},
        "last_look_at": _value(found.get("last_look_timestamp_seconds", ())),
        "look_every_s": _value(found.get("look_interval_seconds", ())),
        "share": {sample.labels["kind"]: sample.value for sample in found.get("share_percent", ())},
        "guardrails": _guardrails(found),
    }


def _guardrails(found: Mapping[str, list[Sample]]) -> list[dict[str, Any]]:
    samples = {each.labels["guardrail"]: each.value for each in found.get("samples", ())}
    needed = {each.labels["guardrail"]: each.value for each in found.get("samples_needed", ())}
    return [
        {
            "name": each.labels["guardrail"],
            "finding": each.labels["finding"],
            "samples": samples.get(each.labels["guardrail"]),
            "needed": needed.get(each.labels["guardrail"]),
        }
        for each in found.get("finding", ())
        if each.value == 1
    ]


def _chosen(samples: Iterable[Sample], label: str) -> str:
    return next((sample.labels[label] for sample in samples if sample.value == 1), "")


def _value(samples: Iterable[Sample]) -> float | None:
    return next((sample.value for sample in samples), None)
