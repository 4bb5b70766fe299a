"""Cases: a text, whose it is, and how far it has come."""

import sqlite3

from examples.clinic.store.database import Row, count, find, find_one, insert, new_id, now


def add(db: sqlite3.Connection, user_id: str, case_text: str) -> Row:
    case = {
        "case_text": case_text,
        "id": new_id(),
        "user_id": user_id,
        "current_stage": "initial",
        "is_complete": False,
        "created_at": now(),
        "updated_at": None,
    }
    return insert(db, "cases", case)


def get(db: sqlite3.Connection, case_id: str) -> Row | None:
    case = find_one(db, "SELECT * FROM cases WHERE id = ?", case_id)
    return None if case is None else _shown(case)


def newest(db: sqlite3.Connection, user_id: str, *, skip: int, limit: int) -> list[Row]:
    rows = find(
        db,
        "SELECT * FROM cases WHERE user_id = ?"
        " ORDER BY coalesce(updated_at, created_at) DESC LIMIT ? OFFSET ?",
        user_id,
        limit,
        skip,
    )
    return [_shown(row) for row in rows]


def total(db: sqlite3.Connection, user_id: str) -> int:
    return count(db, "SELECT count(*) FROM cases WHERE user_id = ?", user_id)


def update(db: sqlite3.Connection, case: Row, **changes: object) -> Row:
    """Write `changes` over `case`; returns the case as it is now."""
    changed = case | changes | {"updated_at": now()}
    db.execute(
        "UPDATE cases SET case_text = :case_text, current_stage = :current_stage, is_complete = :is_complete,"
        " updated_at = :updated_at WHERE id = :id",
        changed,
    )
    return changed


def delete(db: sqlite3.Connection, case_id: str) -> None:
    """Messages, results and documents of the case go with it."""
    db.execute("DELETE FROM cases WHERE id = ?", (case_id,))


def _shown(row: Row) -> Row:
    return row | {"is_complete": bool(row["is_complete"])}
