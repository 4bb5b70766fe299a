"""The time that a reader waits, by source: `python -m tests.waits`. Prints a table, and what a
person sees of a frontend that nobody changed; 1 if a promise is broken.

The sample upstream with its model at the speed of a real one. Every round begins one workflow for each
source, and one that asks the upstream itself, at the same moment: what the others are compared with.
"""

import asyncio
import json
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml
from playwright.async_api import async_playwright
from rich.console import Console
from rich.table import Table

from tests.browser.attached import SEE, FirstText, first_text, house, page_files, until_ready
from tests.browser.frontend import CHROMIUM, visiting
from tests.servers.client import SSE, Stream
from tests.servers.clinic_server import CASE_TEXT, RunningClinic, running_clinic, running_model
from tests.servers.ports import free_port
from tests.servers.streaming import served

EXAMPLE = Path(__file__).parent.parent / "examples" / "clinic" / "headgate.yaml"
DIRECT = "(the upstream)"
STRUCTURED = "tap, of JSON"
"""The tap, before a sample upstream whose model answers in JSON: the text inside it is shown."""
SOURCES = ("batch", "poll", "tap")
"""The sample upstream has no stream of its own, for `native`, and its single-stage calls are not equivalent
to the group, as `stages` would need."""

TIMEOUT_S = 120.0
CONTENT = ("content_chunk", "content_replace")

FIRST_OF_BATCH = {"poll": 0.30, "tap": 0.04, STRUCTURED: 0.04}
"""First text, as a share of the wait for the batch answer: at most this."""
FIRST_ON_THE_SCREEN = 0.05
"""The same from the click, on the screen of a frontend that nobody changed."""
TOTAL_OF_BATCH = 1.02


@dataclass(frozen=True)
class Pace:
    """Of the model."""

    first_token_s: float
    tokens_per_s: float
    tokens: int
    """About as long is each of the four texts."""


REALISTIC = Pace(first_token_s=0.8, tokens_per_s=40, tokens=300)


@dataclass(frozen=True)
class Wait:
    """One reader's, in seconds from the request."""

    first_s: float
    silence_s: float
    """The longest without new text."""
    total_s: float
    is_equal: bool = True
    """True if the texts that were shown are those of the batch answer."""


@asynccontextmanager
async def clinic_and_proxies(
    pace: Pace, sources: Sequence[str]
) -> AsyncIterator[tuple[RunningClinic, dict[str, str]]]:
    """The sample upstream, and the URL of a Headgate for each source before it."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = stack.enter_context(running_model(**vars(pace)))
        tap = {source: free_port() for source in sources if source in ("tap", STRUCTURED)}

        def clinic_of(source: str) -> RunningClinic:
            # The tap's model port, for all that it is asked: only calls of that Headgate's runs are streamed.
            base_url = f"http://127.0.0.1:{tap[source]}/openai/v1"
            environ = {"CLINIC_STRUCTURED": "1" if source == STRUCTURED else "0"}
            # A worker's first call takes a third of a second more, to load its client: a median is of warm
            # ones only where each worker has many readers. This one has a reader a round.
            workers = 1 if source == STRUCTURED else 2
            opening = running_clinic(workers=workers, otel=True, openai_base_url=base_url, environ=environ)
            return stack.enter_context(opening)

        clinic = clinic_of("tap")
        urls = {DIRECT: clinic.url}
        for number, source in enumerate(sources):
            folder = directory / str(number)
            folder.mkdir()
            settings: dict[str, Any] = {"routes": [_route(source)]}
            if source in tap:
                providers = [{"name": "openai", "url": model}]
                settings["llm"] = {"listen": f"127.0.0.1:{tap[source]}", "providers": providers}
            upstream = clinic_of(source) if source == STRUCTURED else clinic
            urls[source] = (await stack.enter_async_context(served(upstream.url, folder, **settings))).url
        yield clinic, urls


def _route(source: str) -> Mapping[str, Any]:
    """Of the sample's first group, with its blocks for this source alone."""
    document = yaml.safe_load(EXAMPLE.read_text())
    route = next(route for route in document["routes"] if route["name"] == "workflow-start")
    chosen = "tap" if source == STRUCTURED else source
    left_out = {"poll", "tap"} - {chosen}
    made = {name: value for name, value in route.items() if name not in left_out} | {"source": chosen}
    if source == STRUCTURED:
        made["tap"] = {"calls": [{**call, "at": "$.text"} for call in route["tap"]["calls"]]}
    return made


async def measure(pace: Pace, rounds: int, sources: Sequence[str] = SOURCES) -> dict[str, list[Wait]]:
    """Waits by source; those of one round began together."""
    found: dict[str, list[Wait]] = {source: [] for source in (DIRECT, *sources)}
    async with clinic_and_proxies(pace, sources) as (clinic, urls):
        for number in range(rounds):
            waits = await asyncio.gather(
                *(_wait(url, clinic.headers(f"reader{number}"), source) for source, url in urls.items())
            )
            for source, wait in zip(urls, waits, strict=True):
                found[source].append(wait)
    return found


async def _wait(url: str, headers: Mapping[str, str], source: str) -> Wait:
    # One of the environment's proxies would be measured too; and nothing here speaks TLS.
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False, verify=False
    ) as client:
        made = (await client.post("/api/cases", json={"case_text": CASE_TEXT})).raise_for_status()
        path = f"/api/cases/{made.json()['id']}/workflow/start"
        began = time.monotonic()
        if source == DIRECT:
            (await client.post(path)).raise_for_status()
            took_s = time.monotonic() - began
            return Wait(took_s, took_s, took_s)
        async with client.stream("POST", path, headers={"accept": SSE}) as response:
            return await _read(Stream(response), began)


async def _read(stream: Stream, began: float) -> Wait:
    """To the end, with the moments at which there was new text."""
    moments = [began]
    seen = 0
    while await stream.piece() is not None:
        if any(event["type"] in CONTENT for event in stream.events[seen:]):
            moments.append(time.monotonic())
        seen = len(stream.events)
    ended = time.monotonic()
    silence_s = max(later - sooner for sooner, later in zip(moments, [*moments[1:], ended], strict=True))
    assert stream.last["type"] == "stream_done", stream.last
    result = json.loads(stream.last["metadata"]["result"])["result"]
    shown = stream.texts()
    stages = [name for name in shown if name != "summary"]
    stored = {name: _only_text(result["backend_results"][name]) for name in stages}
    is_equal = shown == stored | {"summary": result["summary"]}
    return Wait(moments[1] - began, silence_s, ended - began, is_equal)


def _only_text(result: Mapping[str, Any]) -> str:
    """A stage's text, whatever its key is called."""
    [text] = [value for name, value in result.items() if isinstance(value, str) and name != "next_stage"]
    return text


def problems(found: Mapping[str, Sequence[Wait]]) -> list[str]:
    """Every promise that was broken."""
    batch_s = median(wait.total_s for wait in found[DIRECT])
    broken = [
        f"{source}: other text than the batch answer's" for source in found if not _equal(found[source])
    ]
    for source, most in FIRST_OF_BATCH.items():
        share = median(wait.first_s for wait in found[source]) / batch_s
        if share > most:
            broken.append(f"{source}: first text after {share:.1%} of the batch wait, and at most {most:.0%}")
    for source in ("tap", STRUCTURED):
        share = median(wait.total_s for wait in found[source]) / batch_s
        if share > TOTAL_OF_BATCH:
            most = f"at most {TOTAL_OF_BATCH:.0%}"
            broken.append(f"{source}: complete after {share:.1%} of the batch wait, and {most}")
    return broken


def table(found: Mapping[str, Sequence[Wait]], pace: Pace) -> Table:
    """Medians, and their share of the batch wait."""
    batch_s = median(wait.total_s for wait in found[DIRECT])
    said = f"first token {pace.first_token_s} s, {pace.tokens_per_s:.0f} tokens/s, 4 calls of {pace.tokens}"
    made = Table("source", title=f"What a reader waits ({said} tokens)")
    for column in ("first text", "of batch", "longest silence", "complete", "of batch", "same text"):
        made.add_column(column, justify="right")
    for source, waits in found.items():
        first_s, silence_s, total_s = (
            median(getattr(wait, name) for wait in waits) for name in ("first_s", "silence_s", "total_s")
        )
        shares = [f"{seconds / batch_s:.1%}" for seconds in (first_s, total_s)]
        made.add_row(
            *(source, f"{first_s:.2f} s", shares[0], f"{silence_s:.2f} s"),
            *(f"{total_s:.2f} s", shares[1], f"{sum(wait.is_equal for wait in waits)} of {len(waits)}"),
        )
    return made


async def on_the_screen(pace: Pace) -> FirstText:
    """The first text of a frontend that nobody changed, with `attach.js`, in Chromium."""
    with tempfile.TemporaryDirectory() as made, house(**vars(pace)) as clinic:
        directory = Path(made)
        files = page_files(directory)
        async with (
            async_playwright() as playwright,
            await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
            clinic.headgate(directory) as serving,
            visiting(chromium, serving.url, files, "ada") as visit,
        ):
            await until_ready(visit.page)
            await visit.page.evaluate(SEE)
            return await first_text(visit)


def _equal(waits: Sequence[Wait]) -> bool:
    return all(wait.is_equal for wait in waits)


def main() -> int:
    parser = ArgumentParser(prog="python -m tests.waits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found = asyncio.run(measure(REALISTIC, rounds, (*SOURCES, STRUCTURED)))
    console = Console(width=110)
    console.print(table(found, REALISTIC))
    broken = problems(found)
    screen = asyncio.run(on_the_screen(REALISTIC))
    console.print(f"On the screen of a frontend that nobody changed: {screen}")
    if screen.after_ms > FIRST_ON_THE_SCREEN * screen.wait_ms:
        broken.append(f"on the screen: first text after more than {FIRST_ON_THE_SCREEN:.0%} of the wait")
    for problem in broken:
        console.print(problem, style="red", highlight=False)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
