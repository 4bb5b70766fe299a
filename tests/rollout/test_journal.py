"""The journal: a chain that shows where it was touched, and that a crash leaves whole."""

import hashlib
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flags.errors import JournalBroken, JournalError
from flags.rollout import journal as journals
from flags.rollout.journal import Journal, JournalReader

AT_S = 1_700_000_000.1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        yield opened


def fill(path: Path, entries: int) -> None:
    """A closed journal of so many."""
    with Journal.open(path) as journal:
        for n in range(entries):
            journal.append("tick", {"n": n}, at_s=AT_S + n, watermark=f"counters {n}".encode())


def touch(path: Path, statement: str) -> None:
    """Change a closed journal behind its back, triggers or not."""
    connection = sqlite3.connect(path)
    connection.executescript(f"DROP TRIGGER entry_stays; DROP TRIGGER entry_kept; {statement}")
    connection.close()


def test_what_was_appended_is_read_back_in_order(journal: Journal, path: Path) -> None:
    """Entries are numbered from 1 and come back as they were written, floats and letters included."""
    body = {"z": 0.1, "a": ["é ✅", None, True, 2**70], "empty": {}}

    first = journal.append("started", body, at_s=AT_S)
    second = journal.append("tick", {}, at_s=AT_S + 60)

    assert list(journal.entries()) == [first, second]
    assert list(journal.entries(after_seq=1)) == [second] == [journal.last()]
    assert (first.seq, first.at_s, first.kind, first.body) == (1, AT_S, "started", body)
    assert journal.verify() == second


def test_the_hash_can_be_computed_by_hand(journal: Journal) -> None:
    """Five lines and the body through sha256sum: no code of ours is needed to check a journal."""
    journal.append("started", {"b": 1, "a": 2}, at_s=1.5)
    entry = journal.append("tick", {"b": 1, "a": 2}, at_s=2.0, watermark=b"w")
    before = next(journal.entries()).hash
    lines = f"{before}\n2\n2.0\ntick\n{hashlib.sha256(b'w').hexdigest()}\n" + '{"a":2,"b":1}'

    said = subprocess.run(["sha256sum"], input=lines.encode(), capture_output=True, check=True).stdout

    assert said.decode().split()[0] == entry.hash


def test_a_journal_is_continued_where_it_ended(path: Path) -> None:
    """A writer that starts again goes on with the chain and the watermark of the one before."""
    fill(path, 3)

    with Journal.open(path) as journal:
        entry = journal.append("tick", {"n": 3}, at_s=AT_S)

        assert entry.seq == 4
        assert journal.verify() == entry
        assert journal.watermark() == b"counters 2"


def test_more_entries_than_a_page_come_whole(path: Path) -> None:
    """A reader fetches by pages, and nobody sees where they end."""
    fill(path, journals.PAGE * 2 + 1)

    with JournalReader.open(path) as reader:
        assert [entry.seq for entry in reader.entries()] == list(range(1, journals.PAGE * 2 + 2))


@pytest.mark.parametrize(
    ("damage", "seq", "what"),
    [
        ("UPDATE entry SET body = '{\"n\":9}' WHERE seq = 2", 2, "hash does not fit"),
        ("UPDATE entry SET at_s = 1 WHERE seq = 3", 3, "hash does not fit"),
        ("UPDATE entry SET kind = 'other' WHERE seq = 1", 1, "hash does not fit"),
        ("UPDATE entry SET watermark = '' WHERE seq = 4", 4, "hash does not fit"),
        ("DELETE FROM entry WHERE seq = 2", 2, "is missing"),
        ("DELETE FROM entry WHERE seq = 1", 1, "is missing"),
        ("UPDATE entry SET seq = 7 WHERE seq = 5", 5, "is missing"),
        ("UPDATE watermark SET content = x'00'", 5, "another watermark"),
        ("DELETE FROM watermark", 5, "another watermark"),
    ],
)
def test_whatever_is_changed_is_named(path: Path, damage: str, seq: int, what: str) -> None:
    """The first entry that is not what was written; a writer refuses to go on after it."""
    fill(path, 5)
    touch(path, damage)

    with (
        JournalReader.open(path) as reader,
        pytest.raises(JournalBroken, match=f"entry {seq} .*{what}") as broken,
    ):
        reader.verify()
    with pytest.raises(JournalBroken):
        Journal.open(path)

    assert broken.value.seq == seq


def test_an_entry_made_anew_breaks_the_next(path: Path) -> None:
    """If the changed entry's hash is computed anew, the change shows at the next entry."""
    fill(path, 3)
    with JournalReader.open(path) as reader:
        first, second, _ = reader.entries()
    forged = journals.hash_entry(first.hash, 2, second.at_s, "tick", second.watermark, '{"n":9}')
    touch(path, f"UPDATE entry SET body = '{{\"n\":9}}', hash = '{forged}' WHERE seq = 2")

    with JournalReader.open(path) as reader, pytest.raises(JournalBroken, match="entry 3"):
        reader.verify()


@pytest.mark.parametrize("statement", ["UPDATE entry SET kind = 'x'", "DELETE FROM entry"])
def test_the_file_itself_refuses_changes(path: Path, statement: str) -> None:
    """A hand at the SQLite shell is told that entries stay."""
    fill(path, 1)
    connection = sqlite3.connect(path)

    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


def test_readers_and_the_writer_do_not_wait_for_each_other(journal: Journal, path: Path) -> None:
    """`headgate rollout status` reads while the controller writes, each seeing whole entries only."""
    journal.append("tick", {}, at_s=AT_S)
    with JournalReader.open(path) as reader:
        reading = reader.entries()
        next(reading)
        second = journal.append("tick", {}, at_s=AT_S, watermark=b"2")

        assert list(reading) == [second]
        assert reader.watermark() == b"2"
        assert reader.verify() == second


def test_a_reader_cannot_write(path: Path) -> None:
    """A reader for status holds no right to change it, and needs no writer to be there."""
    fill(path, 1)

    with JournalReader.open(path) as reader:
        assert reader.verify() is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._connection.execute("DELETE FROM watermark")


def test_there_is_one_writer(journal: Journal, path: Path) -> None:
    """A second one is refused while the first has it open."""
    with pytest.raises(JournalError, match="another process; there is one writer"):
        Journal.open(path)


def test_a_writer_that_finds_foreign_entries_stops(journal: Journal, path: Path) -> None:
    """Past the lock (the lock's file was removed, say) the chain itself shows a second writer."""
    journal.append("tick", {}, at_s=AT_S)
    path.with_name("journal.db.lock").unlink()
    with Journal.open(path) as second:
        second.append("tick", {}, at_s=AT_S)

    with pytest.raises(JournalError, match="was written by another process"):
        journal.append("tick", {}, at_s=AT_S)

    assert [entry.seq for entry in journal.entries()] == [1, 2]


def newer(path: Path) -> None:
    fill(path, 1)
    touch(path, f"PRAGMA user_version={journals.SCHEMA + 1}")


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (x)")
    connection.close()


def garbled(path: Path) -> None:
    fill(path, 40)
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (newer, "has schema 2, and this version knows 1"),
        (foreign, "is not a journal of Headgate's"),
        (garbled, "damaged"),
        (
            lambda path: path.write_text("not SQLite at all, but long enough to be looked at" * 9),
            "damaged or no",
        ),
        (Path.mkdir, "cannot be used"),
    ],
)
def test_a_file_that_is_no_journal_is_refused(path: Path, make: Callable[[Path], None], says: str) -> None:
    """Newer, another program's, damaged, or no file: the error says which, and nothing is written."""
    make(path)
    was = path.read_bytes() if path.is_file() else b""

    with pytest.raises(JournalError, match=says) as refused:
        Journal.open(path)

    assert str(path) in str(refused.value)
    assert (path.read_bytes() if path.is_file() else b"") == was


@pytest.mark.parametrize("make", [newer, foreign, lambda path: None])
def test_a_reader_refuses_what_is_no_journal_too(path: Path, make: Callable[[Path], None]) -> None:
    """A reader makes nothing."""
    make(path)
    existed = path.exists()

    with pytest.raises(JournalError):
        JournalReader.open(path)

    assert path.exists() == existed


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The journal makes its file, not its directory."""
    with pytest.raises(JournalError, match="make its directory"):
        Journal.open(tmp_path / "absent" / "journal.db")


@pytest.mark.parametrize(
    ("kind", "body", "at_s", "says"),
    [
        ("tick", {"e": float("inf")}, AT_S, "plain JSON"),
        ("tick", {"e": float("nan")}, AT_S, "plain JSON"),
        ("tick", {"e": "\ud800"}, AT_S, "plain JSON"),
        ("tick", {"e": object()}, AT_S, "plain JSON"),
        ("tick", {"e": "x" * journals.MAX_BODY_BYTES}, AT_S, "at most"),
        ("Tick", {}, AT_S, "small letters"),
        ("ti\nck", {}, AT_S, "small letters"),
        ("tick", {}, float("nan"), "time"),
    ],
)
def test_what_cannot_be_kept_as_it_is_is_refused(
    journal: Journal, kind: str, body: dict[str, object], at_s: float, says: str
) -> None:
    """An infinite e-value would come back as null: refused, and the journal goes on as before."""
    with pytest.raises(ValueError, match=says):
        journal.append(kind, body, at_s=at_s)

    assert journal.last() is None
    assert journal.append("tick", {}, at_s=AT_S).seq == 1


def test_a_watermark_has_a_bound(journal: Journal) -> None:
    """Raw counters of a few proxies are kilobytes; with what grows beyond the bound nothing is written."""
    with pytest.raises(JournalError, match="fewer routes or proxies"):
        journal.append("tick", {}, at_s=AT_S, watermark=bytes(journals.MAX_WATERMARK_BYTES + 1))


def test_a_write_that_fails_leaves_nothing(path: Path) -> None:
    """An append that is interrupted, by whatever, is not there, and the next one takes its number."""
    fatal = ["marked"]

    def interrupt(point: str) -> None:
        if point in fatal:
            fatal.remove(point)
            raise KeyboardInterrupt

    with Journal.open(path, at=interrupt) as journal:
        with pytest.raises(KeyboardInterrupt):
            journal.append("tick", {"n": 1}, at_s=AT_S, watermark=b"1")

        assert journal.last() is None
        assert journal.watermark() is None
        assert journal.append("tick", {"n": 2}, at_s=AT_S).seq == 1


DIES = """
import os, signal, sys
from flags.rollout.journal import Journal

path, fatal = sys.argv[1:]
die = lambda point: os.kill(os.getpid(), signal.SIGKILL) if point == fatal else None
journal = Journal.open(path, at=die)
journal.append("tick", {"n": 3}, at_s=3.0, watermark=b"counters 3")
"""


@pytest.mark.parametrize(
    ("point", "kept"), [("begun", False), ("written", False), ("marked", False), ("committed", True)]
)
def test_a_killed_writer_leaves_an_entry_whole_or_not_at_all(path: Path, point: str, kept: bool) -> None:
    """kill -9 at each point of an append: afterwards the journal verifies, entry and watermark agree."""
    fill(path, 3)

    died = subprocess.run([sys.executable, "-c", DIES, str(path), point], check=False)

    assert died.returncode == -signal.SIGKILL
    with JournalReader.open(path) as reader:  # readers do not depend on a writer to mend it first
        assert reader.verify() is not None
    with Journal.open(path) as journal:
        last = journal.last()
        assert last is not None
        assert last.body == {"n": 3 if kept else 2}
        assert journal.watermark() == (b"counters 3" if kept else b"counters 2")
        assert journal.append("tick", {}, at_s=AT_S).seq == last.seq + 1


def test_a_log_cut_anywhere_leaves_entries_whole_or_not_at_all(path: Path, tmp_path: Path) -> None:
    """Power lost in the middle of a commit: however much of the log is on the disk, the journal verifies."""
    log, seen = path.with_name("journal.db-wal"), set()
    with Journal.open(path) as journal:
        for n in range(3):
            journal.append("tick", {"n": n}, at_s=AT_S, watermark=b"counters %d" % n)
        content, whole = path.read_bytes(), log.read_bytes()

    for cut in (*range(0, len(whole), 509), len(whole)):  # a prime: no step falls on SQLite's boundaries
        copy = tmp_path / str(cut) / "journal.db"
        copy.parent.mkdir()
        copy.write_bytes(content)
        copy.with_name("journal.db-wal").write_bytes(whole[:cut])
        with Journal.open(copy) as journal:
            last = journal.last()
            assert journal.watermark() == (b"counters %d" % last.body["n"] if last else None)
            seen.add(last.seq if last else 0)
        shutil.rmtree(copy.parent)

    assert seen == {0, 1, 2, 3}


def test_a_week_is_as_large_as_the_docs_say(path: Path) -> None:
    """An entry a minute with 3 kB of body: some 40 MB, and the watermark is there once."""
    body, counters = {"numbers": "x" * 3000}, bytes(20_000)
    with Journal.open(path) as journal:
        for n in range(500):
            journal.append("tick", body, at_s=AT_S + n, watermark=counters)
    week = (path.stat().st_size - len(counters)) / 500 * 10_080

    assert 30e6 < week < 45e6, week


ROLLOUT_PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"
BACKUP = re.compile(r"^python3 (-c '.*') rollout\.sqlite rollout\.backup\.sqlite$", re.MULTILINE)


def test_the_journal_is_backed_up_while_it_is_written_and_restored(journal: Journal, tmp_path: Path) -> None:
    """By the command of the docs. The copy is whole, and goes on where it was made."""
    journal.append("started", {}, at_s=AT_S)
    before = journal.append("tick", {"n": 1}, at_s=AT_S + 1)
    command = BACKUP.findall(ROLLOUT_PAGE.read_text(encoding="utf-8"))
    copy = tmp_path / "copy.sqlite"
    line = f"{shlex.quote(sys.executable)} {command[0]} {tmp_path / 'journal.db'} {copy}"
    subprocess.run(["sh", "-c", line], check=True, timeout=60)
    journal.append("tick", {"n": 2}, at_s=AT_S + 2)

    with Journal.open(copy) as restored:
        assert restored.verify() == before
        assert restored.append("tick", {"n": 3}, at_s=AT_S + 3).seq == 3
