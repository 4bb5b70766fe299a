"""The kill switch that all processes of a machine share."""

import os
import shutil
import sys

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from flags.decision import Accept, Question, Reason, decide
from flags.errors import KillSwitchError
from flags.sources.flag_file import FlagFile
from flags.sources.kill_order import KillOrder
from flags.sources.kill_switch import KillSwitch
from flags.sources.source import Flags
from tests.flags.documents import ALICE, BUSY, FLAG, becomes, document, feature, gradual, write

KILLED_S = 1.0 * BUSY  # the design's bound from the switch to an answer in another process


async def test_flags_are_killed_by_the_file_or_by_the_switch(path, tmp_path):
    """Two ways to stop, and either is enough; the rest is the source's."""
    write(path, document(feature(gradual())))
    question = Question(FLAG, "tap", frozenset(), ALICE, Accept.EITHER)

    async with FlagFile(path) as file, KillSwitch(tmp_path / "kill") as switch:
        flags = Flags(file, switch)
        assert decide(question, flags).reason is Reason.FLAG_ON
        switch.engage("a test")
        assert decide(question, flags).reason is Reason.KILLED
        switch.release()
        write(path, document(feature(gradual()), feature(name="headgate.kill")))
        await becomes(lambda: decide(question, flags).reason is Reason.KILLED)


async def test_the_asked_process_obeys_at_once_and_leaves_a_reason(tmp_path):
    """No look has to pass, and whoever finds the file can read why it is there."""
    async with KillSwitch(tmp_path / "run" / "kill", poll_s=3600) as switch:
        assert not switch.engaged
        switch.engage("wrong text\nin \ud800 chat", "anna")
        assert switch.engaged
        assert (tmp_path / "run" / "kill").read_text() == "wrong text in chat\nby: anna\n"
        assert os.listdir(tmp_path / "run") == ["kill"]
        switch.release()
        assert not switch.engaged


WATCHING = """
import asyncio, sys
from flags.sources.kill_switch import KillSwitch

async def watch():
    async with KillSwitch(sys.argv[1]) as switch:
        for expected in (False, True, False):
            while switch.engaged is not expected:
                await asyncio.sleep(0.01)
            print(switch.engaged, flush=True)
        switch.engage("from the other process")

asyncio.run(watch())
"""


async def test_another_process_sees_the_switch_soon(tmp_path):
    """On and off, in both directions: the file is all they share."""
    command = [sys.executable, "-c", WATCHING, str(tmp_path / "kill")]

    async with KillSwitch(tmp_path / "kill") as switch, await anyio.open_process(command) as process:
        assert process.stdout is not None
        told = BufferedByteReceiveStream(process.stdout)
        assert await told.receive_until(b"\n", 10) == b"False"
        switch.engage("a test")
        with anyio.fail_after(KILLED_S):
            assert await told.receive_until(b"\n", 10) == b"True"
        switch.release()
        with anyio.fail_after(KILLED_S):
            assert await told.receive_until(b"\n", 10) == b"False"
        await becomes(lambda: switch.engaged, KILLED_S)


async def test_who_and_why_come_to_every_process_and_are_logged_once(tmp_path, lines):
    """The last order counts. One that was written by hand has a reason and no name."""
    path = tmp_path / "kill"
    async with KillSwitch(path, poll_s=3600) as asked, KillSwitch(path, poll_s=0.01) as other:
        asked.engage("texts look odd", "anna")
        await becomes(lambda: other.order is not None)
        assert [(o.reason, o.by) for o in (asked.order, other.order)] == 2 * [("texts look odd", "anna")]
        asked.engage("they still do", "bert")
        await becomes(lambda: other.order.by == "bert")
        path.write_text("by hand\n")
        await becomes(lambda: other.order.reason == "by hand")
        assert other.order.by == ""
        asked.release("carl")
        await becomes(lambda: not other.engaged)

        assert asked.order is None
        assert other.order is None

    said = [line for line in lines() if "kill switch" in line]
    assert len([line for line in said if "engaged" in line]) == 2 + 3
    assert len([line for line in said if "released" in line]) == 2


@pytest.mark.parametrize("text", ["", "\n", "why", "why\nby: ", "by: anna", "\x1b[31mwhy\nby: a\x00b\nmore"])
def test_an_order_can_be_read_whatever_is_in_the_file(text):
    """One line each, of what can be printed; what was written is read again as it was."""
    order = KillOrder.read(text, 5.0)

    assert KillOrder.read(order.written(), 5.0) == order
    assert (order.reason + order.by).isprintable()
    assert order.shown()["at"] == "1970-01-01T00:00:05+00:00"


async def test_whoever_releases_releases_for_all(tmp_path):
    """The process that engaged the switch has no say beyond the file: it may be removed by hand."""
    async with KillSwitch(tmp_path / "kill") as switch:
        switch.engage("a test")
        (tmp_path / "kill").unlink()
        await becomes(lambda: not switch.engaged, KILLED_S)


async def test_a_switch_that_was_engaged_before_the_start_holds(tmp_path):
    """A restart does not forget a kill."""
    (tmp_path / "kill").touch()

    async with KillSwitch(tmp_path / "kill") as switch:
        assert switch.engaged


@pytest.mark.parametrize("engaged", [True, False])
async def test_a_directory_that_vanishes_changes_nothing_and_is_said(tmp_path, lines, engaged):
    """No file and no directory is not "released": the switch stays as it was last known."""
    async with KillSwitch(tmp_path / "run" / "kill", poll_s=0.01) as switch:
        if engaged:
            switch.engage("a test")
        shutil.rmtree(tmp_path / "run")
        await becomes(lambda: switch.problem)

        assert switch.engaged is engaged
        assert "cannot be read" in repr(switch)
        assert len([line for line in lines() if "cannot be read" in line]) == 1

        switch.engage("still works")
        assert switch.engaged
        await becomes(lambda: switch.problem is None)
        shutil.rmtree(tmp_path / "run")
        switch.release()
        await becomes(lambda: not switch.engaged and switch.problem is None)
        assert (tmp_path / "run").is_dir()


async def test_a_kill_that_cannot_be_shared_still_holds_here(tmp_path):
    """The operator is told, this process stops, and goes on only when the file can be settled."""
    directory = tmp_path / "run"
    async with KillSwitch(directory / "kill", poll_s=0.01) as switch:
        directory.rmdir()
        directory.write_text("in the way")
        with pytest.raises(KillSwitchError, match="engaged in this process only"):
            switch.engage("a test")
        await becomes(lambda: switch.problem)
        assert switch.engaged
        with pytest.raises(KillSwitchError, match="cannot be released"):
            switch.release()
        assert switch.engaged

        directory.unlink()
        directory.mkdir()
        await becomes(lambda: switch.problem is None)
        assert switch.engaged
        switch.release()
        assert not switch.engaged


async def test_a_full_disk_still_kills(tmp_path):
    """The reason is a courtesy: where it cannot be written, the empty file is the switch."""
    (tmp_path / f".kill.{os.getpid()}").mkdir()

    async with KillSwitch(tmp_path / "kill") as switch:
        switch.engage("a test")

    assert (tmp_path / "kill").read_text() == ""


async def test_what_a_full_disk_took_of_the_reason_is_not_left(tmp_path):
    """The draft that could not take the switch's place."""
    async with KillSwitch(tmp_path / "kill") as switch:
        (tmp_path / "kill").mkdir()
        switch.engage("a test")

    assert [place.name for place in tmp_path.iterdir()] == ["kill"]


async def test_a_switch_without_a_place_is_refused_at_the_start(tmp_path):
    """A switch that could never be seen is found out before it is needed."""
    (tmp_path / "run").write_text("in the way")

    with pytest.raises(KillSwitchError, match="cannot be watched"):
        await KillSwitch(tmp_path / "run" / "kill").__aenter__()
