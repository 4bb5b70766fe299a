"""The chat of a case. The browser writes it; a repeated POST writes it twice."""

import sqlite3

from examples.clinic.store.database import Row, count, find, insert, new_id, now


def add(db: sqlite3.Connection, case_id: str, *, role: str, content: str) -> Row:
    message = {"role": role, "content": content, "id": new_id(), "case_id": case_id, "created_at": now()}
    return insert(db, "messages", message)


def oldest(db: sqlite3.Connection, case_id: str, *, skip: int = 0, limit: int = -1) -> list[Row]:
    """A negative `limit` means all, as in SQLite."""
    return find(
        db, "SELECT * FROM messages WHERE case_id = ? ORDER BY rowid LIMIT ? OFFSET ?", case_id, limit, skip
    )


def total(db: sqlite3.Connection, case_id: str) -> int:
    return count(db, "SELECT count(*) FROM messages WHERE case_id = ?", case_id)
