"""The results of stages and of their groups, one row for each name; a second run overwrites the first."""

import json
import sqlite3

from examples.clinic.store.database import Row, find, find_one, insert, new_id, now


def put(db: sqlite3.Connection, case_id: str, stage_name: str, result: Row) -> None:
    """Insert or overwrite, and commit."""
    text = json.dumps(result, ensure_ascii=False)
    updated = db.execute(
        "UPDATE stage_results SET result = ?, is_approved = 0, updated_at = ?"
        " WHERE case_id = ? AND stage_name = ?",
        (text, now(), case_id, stage_name),
    )
    if not updated.rowcount:
        _add(db, case_id, stage_name, text)


def _add(db: sqlite3.Connection, case_id: str, stage_name: str, text: str) -> None:
    row = {
        "stage_name": stage_name,
        "result": text,
        "is_approved": 0,
        "id": new_id(),
        "case_id": case_id,
        "created_at": now(),
        "updated_at": None,
    }
    insert(db, "stage_results", row)


def get(db: sqlite3.Connection, case_id: str, stage_name: str) -> Row | None:
    row = find_one(
        db, "SELECT * FROM stage_results WHERE case_id = ? AND stage_name = ?", case_id, stage_name
    )
    return None if row is None else _shown(row)


def in_order(db: sqlite3.Connection, case_id: str) -> list[Row]:
    """Return the rows in the order in which they were first written: an overwritten row keeps its place."""
    rows = find(db, "SELECT * FROM stage_results WHERE case_id = ? ORDER BY rowid", case_id)
    return [_shown(row) for row in rows]


def approve(db: sqlite3.Connection, row: Row) -> None:
    db.execute("UPDATE stage_results SET is_approved = 1, updated_at = ? WHERE id = ?", (now(), row["id"]))


def _shown(row: Row) -> Row:
    return row | {"result": json.loads(row["result"]), "is_approved": bool(row["is_approved"])}
