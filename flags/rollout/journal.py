"""The journal: what a rollout did and why, for good, as an append-only chain of entries in one SQLite file.

Each entry holds the SHA-256 of the one before, so nothing before the last entry can be changed, taken out or
put in without `verify` naming it. A chain cannot show that its end was cut off, or that all of it was made
anew: for that, note the hash of the last entry somewhere else, such as in the log.

The hash is of five lines and the body, so `sha256sum` can do it by hand:

    <hash of the entry before; 64 zeros for the first>
    <seq>
    <at_s, the shortest decimal that gives the same float>
    <kind>
    <SHA-256 of the watermark; empty without one>
    <body: JSON, keys in order, no spaces, UTF-8, no newline at the end>

One writer, as many readers as there are; they do not wait for each other (write-ahead log). A commit is on
the disk before `append` returns. Keep the file on a local disk: readers and writer share memory.

This is no database of metrics: an entry a minute with 3 kB of body makes 10,080 entries and 40 MB a week.
"""

import fcntl
import hashlib
import json
import math
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flags.errors import JournalAbsent, JournalBroken, JournalBusy, JournalError

SCHEMA = 1
"""The file's. A newer one is refused: the newer version could not verify what this one would append."""

APPLICATION_ID = 0x48474A4C  # "HGJL": a file of SQLite's that is another's is refused
WAIT_S = 5.0
"""Seconds that a reader or the writer waits for SQLite's lock, which is held for moments."""

MAX_BODY_BYTES = 1 << 20
MAX_WATERMARK_BYTES = 16 << 20
PAGE = 256
"""Entries that a reader fetches at once, so that no reader blocks a checkpoint of the log for long."""

_NOTHING = "0" * 64
_KIND = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TABLES = """
CREATE TABLE entry (
    seq INTEGER PRIMARY KEY,
    at_s REAL NOT NULL,
    kind TEXT NOT NULL,
    watermark TEXT NOT NULL,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE TABLE watermark (only INTEGER PRIMARY KEY CHECK (only = 1), content BLOB NOT NULL) STRICT;
CREATE TRIGGER entry_stays BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER entry_kept BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One thing that happened."""

    seq: int
    """From 1, without gaps."""
    at_s: float
    """Unix time, by the writer's clock."""
    kind: str
    watermark: str
    """SHA-256 of the watermark that was kept together with it, in hexadecimal; "" if none was."""
    text: str
    """The body as it was hashed."""
    hash: str

    @property
    def body(self) -> dict[str, Any]:
        """A new copy at each call."""
        body: dict[str, Any] = json.loads(self.text)
        return body


def entries_in(path: Path, after_seq: int = 0) -> Iterator[JournalEntry]:
    """The entries of the journal at `path`, also while it is written; none where there is no journal yet."""
    with suppress(JournalAbsent), JournalReader.open(path) as journal:
        yield from journal.entries(after_seq)


def canonical(body: Mapping[str, Any]) -> str:
    """The one text of a body. Raises ValueError for what JSON cannot say: NaN, infinity, objects of ours."""
    try:
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()  # half a surrogate pair is no text
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"the body of an entry must be plain JSON: {exc}") from exc
    return text


def hash_entry(before: str, seq: int, at_s: float, kind: str, watermark: str, text: str) -> str:
    """The hash of one entry, as the docstring of this module has it."""
    return hashlib.sha256(
        "\n".join((before, str(seq), repr(at_s), kind, watermark, text)).encode()
    ).hexdigest()


class JournalReader:
    """The journal for readers, also while it is written. The opener closes it: `with`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Raises JournalAbsent, and JournalError if it is not one of ours. Does not verify it."""
        path = Path(path)
        if not path.is_file():
            raise JournalAbsent(path)
        with _as_journal_errors(path):
            connection = _connect(path, "ro")
            reader = cls(path, connection)
            try:
                if reader._is_empty():
                    raise JournalAbsent(path)
                reader._check_schema()
            except BaseException:
                connection.close()
                raise
        return reader

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    def entries(self, after_seq: int = 0) -> Iterator[JournalEntry]:
        """The entries after `after_seq`, in order, up to the last one there is when the reader gets there."""
        query = "SELECT seq, at_s, kind, watermark, body, hash FROM entry WHERE seq > ? ORDER BY seq LIMIT ?"
        while page := self._fetch(query, after_seq, PAGE):
            for row in page:
                yield JournalEntry(*row)
            after_seq = page[-1][0]

    def last(self) -> JournalEntry | None:
        """The last entry; None: the journal is empty."""
        rows = self._fetch(
            "SELECT seq, at_s, kind, watermark, body, hash FROM entry ORDER BY seq DESC LIMIT 1"
        )
        return JournalEntry(*rows[0]) if rows else None

    def latest(self, kind: str, until_seq: int) -> JournalEntry | None:
        """The last entry of this kind up to `until_seq`; None: there is none."""
        query = (
            "SELECT seq, at_s, kind, watermark, body, hash FROM entry "
            "WHERE seq <= ? AND kind = ? ORDER BY seq DESC LIMIT 1"
        )
        rows = self._fetch(query, until_seq, kind)
        return JournalEntry(*rows[0]) if rows else None

    def watermark(self) -> bytes | None:
        """The watermark of the last entry that has one; None without any. Raises JournalBroken."""
        query = (
            "SELECT (SELECT content FROM watermark), seq, watermark FROM entry "
            "WHERE watermark != '' ORDER BY seq DESC LIMIT 1"
        )
        rows = self._fetch(query)  # one statement: both from the same commit
        if not rows:
            return None
        content, seq, digest = rows[0]
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            raise JournalBroken(self._path, seq, "is kept with another watermark")
        return bytes(content)

    def verify(self) -> JournalEntry | None:
        """Recompute the whole chain; the last entry. Raises JournalBroken with the first wrong `seq`."""
        before: JournalEntry | None = None
        for entry in self.entries():
            seq, prior = (before.seq + 1, before.hash) if before else (1, _NOTHING)
            if entry.seq != seq:
                raise JournalBroken(self._path, seq, "is missing")
            if entry.hash != hash_entry(prior, seq, entry.at_s, entry.kind, entry.watermark, entry.text):
                raise JournalBroken(self._path, seq, "is not what was written: its hash does not fit")
            before = entry
        self.watermark()
        return before

    def _fetch(self, query: str, *values: Any) -> list[Any]:
        with _as_journal_errors(self._path):
            return self._connection.execute(query, values).fetchall()

    def _is_empty(self) -> bool:
        """True if the writer has not made the tables yet, which it does in one transaction."""
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return not tables

    def _check_schema(self) -> None:
        (application,), (schema,) = (
            self._connection.execute(f"PRAGMA {name}").fetchone()
            for name in ("application_id", "user_version")
        )
        if application != APPLICATION_ID:
            raise JournalError(self._path, "is not a journal of Headgate's; name another file")
        if schema != SCHEMA:
            problem = f"has schema {schema}, and this version knows {SCHEMA}; run the version that wrote it"
            raise JournalError(self._path, problem)


class Journal(JournalReader):
    """The journal for its one writer. The opener closes it: `with`."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: int, at: Callable[[str], None]
    ) -> None:
        super().__init__(path, connection)
        self._lock = lock
        self._at = at
        self._last: JournalEntry | None = None

    @classmethod
    def open(cls, path: Path | str, *, at: Callable[[str], None] = lambda point: None) -> Self:
        """Open or make the journal, and verify all of it: nothing is appended to a broken chain.

        Args:
            path: of the file. Beside it are `-wal` and `-shm` (SQLite's) and `.lock` (the writer's).
            at: called with each point of an `append` by name, for tests that end the process there.

        Raises JournalBusy while another process writes the file; JournalError if it is no journal, newer or
        damaged.
        """
        path = Path(path)
        lock = _lock(path)
        try:
            with _as_journal_errors(path):
                return cls(path, _connect(path, "rwc"), lock, at)._opened()
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        super().close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def append(
        self, kind: str, body: Mapping[str, Any], *, at_s: float, watermark: bytes | None = None
    ) -> JournalEntry:
        """Write one entry, and with it the watermark that replaces the one before: both or neither.

        When it returns, both are on the disk. Raises JournalError if they are not, as where the watermark is
        too large; ValueError for a kind or a body that no journal can hold.
        """
        entry = self._next(kind, canonical(body), at_s, watermark)
        with _as_journal_errors(self._path), self._transaction():
            self._refuse_if_another_wrote()
            self._at("begun")
            row = (entry.seq, entry.at_s, entry.kind, entry.watermark, entry.text, entry.hash)
            self._connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", row)
            self._at("written")
            if watermark is not None:
                self._connection.execute("INSERT OR REPLACE INTO watermark VALUES (1, ?)", (watermark,))
            self._at("marked")
        self._last = entry
        self._at("committed")
        return entry

    def _opened(self) -> Self:
        try:
            self._prepare()
            self._last = self.verify()
        except BaseException:
            self._connection.close()
            raise
        return self

    def _prepare(self) -> None:
        execute = self._connection.execute
        if self._is_empty():
            # A crash in here leaves an empty file, and the next writer makes the tables.
            execute("PRAGMA journal_mode=WAL")
            with self._transaction():
                for statement in _TABLES.strip().split(";\n"):
                    execute(statement)
                execute(f"PRAGMA application_id={APPLICATION_ID}")
                execute(f"PRAGMA user_version={SCHEMA}")
        self._check_schema()
        execute("PRAGMA synchronous=FULL")  # the log is on the disk at each commit
        if (found := execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise JournalError(self._path, f"is damaged ({found}); keep it aside, and restore a copy")

    def _next(self, kind: str, text: str, at_s: float, watermark: bytes | None) -> JournalEntry:
        if not _KIND.fullmatch(kind):
            raise ValueError(
                f"the kind of an entry must be 1 to 40 small letters, digits and '_', not {kind!r}"
            )
        if not math.isfinite(at_s):
            raise ValueError("at_s must be a time")
        if len(text.encode()) > MAX_BODY_BYTES:
            raise ValueError(f"the body of an entry must have at most {MAX_BODY_BYTES} bytes")
        if watermark is not None and len(watermark) > MAX_WATERMARK_BYTES:
            problem = (
                f"would keep counters of more than {MAX_WATERMARK_BYTES} bytes; name fewer routes or proxies"
            )
            raise JournalError(self._path, problem)
        seq, before = (self._last.seq + 1, self._last.hash) if self._last else (1, _NOTHING)
        at_s = float(at_s) + 0.0  # SQLite has no negative zero
        digest = "" if watermark is None else hashlib.sha256(watermark).hexdigest()
        return JournalEntry(seq, at_s, kind, digest, text, hash_entry(before, seq, at_s, kind, digest, text))

    def _refuse_if_another_wrote(self) -> None:
        if self.last() != self._last:
            raise JournalError(self._path, "was written by another process; end it, and start this one again")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back by itself
                self._connection.execute("ROLLBACK")
            raise


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT_S, isolation_level=None
    )


def _lock(path: Path) -> int:
    # Beside the file: closing any descriptor of the file itself would drop the locks SQLite has on it.
    beside = path.with_name(f"{path.name}.lock")
    try:
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise JournalError(path, f"cannot be written: {exc.strerror}; make its directory") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise JournalBusy(path) from exc
    return lock


@contextmanager
def _as_journal_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise JournalError(path, f"cannot be used: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        problem = f"is damaged or no journal ({exc}); keep it aside, and restore a copy"
        raise JournalError(path, problem) from exc
