"""Changing the flag file: whole, only if it is still what was read, and nothing else in it."""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flags.errors import FlagAdminError, FlagChanged
from flags.rollout.writing import strategies
from flags.rollout.writing.file_admin import FileAdmin
from flags.rollout.writing.flag_admin import ManagedFlag, Strategy
from flags.sources.flag_file import FlagFile
from tests.servers.client import eventually
from tests.servers.serving import STREAMING, flag_document

FLAG = ManagedFlag(STREAMING)
DARK = ({"name": "dark", "weight": 1000, "weightType": "variable", "stickiness": "userId"},)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "flags.json"
    put(path, flag_document(10))
    return path


def put(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def strategy_of(path: Path) -> dict[str, Any]:
    strategy: dict[str, Any] = json.loads(path.read_text())["features"][0]["strategies"][0]
    return strategy


def content(path: Path) -> str:
    return path.read_text()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def inode(path: Path) -> int:
    return path.stat().st_ino


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def admin(path: Path) -> FileAdmin:
    return FileAdmin(path, FLAG)


async def write_share(path: Path, share: int) -> None:
    flag = await admin(path).read()
    await admin(path).write(replace(flag.strategy, share=share), flag)


async def test_a_share_is_read_and_written(path: Path) -> None:
    """A new read says what was written, under a higher event id."""
    before = await admin(path).read()

    after = await admin(path).write(replace(before.strategy, share=25), before)

    assert (before.strategy.share, after.strategy.share) == (10, 25)
    assert after.event_id > before.event_id
    assert after == replace(await admin(path).read(), event_by="headgate")
    assert (after.others, after.enabled, after.killed) == ((), True, False)


async def test_proxies_follow_what_is_written(path: Path) -> None:
    """The watcher of a proxy takes the file as it is replaced: kill, dark and share."""
    async with FlagFile(path, poll_s=0.01) as flags:
        flag = await admin(path).read()
        await admin(path).write(replace(flag.strategy, share=100, variants=DARK), flag)
        await eventually(lambda: flags.evaluate(STREAMING, {"userId": "ann"}).variant == "dark")

        await admin(path).kill(True)
        await eventually(lambda: flags.killed)

        await admin(path).kill(False)
        await eventually(lambda: not flags.killed)
        assert flags.problem is None


async def test_everything_else_in_the_file_stays(path: Path) -> None:
    """Other flags, segments, keys that nobody here knows, large numbers, and texts of any language."""
    document = flag_document(10)
    strategy = document["features"][0]["strategies"][0]
    strategy |= {
        "constraints": [{"contextName": "tenant", "operator": "IN", "values": ["é"], "note": 2**70}],
        "segments": [1],
        "title": "ours",
        "x-unknown": {"z": 1, "a": 1.10},
    }
    document["segments"] = [{"id": 1, "constraints": []}]
    document["features"].append({"name": "other", "enabled": False, "strategies": []})
    put(path, document)

    await write_share(path, 5)

    strategy["parameters"]["rollout"] = "5"
    assert content(path) == json.dumps(document, indent=2, ensure_ascii=False) + "\n"


async def test_what_changes_nothing_is_not_written(path: Path) -> None:
    """No new event for anybody to wonder at."""
    flag, was = await admin(path).read(), inode(path)

    assert await admin(path).write(flag.strategy, flag) == flag
    assert inode(path) == was


async def test_variants_are_added_and_taken_away(path: Path) -> None:
    """The dark step's variant comes and goes with the strategy it was written with."""
    flag = await admin(path).read()

    dark = await admin(path).write(replace(flag.strategy, variants=DARK), flag)
    assert strategy_of(path)["variants"] == list(DARK)

    light = await admin(path).write(replace(dark.strategy, variants=()), dark)
    assert strategy_of(path)["variants"] == []
    assert light.strategy.digest == flag.strategy.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda path: put(path, flag_document(5)),
        lambda path: put(path, flag_document(10, enabled=False)),
        lambda path: path.write_text(path.read_text() + "\n"),
        lambda path: os.utime(path, ns=(0, 0)),
    ],
)
async def test_a_file_changed_since_it_was_read_is_not_written(
    path: Path, change: Callable[[Path], None]
) -> None:
    """A human's edit between read and write wins, even one that sets the time of the file back."""
    flag = await admin(path).read()
    change(path)
    was = content(path)

    with pytest.raises(FlagChanged, match="nothing was written") as changed:
        await admin(path).write(replace(flag.strategy, share=50), flag)

    assert content(path) == was
    assert not changed.value.wrote


class Meddling(Mapping[str, Any]):
    """A constraint that takes its time: while it is written down, somebody saves the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, key: str) -> Any:
        return {"contextName": "tenant", "operator": "IN", "values": ["a"]}[key]

    def __iter__(self) -> Iterator[str]:
        put(self._path, flag_document(3))
        return iter(("contextName", "operator", "values"))

    def __len__(self) -> int:
        return 3


async def test_a_file_saved_in_the_very_moment_is_not_written_over(path: Path) -> None:
    """The last look is right before the file is replaced."""
    flag = await admin(path).read()

    with pytest.raises(FlagChanged, match="nothing was written"):
        await admin(path).write(replace(flag.strategy, constraints=(Meddling(path),)), flag)

    assert strategy_of(path)["parameters"]["rollout"] == "3"
    assert names(path.parent) == ["flags.json"]


async def test_event_ids_grow_though_the_clock_stands_still(path: Path) -> None:
    """Writes within one tick of the file's clock, or after it was set back, are told apart and in order."""
    ahead_ns = 2**61
    os.utime(path, ns=(ahead_ns, ahead_ns))
    ids = [(await admin(path).read()).event_id]
    for share in range(20):
        await write_share(path, share)
        ids.append((await admin(path).read()).event_id)

    assert ids == sorted(set(ids))


def make_link(path: Path, link: Path) -> None:
    path.chmod(0o664)
    link.symlink_to(path)


async def test_mode_and_link_stay(path: Path, tmp_path: Path) -> None:
    """A file that all may read stays so, and a link to it goes on pointing to it."""
    link = tmp_path / "link.json"
    make_link(path, link)

    await write_share(link, 30)

    assert mode(path) == 0o664
    assert strategy_of(path)["parameters"]["rollout"] == "30"
    assert names(tmp_path) == ["flags.json", "link.json"]


async def test_who_wrote_last_is_told_as_far_as_it_is_known(path: Path) -> None:
    """A file has no author: only what this process wrote itself is known."""
    ours = admin(path)
    flag = await ours.read()
    assert flag.event_by == "somebody with the file"

    await ours.write(replace(flag.strategy, share=20), flag)
    assert (await ours.read()).event_by == "headgate"

    put(path, flag_document(5))
    assert (await ours.read()).event_by == "somebody with the file"


def without(name: str) -> dict[str, Any]:
    document = flag_document(10)
    document["features"] = [feature for feature in document["features"] if feature["name"] != name]
    return document


def strategy(name: str = strategies.GRADUAL, rollout: str = "10", **more: Any) -> dict[str, Any]:
    parameters = {"rollout": rollout, "stickiness": "userId", "groupId": STREAMING}
    return {"name": name, "parameters": parameters | more.pop("parameters", {}), **more}


def killing(*its: dict[str, Any]) -> dict[str, Any]:
    document = flag_document(10)
    document["features"][1]["strategies"] = list(its)
    return document


PROBLEMS: list[tuple[dict[str, Any], list[str]]] = [
    (flag_document(10), []),
    (flag_document(10, strategies=[strategy(parameters={"groupId": f"{STREAMING}~3"})]), []),
    (flag_document(10, strategies=[strategy(variants=DARK)]), []),
    (without(STREAMING), [f"has no flag {STREAMING}: add it"]),
    (without("headgate.kill"), ["has no flag headgate.kill: add it, turned off"]),
    (flag_document(10, enabled=False), ["is off: set enabled to true"]),
    (flag_document(10, strategies=[]), ["has no strategy, which is everybody"]),
    (flag_document(10, strategies=[strategy(), strategy()]), ["has 2 enabled strategies"]),
    (flag_document(10, strategies=[strategy("default")]), ["kind default: replace it"]),
    (flag_document(10, strategies=[strategy(rollout="12.5")]), ["a fraction, and would enable nobody"]),
    (flag_document(10, strategies=[strategy(disabled=True)]), ["which the engine takes for an enabled one"]),
    (flag_document(10, strategies=[strategy(parameters={"stickiness": "random"})]), ["stickiness 'random'"]),
    (flag_document(10, strategies=[strategy(parameters={"groupId": "else"})]), ["group id 'else'"]),
    (flag_document(10, strategies=[strategy(variants=[*DARK, {"name": "b", "weight": 0}])]), ["named dark"]),
    (flag_document(10, variants=[*DARK, {"name": "b", "weight": 1}]), ["named dark"]),
    (flag_document(10, dependencies=[{"feature": "x"}]), ["depends on another flag"]),
    (killing(strategy(rollout="100")), ["headgate.kill asks who the user is"]),
    (killing(strategy(rollout="99", parameters={"stickiness": "default"})), ["headgate.kill asks who"]),
    (
        killing(
            strategy("default", constraints=[{"contextName": "userId", "operator": "IN", "values": ["ann"]}])
        ),
        ["headgate.kill asks who"],
    ),
    (killing(), []),
]


@pytest.mark.parametrize(("document", "says"), PROBLEMS)
async def test_what_a_rollout_cannot_start_from_is_named(
    path: Path, document: dict[str, Any], says: list[str]
) -> None:
    """Each problem by name, with what to do; a flag that is right has none."""
    put(path, document)

    problems = await admin(path).problems()

    assert len(problems) == len(says), problems
    assert all(part in problem for part, problem in zip(says, problems, strict=True)), problems


async def test_a_strategy_beside_ours_is_seen(path: Path) -> None:
    """Strategies are OR-ed: whoever reads the flag is told of the others, of whatever kind."""
    put(path, flag_document(10, strategies=[strategy("default"), strategy()]))

    flag = await admin(path).read()

    assert (flag.strategy.share, flag.strategy.id) == (10, "1")
    assert [(other.kind, other.share) for other in flag.others] == [("default", 100)]


def spoil(path: Path, text: str | None) -> None:
    path.unlink() if text is None else path.write_text(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "cannot be read"), ("{", "is not JSON"), (json.dumps(without(STREAMING)), "has no flag")],
)
async def test_a_file_that_cannot_be_used_is_an_error(path: Path, text: str | None, says: str) -> None:
    """Missing, broken or without the flag: the controller is told, and can only hold."""
    spoil(path, text)

    with pytest.raises(FlagAdminError, match=says):
        await admin(path).read()
    assert any(says in problem for problem in await admin(path).problems())


async def test_what_proxies_would_refuse_is_not_written(path: Path) -> None:
    """A constraint that the engine cannot read is found before the file is replaced."""
    flag, was = await admin(path).read(), content(path)

    with pytest.raises(FlagAdminError, match="engine refuses"):
        await admin(path).write(replace(flag.strategy, constraints=({"operator": 7},)), flag)

    assert content(path) == was


@pytest.mark.parametrize(
    "change", [{"share": 101}, {"share": -1}, {"share": 12.5}, {"share": True}, {"stickiness": ""}]
)
async def test_what_no_rollout_may_write_is_refused(path: Path, change: dict[str, Any]) -> None:
    """Shares are whole numbers from 0 to 100, and a strategy has its stickiness."""
    flag = await admin(path).read()

    with pytest.raises(ValueError, match=r"share|stickiness"):
        await admin(path).write(replace(flag.strategy, **change), flag)


async def test_killing_asks_nobody_who_they_are(path: Path) -> None:
    """A kill flag that would stop only some is made to stop everybody; and a missing one is made."""
    put(path, killing(strategy(rollout="100")))
    await admin(path).kill(True)
    assert (await admin(path).read()).killed

    put(path, without("headgate.kill"))
    await admin(path).kill(False)
    assert not (await admin(path).read()).killed
    await admin(path).kill(True)
    assert (await admin(path).read()).killed


async def test_killing_leaves_the_share_alone(path: Path) -> None:
    """After the kill is taken back, the rollout is where it was; and killing twice writes once."""
    before = (await admin(path).read()).strategy
    await admin(path).kill(True)
    once = inode(path)

    await admin(path).kill(True)
    assert inode(path) == once
    await admin(path).kill(False)

    after = await admin(path).read()
    assert (after.strategy, after.killed) == (before, False)


def test_a_digest_is_of_what_enables_users() -> None:
    """Titles, order and ids do not matter; everything that changes who is in does."""
    one = Strategy("1", 10, "userId", "g")

    assert replace(one, id="2", title="x", sort_order=3).digest == one.digest
    for change in (
        {"share": 11},
        {"group_id": "h"},
        {"segments": (1,)},
        {"variants": DARK},
        {"disabled": True},
    ):
        assert replace(one, **change).digest != one.digest  # type: ignore[arg-type]
