"""The browser's modules under `/_headgate/`: to anybody, as they are now, or for ever under their digest."""

import gzip
from pathlib import Path

import httpx
import pytest

from proxy.viewers.scripts import Scripts
from tests.servers.client import browser
from tests.servers.serving import gated
from tests.servers.streaming import answer, answering

BROWSER = Path(__file__).parents[2] / "browser"
FOLDER = Scripts.load().folder
NAMES = sorted(path.name for path in BROWSER.glob("*.js"))


async def got(tmp_path: Path, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        gated(answering(answer()), tmp_path) as (_, serving),
        browser(serving.url) as client,
    ):
        return await client.request(method, path, headers=headers)


@pytest.mark.parametrize("name", NAMES)
async def test_each_module_is_served_to_anybody(tmp_path: Path, name: str) -> None:
    """It is served as a module, byte for byte; a browser asks each time whether it is still so."""
    answered = await got(tmp_path, f"/_headgate/{name}", accept_encoding="identity")

    assert answered.status_code == 200
    assert answered.content == (BROWSER / name).read_bytes()
    assert answered.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answered.headers["cache-control"] == "no-cache"
    assert answered.headers["x-content-type-options"] == "nosniff"


async def test_under_its_digest_a_module_never_changes(tmp_path: Path) -> None:
    """Caches may keep it, and its imports stand beside it. The module as it is now says where that is."""
    now = await got(tmp_path, "/_headgate/client.js")
    answered = await got(tmp_path, now.headers["content-location"])

    assert now.headers["content-location"] == f"/_headgate/{FOLDER}/client.js"
    assert answered.content == now.content
    assert "immutable" in answered.headers["cache-control"]
    assert (await got(tmp_path, "/_headgate/000000000000/client.js")).status_code == 404


async def test_what_a_browser_has_is_not_sent_again(tmp_path: Path) -> None:
    """By its tag, among others, or any."""
    first = await got(tmp_path, "/_headgate/client.js")
    tag = first.headers["etag"]

    for known in (tag, f'"other", {tag}', "*"):
        again = await got(tmp_path, "/_headgate/client.js", if_none_match=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await got(tmp_path, "/_headgate/client.js", if_none_match='"other"')).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip, br", "gzip"), ("gzip;q=0, br", None), ("identity", None), ("GZIP;q=0.5", "gzip")],
)
async def test_it_is_compressed_for_those_who_read_that(
    tmp_path: Path, accepted: str, coding: str | None
) -> None:
    """And caches are told what it hangs on."""
    answered = await got(tmp_path, "/_headgate/client.js", accept_encoding=accepted)

    assert answered.headers.get("content-encoding") == coding
    assert answered.headers["vary"] == "accept-encoding"
    assert answered.content == (BROWSER / "client.js").read_bytes()


async def test_a_head_has_no_body_and_another_method_is_refused(tmp_path: Path) -> None:
    """Reading is all that there is."""
    head = await got(tmp_path, "/_headgate/client.js", "HEAD", accept_encoding="identity")
    posted = await got(tmp_path, "/_headgate/client.js", "POST")

    assert (head.content, head.headers["content-length"]) == (
        b"",
        str((BROWSER / "client.js").stat().st_size),
    )
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


def test_a_module_that_changes_changes_the_folder() -> None:
    """Of all, since one imports the other; names count as well as bytes."""
    folders = {
        Scripts.of(modules).folder
        for modules in ({"a.js": b"1"}, {"a.js": b"2"}, {"b.js": b"1"}, {"a.js": b"1", "b.js": b""})
    }

    assert len(folders) == 4
    assert Scripts.of({"a.js": b"1"}) == Scripts.of({"a.js": b"1"})
    assert gzip.decompress(Scripts.of({"a.js": b"1"}).by_path[b"/_headgate/a.js"][0].compressed) == b"1"
