"""Notes and reports: where on this machine's disk each PDF lies. Every request for one makes a new one."""

import sqlite3
from pathlib import Path

from examples.clinic.store.database import Row, find_one, insert, now


def add(db: sqlite3.Connection, case_id: str, document_id: str, path: Path) -> Row:
    document = {"file_path": str(path), "id": document_id, "case_id": case_id, "created_at": now()}
    return insert(db, "documents", document)


def get(db: sqlite3.Connection, case_id: str, document_id: str) -> Row | None:
    return find_one(db, "SELECT * FROM documents WHERE id = ? AND case_id = ?", document_id, case_id)
