"""An upstream that fails: a status of its own before the first byte, one terminal event after it."""

import asyncio
import json
from pathlib import Path

from tests.servers.client import EITHER, SSE, Stream, browser, opened, read, signed
from tests.servers.scripted import Asked, Script, ScriptedUpstream, silent
from tests.servers.serving import headgate
from tests.servers.streaming import START, SUMMARY, WHOLE, Held, answer, answering, house, route


async def hang_up(asked: Asked) -> None:
    await asked.read_body()
    asked.writer.close()


def cut_at(size: int) -> Script:
    """The answer's first bytes, then the end of the connection."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % len(answer()) + answer()[:size])
        asked.writer.close()

    return script


async def html(asked: Asked) -> None:
    await asked.read_body()
    await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<hi>")


async def no_http(asked: Asked) -> None:
    await asked.send(b"what?\r\n\r\n")


FAILURES = {
    "refused": (answering(b'{"detail":"no"}', b"404 Not Found"), "status", 404),
    "too many": (answering(b'{"detail":"later"}', b"429 Too Many"), "status", 429),
    "failing": (answering(b"Internal", b"500 Oh"), "status", 500),
    "hanging up": (hang_up, "reset", 502),
    "silent": (silent, "first_byte_timeout", 504),
    "no HTTP": (no_http, "malformed", 502),
    "cut": (cut_at(3), "truncated", 502),
}
SHORT = {"timeouts": {"first_byte_s": 0.15}}


async def failing(asked: Asked) -> None:
    """The failure that the query names."""
    name = asked.target.decode().partition("?")[2].replace("%20", " ")
    await FAILURES[name][0](asked)


async def test_an_early_failure_has_its_own_status(tmp_path: Path) -> None:
    """Before `commit_after` nothing was sent: the upstream's own status, headers and body, or a problem."""
    async with house(failing, tmp_path, commit_after=15, upstream=SHORT) as (upstream, _, client):
        for name, (_script, code, status) in FAILURES.items():
            for accept in (SSE, EITHER):
                before = len(upstream.asked)
                response = await client.post(f"{START}?{name}", headers=signed(accept=accept))

                assert response.status_code == status, name
                assert len(upstream.asked) == before + 1
                if code == "status":
                    direct = await client.post(f"{upstream.url}{START}?{name}")
                    assert response.content == direct.content
                    assert response.headers.pop("headgate-run")
                    assert response.headers.multi_items() == direct.headers.multi_items()
                else:
                    assert response.headers["content-type"] == "application/problem+json"
                    assert response.json()["status"] == status
                    assert "127.0.0.1" not in response.text


async def test_a_late_failure_is_one_terminal_event(tmp_path: Path) -> None:
    """After the headers: one `error` with the status that can no longer be sent, and nothing after it."""
    held = Held(failing)
    async with house(held, tmp_path, commit_after=0, upstream=SHORT) as (_, _, client):
        for name, (_script, code, status) in FAILURES.items():
            held.release.clear()
            async with opened(client, f"{START}?{name}", signed(accept=EITHER)) as stream:
                assert await stream.piece() == b": hb\n"
                held.release.set()
                await stream.rest()

            assert stream.status == 200
            assert stream.types == ["error"], name
            assert stream.last["metadata"] == {
                "error_code": code,
                "retry_available": code != "malformed" and status != 404,
                "partial": False,
                "status": status,
            }
            assert stream.last["content"]
            assert stream.raw.endswith(b"\n\n")


async def test_an_unreachable_upstream_is_a_problem_or_an_event(tmp_path: Path) -> None:
    """502 before the headers, `error` after them."""
    async with ScriptedUpstream(silent).running() as gone:
        url = gone.url
    for commit_after, directory in ((15, tmp_path / "a"), (0, tmp_path / "b")):
        directory.mkdir()
        routes = [route(commit_after=commit_after)]
        async with headgate(url, directory, routes=routes) as serving, browser(serving.url) as client:
            stream = await read(client, START, signed())
        if commit_after:
            assert stream.status == 502
            assert json.loads(stream.raw)["detail"] == "The service behind this proxy cannot be reached."
        else:
            assert stream.last["metadata"]["error_code"] == "connect"


async def test_a_good_status_with_an_unreadable_body_is_json_only_for_who_takes_json(tmp_path: Path) -> None:
    """A client that takes JSON gets what batch would have given; one that takes only events gets an `error`
    event, unless it is an answer without texts."""
    textless = b'{"status": "needs_more_info"}'
    scripts: list[Script] = [html, answering(b'{"result":'), answering(b""), answering(textless)]
    ends = ["error", "error", "stream_done", "stream_done"]

    async def script(asked: Asked) -> None:
        await scripts[int(asked.target[-1:])](asked)

    async with house(script, tmp_path) as (upstream, _, client):
        for number, end in enumerate(ends):
            path = f"{START}?{number}"
            either = await client.post(path, headers=signed(accept=EITHER))
            direct = await client.post(f"{upstream.url}{path}")
            stream = await read(client, path, signed())

            assert (either.status_code, either.content) == (200, direct.content)
            assert either.headers.pop("headgate-run")
            if "date" not in direct.headers:
                assert either.headers.pop("date")
            assert either.headers.multi_items() == direct.headers.multi_items()
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert stream.types == [end]
            metadata = stream.last["metadata"]
            if end == "error":
                assert (metadata["error_code"], metadata["status"]) == ("malformed", 502)
            else:
                assert metadata["result"].encode() == direct.content


async def test_odd_statuses_do_not_break_the_client(tmp_path: Path) -> None:
    """A status without a body, or one that no client knows, is an answer that can be read."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        status = asked.target.rpartition(b"?")[2]
        await asked.send(b"HTTP/1.1 %b Odd\r\n" % status)
        await asked.send(b"\r\n" if status in {b"204", b"304"} else b"content-length: 2\r\n\r\nno")

    async with house(script, tmp_path, commit_after=15) as (_, _, client):
        for status in (204, 299, 304, 999):
            response = await client.post(f"{START}?{status}", headers=signed(accept=EITHER))

            assert response.status_code == (502 if status == 999 else status)
            assert "content-length" not in response.headers or status not in {204, 304}


async def test_an_error_sentence_is_never_shown(tmp_path: Path) -> None:
    """A 200 with an error sentence in one section: the others are shown, then the truth."""
    sentence = "Error generating response after 3 attempts: 503"
    async with house(answering(answer(sentence)), tmp_path) as (_, _, client):
        stream = await read(client, START, signed(accept=EITHER))

    assert stream.texts() == {"summary": SUMMARY}
    assert b"Error generating" not in stream.raw
    assert stream.types.count("error") == 1
    assert stream.last["metadata"] == {
        "error_code": "failure_text",
        "retry_available": True,
        "partial": True,
        "status": 200,
    }


async def test_an_answer_over_the_bound_fails(tmp_path: Path) -> None:
    """The text that was shown stays, marked as partial."""
    body = answer(summary="x" * 2000)
    async with house(answering(body), tmp_path, max_answer=1024) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.status == 502 or stream.last["metadata"]["error_code"] == "too_large"


async def test_a_body_cut_anywhere_never_looks_complete(tmp_path: Path) -> None:
    """For every byte at which the answer breaks off: a status of its own, or a partial prefix and `error`."""
    body = answer()

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await cut_at(int(asked.target.rpartition(b"=")[2]))(asked)

    async with house(script, tmp_path) as (_, _, client):
        streams = await asyncio.gather(
            *(read(client, f"{START}?cut={at}", signed()) for at in range(len(body)))
        )

    assert {stream.status for stream in streams} == {200, 502}
    for stream in streams:
        if stream.status == 502:
            assert json.loads(stream.raw)["status"] == 502
            continue
        assert stream.types.count("error") == 1
        assert stream.last["metadata"]["partial"] is True
        assert stream.last["metadata"]["error_code"] == "truncated"
        shown = stream.texts()
        assert shown
        assert all(WHOLE[stage].startswith(text) for stage, text in shown.items())


async def test_a_stream_is_only_as_good_as_its_last_event(tmp_path: Path) -> None:
    """A stream ends in exactly one terminal event; here with both endings side by side."""
    for script, ending in ((answering(answer()), "stream_done"), (cut_at(len(answer()) - 4), "error")):
        directory = tmp_path / ending
        directory.mkdir()
        async with house(script, directory) as (_, _, client):
            stream: Stream = await read(client, START, signed())
        assert [type_ for type_ in stream.types if type_ in {"stream_done", "error"}] == [ending]
        assert stream.types[-1] == ending
