"""The SQLite file: its tables, its connections, and the two values every row has, an id and a time."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

Row = dict[str, Any]

BUSY_S = 30.0
"""Seconds a write waits for another process's write."""

# No unique constraint on (case_id, stage_name): the app this stands for has none, so two workers that run the
# same stage at once may both insert.
TABLES = """
CREATE TABLE IF NOT EXISTS users (
    email TEXT, name TEXT, job_title TEXT, id TEXT PRIMARY KEY, created_at TEXT NOT NULL, updated_at TEXT);
CREATE TABLE IF NOT EXISTS cases (
    case_text TEXT NOT NULL, id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users,
    current_stage TEXT NOT NULL, is_complete INTEGER NOT NULL, created_at TEXT NOT NULL, updated_at TEXT);
CREATE TABLE IF NOT EXISTS messages (
    role TEXT NOT NULL, content TEXT NOT NULL, id TEXT PRIMARY KEY,
    case_id TEXT NOT NULL REFERENCES cases ON DELETE CASCADE, created_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stage_results (
    stage_name TEXT NOT NULL, result TEXT NOT NULL, is_approved INTEGER NOT NULL, id TEXT PRIMARY KEY,
    case_id TEXT NOT NULL REFERENCES cases ON DELETE CASCADE, created_at TEXT NOT NULL, updated_at TEXT);
CREATE TABLE IF NOT EXISTS documents (
    file_path TEXT NOT NULL, id TEXT PRIMARY KEY,
    case_id TEXT NOT NULL REFERENCES cases ON DELETE CASCADE, created_at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS cases_by_user ON cases (user_id);
CREATE INDEX IF NOT EXISTS messages_by_case ON messages (case_id);
CREATE INDEX IF NOT EXISTS stage_results_by_case ON stage_results (case_id, stage_name);
"""


def prepare(data_dir: Path) -> None:
    """Make the directory and the tables; what is there already stays."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with connected(data_dir) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(TABLES)


@contextmanager
def connected(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """A connection that commits after every statement.

    That is what makes a finished stage visible to the other workers before the next call to the model starts.
    """
    with closing(sqlite3.connect(data_dir / "clinic.sqlite3", timeout=BUSY_S, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = NORMAL")
        yield db


def find(db: sqlite3.Connection, sql: str, *values: object) -> list[Row]:
    return [dict(row) for row in db.execute(sql, values)]


def find_one(db: sqlite3.Connection, sql: str, *values: object) -> Row | None:
    return next(iter(find(db, sql, *values)), None)


def count(db: sqlite3.Connection, sql: str, *values: object) -> int:
    """The number that a `SELECT count(*)` gives."""
    return int(db.execute(sql, values).fetchone()[0])


def insert(db: sqlite3.Connection, table: str, row: Row) -> Row:
    """Returns the row as given; the table's columns and the row's keys have the same order."""
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
    return row


def new_id() -> str:
    return str(uuid4())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
