"""The stacks of the event loop at the moments when it was late."""

from pathlib import Path
from time import monotonic

from proxy.observe.stalls import MOST_STALLS, Stall, StallWatch
from tests.servers.client import browser, eventually
from tests.servers.serving import ADMIN_TOKEN, headgate

TOKEN = {"authorization": f"Bearer {ADMIN_TOKEN}"}
HANGS_S = 30


def hold_the_loop(watch: StallWatch, secret: str) -> str:
    """Until the watch has seen it."""
    before, until = watch.samples, monotonic() + HANGS_S
    while watch.samples < before + 3 and monotonic() < until:
        pass
    return secret


def of_this_test(stalls: list[Stall]) -> list[Stall]:
    return [stall for stall in stalls if any("hold_the_loop" in " ".join(stack) for _, stack in stall.stacks)]


async def test_a_long_turn_is_known_with_where_it_was(tmp_path: Path) -> None:
    """File, line and function of it, for whoever has the token; and no value of any variable."""
    async with headgate("http://127.0.0.1:1", tmp_path) as serving, browser(serving.admin_url) as client:
        watch = serving.app.admin.stalls
        hold_the_loop(watch, "Mrs Miller")
        await eventually(lambda: bool(of_this_test(watch.longest())), HANGS_S)
        refused = await client.get("/debug/stalls")
        shown = await client.get("/debug/stalls", headers=TOKEN)

    assert refused.status_code == 401
    frames = [
        frame for stall in shown.json()["stalls"] for each in stall["stacks"] for frame in each["frames"]
    ]
    assert [
        frame for frame in frames if "tests/observe/test_stalls.py:" in frame and "hold_the_loop" in frame
    ]
    assert all(stall["seconds"] > 0 for stall in shown.json()["stalls"])
    assert "Miller" not in shown.text


async def test_the_longest_stalls_are_kept() -> None:
    """So many, the longest first; the thread ends with the block."""
    with StallWatch() as watch:
        for number in range(MOST_STALLS + 5):
            watch.keep(Stall(float(number), 0.0, ()))
        thread = watch._thread
        seconds = [stall.seconds for stall in watch.longest()]

    assert seconds == [float(number) for number in range(MOST_STALLS + 4, 4, -1)]
    assert not thread.is_alive()
