"""One more script element in a page that is relayed; and every page that stays as it is, with the reason."""

import gzip
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.http.content_policy import Forbidden, nonce_for
from proxy.observe.labels import PageResult
from proxy.relay.attached_page import CHARSET_BYTES, MAX_PAGE_BYTES, with_script
from tests.servers.client import browser, scrape, signed
from tests.servers.scripted import DATE, Asked
from tests.servers.serving import flag_document, gated
from tests.servers.streaming import house, route

HEAD = b'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
PAGE = HEAD + "<title>Ä</title></head><body>x</body></html>".encode()
ELEMENT = b'<script type="module" src="/_headgate/attach.js"></script>'
WITH_SCRIPT = PAGE.replace(b'"utf-8">', b'"utf-8">' + ELEMENT)
HTML = b"content-type: text/html; charset=utf-8\r\n"
ROUTES = [route(attach={})]
ATTACH = {"inject": True, "pages": ["/app", "/cases/{id}"]}


async def got(
    tmp_path: Path,
    *heads: bytes,
    body: bytes = PAGE,
    status: bytes = b"200 OK",
    path: str = "/app",
    length: bool = True,
    headers: dict[str, str] | None = None,
    **settings: Any,
) -> tuple[httpx.Response, Asked, str]:
    """The answer for a page, what the upstream was asked, and what was counted."""

    async def script(asked: Asked) -> None:
        if length:
            extra = b"".join(heads) + b"content-length: %d\r\n" % len(body)
            await asked.send(b"HTTP/1.1 %b\r\n%b%b\r\n%b" % (status, DATE, extra, body))
        else:
            head = b"HTTP/1.1 200 OK\r\n%b%btransfer-encoding: chunked\r\n\r\n" % (DATE, b"".join(heads))
            await asked.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    settings = {"routes": ROUTES, "attach": ATTACH, **settings}
    async with (
        gated(script, tmp_path, **settings) as (upstream, serving),
        browser(serving.url) as client,
    ):
        answer = await client.get(path, headers={"accept-encoding": "gzip, br", **(headers or {})})
        samples = await scrape(client, serving.admin_url)
        counted = [
            name for name, value in samples.items() if value and "headgate_attached_pages_total" in name
        ]
        (asked,) = upstream.asked
        found = re.search(r'result="(\w+)"', counted[0]) if counted else None
        return answer, asked, found[1] if found else ""


@pytest.mark.parametrize("path", ["/app", "/app?case=7", "/cases/7"])
async def test_a_page_of_the_settings_gets_the_script_first_in_its_head(tmp_path: Path, path: str) -> None:
    """After the elements `meta`, so that the character set is found where it is looked for."""
    answer, _, counted = await got(tmp_path, HTML, b'etag: "abc"\r\nlast-modified: x\r\n', path=path)

    assert answer.content == WITH_SCRIPT
    assert answer.headers["content-length"] == str(len(WITH_SCRIPT))
    assert answer.headers["etag"] == '"abc-headgate"'
    assert "last-modified" not in answer.headers
    assert counted == "attached"


@pytest.mark.parametrize(
    ("path", "headers", "settings"),
    [
        ("/other", {}, {}),
        ("/app", {"range": "bytes=0-9"}, {}),
        ("/app", {"sec-fetch-dest": "empty"}, {}),
        ("/app", {}, {"attach": {}}),
        ("/app", {}, {"routes": [route()]}),
        ("/app", {}, {"flags": flag_document(kill=True)}),
        ("/app", signed(accept=None), {"flags": flag_document(0)}),
    ],
)
async def test_no_other_request_is_looked_at(
    tmp_path: Path, path: str, headers: dict[str, str], settings: dict[str, Any]
) -> None:
    """No page of the settings, a part of one, none to be shown, or nothing to show: all bytes stay."""
    answer, asked, counted = await got(tmp_path, HTML, path=path, headers=headers, **settings)

    assert answer.content == PAGE
    assert asked.header(b"accept-encoding") == b"gzip, br"
    assert counted == ""


async def test_a_part_of_a_page_is_the_upstreams_own(tmp_path: Path) -> None:
    """Also for a browser that has the page with the script: its tag is none of the upstream's, which then
    sends the whole page."""
    parts = [HTML, b"content-range: bytes 0-9/99\r\n", b'etag: "abc"\r\n']
    wanted = {"range": "bytes=0-9", "if-range": '"abc-headgate"'}
    answer, asked, counted = await got(
        tmp_path, *parts, body=PAGE[:10], status=b"206 Partial Content", headers=wanted
    )

    assert (answer.status_code, answer.content) == (206, PAGE[:10])
    assert answer.headers["content-range"] == "bytes 0-9/99"
    assert answer.headers["etag"] == '"abc"'
    assert asked.header(b"range") == b"bytes=0-9"
    assert asked.header(b"if-range") == b'"abc-headgate"'
    assert counted == ""


async def test_a_user_who_streams_gets_the_script(tmp_path: Path) -> None:
    """A request for the page that says who asks lets the flag decide there already."""
    answer, _, _ = await got(tmp_path, HTML, headers=signed(accept=None))

    assert answer.content == WITH_SCRIPT


@pytest.mark.parametrize(
    ("heads", "more", "why"),
    [
        ([b"content-type: application/json\r\n"], {}, ""),
        ([HTML], {"status": b"404 Not Found"}, ""),
        ([HTML], {"length": False}, "size"),
        ([HTML], {"body": PAGE + b" " * MAX_PAGE_BYTES}, "size"),
        ([HTML, b"content-encoding: br\r\n"], {}, "coding"),
        ([HTML, b"content-encoding: gzip\r\n"], {"body": gzip.compress(PAGE)[:-4]}, "coding"),
        ([b"content-type: text/html; charset=utf-16\r\n"], {}, "coding"),
        ([HTML, b"cache-control: no-transform\r\n"], {}, "fixed"),
        ([HTML, b"content-digest: sha-256=:x:\r\n"], {}, "fixed"),
        ([HTML, b"content-disposition: attachment\r\n"], {}, "fixed"),
        ([HTML], {"body": WITH_SCRIPT}, "fixed"),
        ([HTML, b"content-security-policy: default-src 'none'\r\n"], {}, "policy"),
        ([HTML], {"body": b"<p>no head</p>"}, "markup"),
    ],
)
async def test_what_is_not_certain_passes_untouched(
    tmp_path: Path, heads: list[bytes], more: dict[str, Any], why: str
) -> None:
    """Each byte and header of it, and the counter says why."""
    tag = b'etag: "abc"\r\n'
    answer, asked, counted = await got(tmp_path, *heads, tag, **more)
    plain, _, _ = await got(tmp_path, *heads, tag, attach={}, **more)

    assert answer.headers.raw == plain.headers.raw
    assert answer.status_code == plain.status_code
    assert counted == why
    assert asked.header(b"accept-encoding") == b"identity"
    if "content-encoding" not in answer.headers:
        assert answer.content == more.get("body", PAGE)


async def test_a_page_that_comes_compressed_all_the_same_is_read(tmp_path: Path) -> None:
    """Some upstreams compress whatever is asked."""
    answer, _, _ = await got(tmp_path, HTML, b"content-encoding: gzip\r\n", body=gzip.compress(PAGE))

    assert answer.content == WITH_SCRIPT
    assert "content-encoding" not in answer.headers


async def test_a_browser_that_has_the_page_with_the_script_is_told_so(tmp_path: Path) -> None:
    """By the upstream's own tag. One that has the page without it gets it anew."""
    known = {"if-none-match": '"old", W/"abc-headgate"', "if-modified-since": "Sat, 01 Nov 2025 08:00:00 GMT"}
    answer, asked, counted = await got(
        tmp_path, b'etag: W/"abc"\r\n', body=b"", status=b"304 Not Modified", headers=known
    )

    assert asked.header(b"if-none-match") == b'W/"abc"'
    assert asked.header(b"if-modified-since") is None
    assert (answer.status_code, answer.headers["etag"], counted) == (304, 'W/"abc-headgate"', "unchanged")

    _, asked, _ = await got(tmp_path, HTML, headers={"if-none-match": '"abc"'})

    assert asked.header(b"if-none-match") is None


async def test_a_page_that_is_cut_short_is_cut_short(tmp_path: Path) -> None:
    """The part that came is passed on, and it does not look whole."""

    async def script(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\n%b%bcontent-length: 999\r\n\r\n%b" % (DATE, HTML, PAGE))
        asked.writer.close()

    async with house(script, tmp_path, routes=ROUTES, attach=ATTACH) as (_, _, client):
        got_so_far = b""
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("GET", "/app") as answer:
                async for piece in answer.aiter_raw():
                    got_so_far += piece

    assert (answer.status_code, answer.headers["content-length"]) == (200, "999")
    assert got_so_far == PAGE


@pytest.mark.parametrize(
    ("policies", "nonce"),
    [
        ([], ""),
        (["img-src 'none'"], ""),
        (["default-src 'self'"], ""),
        (["default-src 'none'; script-src 'Self'; connect-src 'self'"], ""),
        (["default-src 'self'; script-src 'nonce-aB3+/_-=' 'strict-dynamic'"], "aB3+/_-="),
        (["script-src 'none'; script-src-elem 'nonce-x'"], "x"),
        (["script-src 'nonce-x', script-src 'self'"], "x"),
        (["script-src 'nonce-x'", "default-src *; script-src 'nonce-x' 'self'"], "x"),
    ],
)
def test_a_policy_with_a_nonce_or_self_lets_it_run(policies: list[str], nonce: str) -> None:
    """By the directive that counts, for each policy there is."""
    assert nonce_for(policies) == nonce


@pytest.mark.parametrize(
    "policies",
    [
        ["script-src 'none'"],
        ["default-src 'none'"],
        ["script-src https:"],
        ["script-src *"],
        ["script-src 'sha256-x'"],
        ["script-src 'unsafe-inline'"],
        ["script-src 'self' 'strict-dynamic'"],
        ["script-src 'self'; script-src-elem 'none'"],
        ["script-src 'none'; script-src 'self'"],
        ["script-src 'nonce-x\"><b>'"],
        ["script-src 'nonce-x'", "script-src 'nonce-y'"],
        ["script-src 'nonce-x'", "script-src 'none'"],
        ["script-src 'self'; connect-src https://api.example.org"],
        ["sandbox allow-scripts; script-src 'self'"],
        ["script-src"],
    ],
)
def test_any_other_policy_does_not(policies: list[str]) -> None:
    """No policy is ever changed for it."""
    with pytest.raises(Forbidden):
        nonce_for(policies)


def test_the_element_has_the_policys_nonce() -> None:
    """And the policy stays as it is."""
    page, _ = with_script(PAGE, ["script-src 'nonce-r4nd0m'"], names_charset=True)

    assert page == PAGE.replace(b'"utf-8">', b'"utf-8">' + ELEMENT.replace(b"></", b' nonce="r4nd0m"></'))


@pytest.mark.parametrize(
    "before",
    [
        b"<head>",
        b"\xef\xbb\xbf <!-- <head> --><!DOCTYPE HTML><HTML lang=en data-x='>'><!--x--><HEAD id=\"<head>\">",
        b"<html><head\n><meta name=a content='>'><!-- <script> --><meta charset=utf-8 />",
    ],
)
def test_it_stands_first_in_the_head(before: bytes) -> None:
    """Only what a browser reads as nothing may come before it."""
    page, became = with_script(before + b"<title>x</title>", [], names_charset=True)

    assert became is PageResult.ATTACHED
    assert page == before + ELEMENT + b"<title>x</title>"


@pytest.mark.parametrize(
    ("page", "became"),
    [
        (b"", PageResult.MARKUP),
        (b"<title>x</title>", PageResult.MARKUP),
        (b"<p><head>", PageResult.MARKUP),
        (b"<!--><head>-->", PageResult.MARKUP),
        (b"<!-- --!><head> --><head>", PageResult.MARKUP),
        (b"<head data-x=it's>'>", PageResult.MARKUP),
        (b"<header>", PageResult.MARKUP),
        (b"\xff\xfe<\x00h\x00", PageResult.MARKUP),
        (b"<head>" + b" " * 960 + b"<meta charset=utf-8>", PageResult.MARKUP),
        (b'<head><meta http-equiv="Content-Security-Policy" content="x">', PageResult.POLICY),
        (b'<head><title>x</title><meta http-equiv="content-security-policy">', PageResult.POLICY),
    ],
)
def test_a_page_that_is_not_read_for_certain_stays(page: bytes, became: PageResult) -> None:
    """With the reason."""
    page = page.replace(b" " * 960 + b"<meta", b"<title>" + b" " * 945 + b"</title><meta")

    assert with_script(page, [], names_charset=False) == (None, became)


def test_a_long_page_of_nothing_takes_no_time_to_refuse() -> None:
    """Bytes that look like a beginning again and again are read once."""
    for piece in (b" ", b"<!-- ", b"<!-- -->", b"<head ", b"<meta a ", b"<head a='"):
        assert with_script(piece * (MAX_PAGE_BYTES // len(piece)), [], names_charset=True)[0] is None
    assert (
        with_script(b"<head>" + b"<meta a> " * (MAX_PAGE_BYTES // 9), [], names_charset=True)[0] is not None
    )
    assert CHARSET_BYTES == 1024
