"""No answer holds the loop, however nasty: between two turns of it there is little work.

Headgate has a thread of its own here, so that what its loop works between two turns can be told by the
processor's time: neither the client and the upstream count, nor whoever else is on the machine.
"""

import asyncio
import gc
import gzip
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from time import thread_time
from typing import Any

import pytest
import uvloop

from proxy.relay.answer_copy import decoded_in_turns
from proxy.text.event_log import EventLog
from proxy.text.events import Event, EventType
from proxy.text.sections import MalformedBody, Section
from proxy.text.slow_json import is_slow, texts_of
from proxy.text.sse import decode
from proxy.turns import in_turns
from proxy.viewers.catch_up import snapshot
from tests.servers.client import signed
from tests.servers.scripted import Asked, ScriptedUpstream, talking
from tests.servers.serving import headgate
from tests.servers.streaming import START, route

pytestmark = pytest.mark.alone

MOST = 3_000_000
"""Of work in one turn, in additions. They took 0.05 s on the machine on which the most was under 0.02."""

NATIVE = {
    "format": "sse",
    "events": [{"event": "end", "means": "done"}, {"stage": "extraction", "at": "$.t"}],
    "answer": {"result": {"extraction": "{{ text $.extraction }}", "summary": ""}},
}
MEGABYTE = 1_000_000


def most_allowed_s() -> float:
    """How long so many additions take here and now: another machine is slower, or this one for a while."""
    took_s = []
    for _ in range(3):
        before, number = thread_time(), 0
        for each in range(MOST):
            number += each
        took_s.append(thread_time() - before)
    return max(took_s)


class Heart:
    """Beats once a turn of the loop, and knows the most work between two beats."""

    def __init__(self) -> None:
        self.most_s = 0.0

    async def beat(self) -> None:
        before = thread_time()
        while True:
            await asyncio.sleep(0)
            now = thread_time()
            self.most_s, before = max(self.most_s, now - before), now

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """On this loop, from before the first to after the last of what is done meanwhile."""
        task = asyncio.create_task(self.beat())
        await asyncio.sleep(0)
        yield
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()


@asynccontextmanager
async def beside(
    upstream_url: str, directory: Path, routes: list[dict[str, Any]]
) -> AsyncIterator[tuple[str, Heart]]:
    """A Headgate with a thread and a loop of its own."""
    here, heart = asyncio.get_running_loop(), Heart()
    ready: asyncio.Future[str] = here.create_future()
    stop = asyncio.Event()
    loop = uvloop.new_event_loop()

    async def run() -> None:
        async with headgate(upstream_url, directory, routes=routes) as serving:
            here.call_soon_threadsafe(ready.set_result, serving.url)
            beating = loop.create_task(heart.beat())
            await stop.wait()
            beating.cancel()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as exc:  # noqa: BLE001 - it is the test's to raise
            here.call_soon_threadsafe(ready.set_exception, exc)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield await ready, heart
    finally:
        loop.call_soon_threadsafe(stop.set)
        await here.run_in_executor(None, thread.join)
        loop.close()


@contextmanager
def uncollected() -> Iterator[None]:
    """A collection looks at everything that the tests before have left."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def text(of: str) -> bytes:
    """A batch answer with one long text."""
    return json.dumps({"result": {"extraction": of, "summary": "s"}}, ensure_ascii=False).encode()


ANSWERS = {
    "prose": text("The patient has a fever and chills. " * (15 * MEGABYTE // 36)),
    "flags": text("🇩🇪" * MEGABYTE),
    "families": text("👨‍👩‍👧" * 200_000),
    "marks": text("e" + "\u0301" * 3 * MEGABYTE),
    "han": text("病人发热三天体温三十八度九" * 150_000),
    "han, short": text("病人发热三天体温三十八度九" * 1_500),
    "backslashes": text("\\" * 4 * MEGABYTE),
    "escapes": b'{"result":{"extraction":"' + b"\\ud83d\\ude00" * 400_000 + b'","summary":"s"}}',
    "one word": text("x" * 10 * MEGABYTE),
    "many values": b'{"result":{"extraction":"e","summary":"s"},"x":[' + b"0," * 200_000 + b"0]}",
    "lists": b'{"result":{"extraction":"e","summary":"s"},"x":[' + b"[]," * 2 * MEGABYTE + b"0]}",
    "names": b'{"result":{"extraction":"e","summary":"s"},"x":{'
    + b",".join(b'"%064d":0' % at for at in range(150_000))
    + b"}}",
    "objects": b'{"result":{"extraction":"e","summary":"s"},"x":[' + b'{"a":1},' * MEGABYTE + b"0]}",
    "commas": text("fever, chills, cough, " * (15 * MEGABYTE // 22)),
}


async def most_work(
    directory: Path, of: dict[str, Any], answer: bytes, head: bytes, *, body: bytes = b""
) -> tuple[float, bytes]:
    async def script(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(head % len(answer) + answer)

    with uncollected():
        async with (
            ScriptedUpstream(script).running() as upstream,
            beside(upstream.url, directory, [route(**of)]) as (url, heart),
            talking(url) as client,
        ):
            heart.most_s = 0.0
            headers = "".join(f"{name}: {value}\r\n" for name, value in signed().items())
            await client.send(
                f"POST {START} HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode()
            )
            await client.send(body)
            assert (await client.head()).header(b"transfer-encoding") == b"chunked"
            tail = b""
            async for chunk in client.chunks():
                tail = (tail + chunk)[-200:] if len(chunk) < 200 else chunk[-200:]
            return heart.most_s, tail


JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"


async def test_a_long_document_is_not_counted_and_read_in_one_turn() -> None:
    """Either takes a part of a turn, so that together they could take two."""
    turned: list[None] = []
    asyncio.get_running_loop().call_soon(turned.append, None)

    assert not await is_slow(text("x" * 300_000))
    assert turned


@pytest.mark.parametrize("kind", ANSWERS)
async def test_no_batch_answer_holds_the_loop(kind: str, tmp_path: Path) -> None:
    """Neither the kind nor the length of its text matters."""
    most_s, tail = await most_work(tmp_path, {}, ANSWERS[kind], JSON)

    assert b'"sha256"' in tail
    assert most_s < most_allowed_s()


STREAMS = {
    "tiny deltas": b'data: {"t":"x"}\n\n' * 100_000,
    "comments": b": x\n" * 2 * MEGABYTE,
    "large deltas": b'data: {"t":"%b"}\n\n' % (b"a b c d e " * 100_000) * 3,
    "flags": b'data: {"t":"%b"}\n\n' % ("🇩🇪".encode() * 100_000) * 3,
    "marks": 'data: {"t":"\u0301"}\n\n'.encode() * 20_000,
    "nested lists": b'data: {"t":"t","x":[' + (b"[" * 200 + b"]" * 200 + b",") * 2_540 + b"0]}\n\n",
}


@pytest.mark.parametrize("kind", STREAMS)
async def test_no_stream_holds_the_loop(kind: str, tmp_path: Path) -> None:
    """Neither the content nor the number of its events matters."""
    said = b'data: {"t":"Text. "}\n\n' + STREAMS[kind] + b"event: end\ndata: {}\n\n"
    most_s, tail = await most_work(tmp_path, {"source": "native", "native": NATIVE}, said, SSE)

    assert tail
    assert most_s < most_allowed_s()


SEARCHED = b'{"result":{"extraction":"e","summary":"s"},"x":[' + b'{"a":1},' * 36_000 + b"0]}"
SEARCHING = [
    {"stage": "extraction", "at": "$..extraction"},
    {"stage": "summary", "panel": "chat", "at": "$..[?@.summary == 's'].summary"},
]


async def test_no_path_that_is_searched_for_holds_the_loop(tmp_path: Path) -> None:
    """`..` and filters look at each value, and take thousands of times as long as to read it."""
    most_s, tail = await most_work(tmp_path, {"sections": SEARCHING}, SEARCHED, JSON)

    assert b'"sha256"' in tail
    assert b'"absent"' not in tail
    assert most_s < most_allowed_s()


async def test_a_search_gives_way_to_the_loop_within_a_millisecond() -> None:
    """The loop asks for the interpreter for each socket anew: with Python's own 5 ms, four wait 20."""
    found = await texts_of(SEARCHED, [Section.compile("extraction", "", "$..extraction")])

    assert found == {"extraction": "e"}
    assert sys.getswitchinterval() <= 0.001


async def test_names_that_all_differ_make_a_document_slow() -> None:
    """Each takes several times as long to read as a number; where they are few, the loop reads them."""
    assert await is_slow(ANSWERS["names"])
    assert not await is_slow(b"{" + b",".join(b'"%064d":0' % at for at in range(70_000)) + b"}")


async def test_no_event_that_is_searched_holds_the_loop(tmp_path: Path) -> None:
    """The same of a stream's."""
    rules = [{"event": "end", "means": "done"}, {"stage": "extraction", "at": "$..[?@.t == 'Text. '].t"}]
    of = {"source": "native", "native": NATIVE | {"events": rules}}
    said = b'data: {"y":{"t":"Text. "},"x":[' + b'{"a":1},' * 20_000 + b"0]}\n\n"
    most_s, tail = await most_work(tmp_path, of, said + b"event: end\ndata: {}\n\n", SSE)

    assert b"Text. " in tail
    assert most_s < most_allowed_s()


async def test_no_look_that_is_searched_holds_the_loop(tmp_path: Path) -> None:
    """The same of a polled document, and of a single stage's answer."""
    polls = {"path": "/api/cases/{case_id}/rows", "every_ms": 50, "row": "$..[?@.stage == '{stage}']"}
    sections = [dict(section, poll_at="$.a") for section in SEARCHING]
    of = {"source": "poll", "poll": polls | {"updated_at": ["$.at"]}, "sections": sections}
    most_s, tail = await most_work(tmp_path, of, SEARCHED, JSON)
    assert b'"sha256"' in tail
    assert most_s < most_allowed_s()

    calls = [{"stage": stage, "request": f"POST /{stage}"} for stage in ("one", "two")]
    stages = {"calls": calls, "answer": {"result": {"extraction": "{{ one $..extraction }}", "summary": "s"}}}
    most_s, tail = await most_work(tmp_path, {"source": "stages", "stages": stages}, SEARCHED, JSON)
    assert b'"sha256"' in tail
    assert most_s < most_allowed_s()


STAGES = {
    "calls": [
        {"stage": "extraction", "request": "POST /one", "body": {"asked": "{{ request $.text }}"}},
        {"stage": "summary", "request": "POST /two", "body": "{{ extraction $ }}"},
    ],
    "answer": {"result": {"extraction": "{{ extraction $.text }}", "summary": "{{ summary $.text }}"}},
}
CROWDED = b'{"text":"Text. ","x":[' + b"[]," * 2 * MEGABYTE + b"0]}"


@pytest.mark.parametrize(("answer", "body"), [(CROWDED, b'{"text":"t"}'), (b'{"text":"Text. "}', CROWDED)])
async def test_no_stage_holds_the_loop(answer: bytes, body: bytes, tmp_path: Path) -> None:
    """Neither its answer matters, nor the request whose values go into the call."""
    of = {"source": "stages", "stages": STAGES}
    most_s, tail = await most_work(tmp_path, of, answer, JSON, body=body)

    assert b'"sha256"' in tail
    assert most_s < most_allowed_s()


async def test_no_request_that_is_made_one_for_a_stream_holds_the_loop(tmp_path: Path) -> None:
    """One with too many values goes on as batch, byte for byte."""
    of = {"source": "native", "native": NATIVE | {"body": {"stream": True}}}
    most_s, tail = await most_work(tmp_path, of, text("Text. "), JSON, body=CROWDED)

    assert b'"recovered":true' in tail
    assert most_s < most_allowed_s()


@pytest.mark.parametrize("kind", ANSWERS)
async def test_no_answer_that_is_relayed_holds_the_loop_when_it_is_read(kind: str) -> None:
    """To compare the arms of a rollout, its texts are looked at: they are the same, whoever has read them."""
    wanted = [
        Section.compile("extraction", "", "$.result.extraction"),
        Section.compile("summary", "", "$.result['summary']"),
    ]
    heart = Heart()
    with uncollected():
        async with heart.beating():
            texts = await texts_of(ANSWERS[kind], wanted)

    assert texts == json.loads(ANSWERS[kind])["result"]
    assert heart.most_s < most_allowed_s()


@pytest.mark.parametrize("kind", ["prose", "one word"])
async def test_no_answer_that_is_unpacked_holds_the_loop(kind: str) -> None:
    """The size of what comes out does not matter: in one go it takes several times as long as any turn."""
    answer, heart = 8 * ANSWERS[kind], Heart()
    packed = gzip.compress(answer, 1)
    began = thread_time()
    gzip.decompress(packed)
    at_once_s = thread_time() - began
    with uncollected():
        async with heart.beating():
            body = await decoded_in_turns(packed, b"gzip", len(answer), None)

    assert body == answer
    assert heart.most_s < at_once_s / 2


@pytest.mark.parametrize("body", [b"[" + b"[]," * 300_000, b'{"a":"' + b",[" * 300_000 + b'\xff"}'])
async def test_an_answer_of_many_values_that_is_no_json_is_malformed(body: bytes) -> None:
    """Cut short, or in no UTF-8: it is read elsewhere, and judged as every other."""
    with pytest.raises(MalformedBody):
        await texts_of(body, [])


LOGS = {
    "words": [Event(EventType.CONTENT_CHUNK, "chat", "s", "fever and ", {})] * 200_000,
    "prose": [Event(EventType.CONTENT_REPLACE, "chat", "s", "fever and chills " * 900_000, {})],
    "flags": [Event(EventType.CONTENT_REPLACE, "chat", "s", "🇩🇪" * MEGABYTE, {})],
}


@pytest.mark.parametrize("kind", LOGS)
async def test_no_snapshot_holds_the_loop(kind: str) -> None:
    """Neither the number of events that a slow viewer has missed matters, nor the length of their text."""
    log, blocks, heart = EventLog("run", 1000), list[bytes](), Heart()
    for event in LOGS[kind]:
        log.append(event, 0.0)
    entries = (log.entry(seq) for seq in range(1, len(log) + 1))
    with uncollected():
        async with heart.beating():
            await in_turns(map(blocks.append, snapshot(entries, 0)))

    shown = decode(b"".join(blocks))
    assert shown.content == "".join(event.content for event in LOGS[kind])
    assert shown.metadata["sha256"] == sha256(shown.content.encode()).hexdigest()
    assert heart.most_s < most_allowed_s()
