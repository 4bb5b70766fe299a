"""The people who have called at least once."""

import sqlite3

from examples.clinic.store.database import Row, count, find_one, now


def ensure(db: sqlite3.Connection, user_id: str, *, email: str | None, name: str | None) -> Row:
    """The user's row, inserted by the first call of any kind, a GET included."""
    db.execute(
        "INSERT OR IGNORE INTO users (email, name, job_title, id, created_at) VALUES (?, ?, NULL, ?, ?)",
        (email, name, user_id, now()),
    )
    user = find_one(db, "SELECT * FROM users WHERE id = ?", user_id)
    assert user is not None
    return user


def update(db: sqlite3.Connection, user: Row, changes: Row) -> Row:
    changed = user | changes | {"updated_at": now()}
    db.execute(
        "UPDATE users SET name = :name, job_title = :job_title, updated_at = :updated_at WHERE id = :id",
        changed,
    )
    return changed


def statistics(db: sqlite3.Connection, user_id: str) -> Row:
    return {
        "total_cases": count(db, "SELECT count(*) FROM cases WHERE user_id = ?", user_id),
        "completed_cases": count(db, "SELECT count(*) FROM cases WHERE user_id = ? AND is_complete", user_id),
    }
