"""The document that tells `attach.js` about its caller, and about the caller's runs in flight."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.settings.blocks.attach import AttachSettings, PanelSettings
from proxy.settings.blocks.route import RouteSettings
from tests.servers import streaming
from tests.servers.client import opened, signed
from tests.servers.serving import flag_document, token
from tests.servers.streaming import START, Held, answer, answering, route

DOCUMENT = "/_headgate/attach.json"
PANELS = {"chat": {"placeholder": "Type…", "up": 1}}
ATTACHED = [
    route(attach={"panels": PANELS, "waiting": {"text": "Thinking"}}),
    route(name="other", match="POST /api/other", stream_path=None),
]
DESCRIBED = {
    "name": "start",
    "method": "POST",
    "path": "/api/cases/{case_id}/start",
    "panels": PANELS,
    "waiting": {"text": "Thinking"},
    "keep_text": "nowhere",
}


house = partial(streaming.house, answering(answer()), routes=ATTACHED)


async def test_a_user_of_the_stream_arm_is_told_the_routes_that_are_shown(tmp_path: Path) -> None:
    """Those with a block `attach`; kept for a minute, by this browser, for this credential."""
    async with house(tmp_path) as (_, _, client):
        told = await client.get(DOCUMENT, headers=signed(accept=None))

    assert told.json() == {"routes": [DESCRIBED]}
    assert told.headers["cache-control"] == "private, max-age=60"
    assert told.headers["vary"] == "authorization, cookie"


@pytest.mark.parametrize("flags", [flag_document(0), flag_document(100, kill=True)])
async def test_a_user_of_another_arm_is_told_of_none(tmp_path: Path, flags: dict[str, Any]) -> None:
    """And asks no more for a minute."""
    async with house(tmp_path, flags=flags) as (_, _, client):
        told = await client.get(DOCUMENT, headers=signed(accept=None))

    assert told.json() == {"routes": []}
    assert told.headers["cache-control"] == "private, max-age=60"


async def test_dark_users_and_answers_that_are_put_together_here_are_not_shown(tmp_path: Path) -> None:
    """No page that does not ask for events could be shown them."""
    text = {"means": "text", "at": "$.t", "stage": "extraction"}
    native = {
        "format": "ndjson",
        "ends_by": "close",
        "events": [text],
        "answer": {"text": "{{ text $.extraction }}"},
    }
    dark = flag_document(variants=[{"name": "dark", "weight": 1000}])
    async with house(tmp_path, flags=dark) as (_, _, client):
        in_the_dark = await client.get(DOCUMENT, headers=signed(accept=None))
    routes = [route(attach={}, source="native", native=native)]
    async with house(tmp_path, routes=routes) as (_, _, client):
        made_here = await client.get(DOCUMENT, headers=signed(accept=None))

    assert in_the_dark.json() == made_here.json() == {"routes": []}


async def test_what_nobody_knows_is_not_kept(tmp_path: Path) -> None:
    """Without a credential a caller is nobody; with one that says nothing it may be somebody in a moment."""
    async with house(tmp_path) as (_, _, client):
        nobody = await client.get(DOCUMENT)
        unsure = await client.get(DOCUMENT, headers={"authorization": "Bearer nonsense"})

    assert nobody.json() == unsure.json() == {"routes": []}
    assert nobody.headers["cache-control"] == "private, max-age=60"
    assert unsure.headers["cache-control"] == "no-store"


async def test_a_user_whom_a_proxy_in_front_names_is_not_kept(tmp_path: Path) -> None:
    """The browser's cache does not see that header."""
    async with house(tmp_path, identity={"header": "X-User"}) as (_, _, client):
        told = await client.get(DOCUMENT, headers={"x-user": "ann"})

    assert told.json() == {"routes": [DESCRIBED]}
    assert told.headers["cache-control"] == "no-store"


async def test_the_document_is_only_read(tmp_path: Path) -> None:
    """GET and HEAD."""
    async with house(tmp_path) as (_, _, client):
        head = await client.head(DOCUMENT, headers=signed(accept=None))
        posted = await client.post(DOCUMENT)

    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 20
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


async def test_a_caller_finds_its_runs_in_flight_and_nobody_elses(tmp_path: Path) -> None:
    """Id, route and age; one that has ended is not there."""
    held = Held(answering(answer()))
    async with streaming.house(held, tmp_path, commit_after=0) as (_, _, client):
        async with opened(client, START, signed()) as stream:
            await held.come.wait()
            found = await client.get("/_headgate/runs", headers=signed(accept=None))
            others = await client.get("/_headgate/runs", headers={"authorization": f"Bearer {token('bob')}"})
            nobodys = await client.get("/_headgate/runs")
            held.release.set()
            await stream.rest()
        left = await client.get("/_headgate/runs", headers=signed(accept=None))

    (one,) = found.json()["runs"]
    assert one == {"run": stream.run, "route": "start", "age_s": one["age_s"]}
    assert 0 <= one["age_s"] < 60
    assert found.headers["cache-control"] == "no-store"
    assert others.json() == nobodys.json() == left.json() == {"runs": []}


@pytest.mark.parametrize(
    "place", [{}, {"css": "p", "text": "x"}, {"css": "", "up": 1}, {"css": "p", "up": 21}]
)
def test_a_place_is_named_in_one_way(place: dict[str, Any]) -> None:
    """Else the settings are refused."""
    with pytest.raises(ValidationError):
        PanelSettings.model_validate(place)


def test_panels_are_those_of_sections_and_pages_go_with_their_switch() -> None:
    """A name that is misspelt would never show anything."""
    with pytest.raises(ValidationError, match="'chad' is the panel of no section"):
        RouteSettings.model_validate(route(attach={"panels": {"chad": {"css": "p"}}}))
    for half in ({"inject": True}, {"pages": ["/app"]}):
        with pytest.raises(ValidationError, match="need each other"):
            AttachSettings.model_validate(half)
