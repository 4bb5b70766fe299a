"""The source `stages`: a group as its single calls, each result handed to the next."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

from tests.servers import streaming
from tests.servers.client import EITHER, browser, opened, read, signed
from tests.servers.ports import free_socket
from tests.servers.scripted import Asked, Script
from tests.servers.serving import headgate
from tests.servers.streaming import EXTRACTION, START, SUMMARY, route

STAGES = {
    "calls": [
        {"stage": "extraction", "request": "POST /api/one/{case_id}", "body": {"t": "{{ request $.text }}"}},
        {
            "stage": "summary",
            "request": "PUT /api/two/{case_id}?long=1",
            "body": {
                "of": "{{ extraction $.text }}",
                "n": "{{ extraction $.n }}",
                "s": "n={{ extraction $.n }}",
            },
        },
    ],
    "answer": {
        "result": {"extraction": "{{ extraction $.text }}", "summary": "{{ summary $.text }}"},
        "case": "{{ path $.case_id }}",
        "all": "{{ extraction $ }}",
    },
}
ONE = {"text": EXTRACTION, "n": 3, "ok": True}
TWO = {"text": SUMMARY}
ASKED = json.dumps({"text": "fever °C"}, ensure_ascii=False).encode()


def replies(**by_path: bytes | Script) -> Script:
    async def script(asked: Asked) -> None:
        await asked.read_body()
        reply = by_path[asked.target.split(b"/")[2].decode()]
        if isinstance(reply, bytes):
            await asked.answer(reply)
        else:
            await reply(asked)

    return script


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


house = partial(streaming.house, source="stages", stages=STAGES)


async def test_each_result_is_handed_to_the_next_call(tmp_path: Path) -> None:
    """Methods, paths, bodies and credentials as the settings say; values keep their type."""
    async with house(replies(one=dumped(ONE), two=dumped(TWO)), tmp_path) as (upstream, _, client):
        stream = await read(
            client,
            START,
            signed(**{"content-type": "text/x", "idempotency-key": "1", "range": "bytes=0-1"}),
            content=ASKED,
        )

    one, two = upstream.asked
    assert one.head.startswith(b"POST /api/one/7 HTTP/1.1\r\n")
    assert json.loads(one.body) == {"t": "fever °C"}
    assert two.head.startswith(b"PUT /api/two/7?long=1 HTTP/1.1\r\n")
    assert json.loads(two.body) == {"of": EXTRACTION, "n": 3, "s": "n=3"}
    for asked in (one, two):
        assert asked.header(b"authorization") == signed()["authorization"].encode()
        assert [v for n, v in asked.headers() if n.lower() == b"content-type"] == [b"application/json"]
        assert asked.header(b"idempotency-key") is None
        assert asked.header(b"range") is None
    assert stream.last["type"] == "stream_done"


async def test_the_groups_answer_is_assembled(tmp_path: Path) -> None:
    """`result` is the answer template filled in, and the texts shown are the ones it has."""
    async with house(replies(one=dumped(ONE), two=dumped(TWO)), tmp_path) as (_, _, client):
        stream = await read(client, START, signed(), content=ASKED)

    assert json.loads(stream.last["metadata"]["result"]) == {
        "result": {"extraction": EXTRACTION, "summary": SUMMARY},
        "case": "7",
        "all": ONE,
    }
    assert stream.texts() == {"extraction": EXTRACTION, "summary": SUMMARY}
    assert stream.last["metadata"]["source"] == "stages"
    assert "content_replace" not in stream.types


async def test_stages_are_told_as_they_happen(tmp_path: Path) -> None:
    """A stage begins when its call is sent, is shown when it is answered, and progress names it meanwhile."""
    first, second = asyncio.Event(), asyncio.Event()

    async def one(asked: Asked) -> None:
        await first.wait()
        await asked.answer(dumped(ONE))

    async def two(asked: Asked) -> None:
        await second.wait()
        await asked.answer(dumped(TWO))

    progress = {"progress": True, "progress_s": 0.03, "commit_after": 0}
    async with (
        house(replies(one=one, two=two), tmp_path, **progress) as (upstream, _, client),
        opened(client, START, signed(), content=ASKED) as stream,
    ):
        await stream.until(lambda e: e["type"] == "progress" and e["metadata"].get("stage_index") == 0)
        assert stream.texts() == {"extraction": ""}
        first.set()
        await stream.until(lambda e: e["type"] == "progress" and e["metadata"].get("stage_index") == 1)
        assert stream.texts() == {"extraction": EXTRACTION, "summary": ""}
        assert len(upstream.asked) == 2
        second.set()
        await stream.rest()

    told = [(e["type"], e["stage"]) for e in stream.events if e["type"].startswith("stage_")]
    assert told == [
        (type_, stage) for stage in ("extraction", "summary") for type_ in ("stage_start", "stage_complete")
    ]


async def fails(asked: Asked) -> None:
    await asked.answer(b'{"detail":"no"}', b"503 Busy", b"retry-after: 30\r\n")


async def hangs_up(asked: Asked) -> None:
    asked.writer.close()


FAILURES: dict[str, tuple[bytes | Script, str, int]] = {
    "fails": (fails, "status", 503),
    "is malformed": (b'{"text":', "malformed", 502),
    "is an error sentence": (dumped({"text": "Error generating response: x"}), "failure_text", 502),
    "hangs up": (hangs_up, "reset", 502),
    "lacks the value": (dumped({"other": 1}), "malformed", 502),
}


def failing(stage: str) -> Script:
    """The stage fails in the way that the case is named after; the other one is fine."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        _, _, called, case = asked.target.partition(b"?")[0].decode().split("/")
        reply = (
            FAILURES[case.replace("-", " ")][0]
            if called == stage
            else dumped({"one": ONE, "two": TWO}[called])
        )
        if isinstance(reply, bytes):
            await asked.answer(reply)
        else:
            await reply(asked)

    return script


async def test_a_failed_stage_ends_the_group_and_keeps_what_was_finished(tmp_path: Path) -> None:
    """The second of two stages fails: the first one's text stays, partial, and the end says why."""
    async with house(failing("two"), tmp_path) as (upstream, _, client):
        for name, (_reply, code, status) in FAILURES.items():
            before = len(upstream.asked)
            path = f"/api/cases/{name.replace(' ', '-')}/start"
            stream = await read(client, path, signed(), content=ASKED)

            assert stream.texts() in (
                {"extraction": EXTRACTION},
                {"extraction": EXTRACTION, "summary": ""},
            ), name
            assert stream.types.count("error") == 1
            metadata = stream.last["metadata"]
            assert (metadata["error_code"], metadata["status"], metadata["partial"]) == (code, status, True)
            assert b"Error generating" not in stream.raw
            assert len(upstream.asked) == before + 2


async def test_after_a_failed_stage_no_further_call_is_made(tmp_path: Path) -> None:
    """The first stage fails: the second is never asked, and the client has the failure's own status."""
    async with house(failing("one"), tmp_path) as (upstream, _, client):
        for name, (_reply, _code, status) in FAILURES.items():
            path = f"/api/cases/{name.replace(' ', '-')}/start"
            response = await client.post(path, headers=signed(accept=EITHER), content=ASKED)

            assert response.status_code == status, name
            if name == "fails":
                assert response.content == b'{"detail":"no"}'
                assert response.headers["retry-after"] == "30"
            else:
                assert response.headers["content-type"] == "application/problem+json"

    assert {asked.target.split(b"/")[2] for asked in upstream.asked} == {b"one"}
    assert len(upstream.asked) == len(FAILURES)


async def test_a_plain_request_gets_the_upstreams_own_answer_beside_a_run(tmp_path: Path) -> None:
    """It joins none whose answer is assembled here."""
    release, own = asyncio.Event(), b'{"of": "the group itself"}'

    async def one(asked: Asked) -> None:
        await release.wait()
        await asked.answer(dumped(ONE))

    script = replies(one=one, two=dumped(TWO), cases=own)
    async with (
        house(script, tmp_path, commit_after=0) as (_, _, client),
        opened(client, START, signed(), content=ASKED) as stream,
    ):
        await stream.piece()
        plain = await client.post(START, headers=signed(accept=None), content=ASKED)
        release.set()
        await stream.rest()

    assert plain.content == own


async def test_a_client_without_the_value_is_told_so(tmp_path: Path) -> None:
    """A template that cannot be filled is a failure with a status, and no call is made with half a body."""
    async with house(replies(one=dumped(ONE), two=dumped(TWO)), tmp_path) as (upstream, _, client):
        for body in (b"", b"nonsense", b"[]", b'{"other": 1}', b'"text"'):
            response = await client.post(START, headers=signed(accept=EITHER), content=body)

            assert response.status_code == 502
            assert upstream.asked == []

        await client.post(START, headers=signed(accept=EITHER), content=b'{"text": [1, null]}')

    assert json.loads(upstream.asked[0].body) == {"t": [1, None]}


async def test_an_unreachable_stage_is_told(tmp_path: Path) -> None:
    """The upstream goes away between two calls: what was finished stays."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = Asked(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        await asked.read_body()
        server.close()
        await asked.answer(dumped(ONE), extra=b"connection: close\r\n")
        writer.close()

    server = await asyncio.start_server(serve, sock=free_socket())
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    routes = [route(source="stages", stages=STAGES)]
    async with headgate(url, tmp_path, routes=routes) as serving, browser(serving.url) as client:
        stream = await read(client, START, signed(), content=ASKED)

    assert stream.texts() == {"extraction": EXTRACTION, "summary": ""}
    assert stream.last["metadata"]["error_code"] == "connect"
    assert stream.last["metadata"]["partial"] is True


async def test_an_answer_of_very_many_values_is_handed_on_as_any_other(tmp_path: Path) -> None:
    """Its texts are shown; the next call and the group's answer get its values, though it is read apart."""
    many: dict[str, Any] = {**ONE, "n": [[]] * 150_000}
    script = replies(one=dumped(many), two=dumped(TWO))
    stages = json.loads(json.dumps(STAGES))
    del stages["calls"][1]["body"]["s"]
    async with house(script, tmp_path, stages=stages) as (upstream, _, client):
        stream = await read(client, START, signed(), content=ASKED)

    assert stream.texts() == {"extraction": EXTRACTION, "summary": SUMMARY}
    assert json.loads(upstream.asked[1].body) == {"of": EXTRACTION, "n": many["n"]}
    assert json.loads(stream.last["metadata"]["result"])["all"] == many
