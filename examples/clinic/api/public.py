"""Endpoints without a token: health, description, and contact."""

import json
import sqlite3
from typing import Any

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse

from examples.clinic.bodies import Letter
from examples.clinic.endpoint import Call, route
from examples.clinic.stages import UI_LABELS

VERSION = "1.0.0"
DOCS = """<!doctype html><html lang="en"><title>Clinic API</title><h1>Clinic API</h1>
<p>The description is at <a href="/api/openapi.json">/api/openapi.json</a>.</p></html>"""


def greet(call: Call) -> Any:
    return {"message": "Clinic API", "version": VERSION}


def show_health(call: Call) -> Any:
    try:
        call.db.execute("SELECT 1 FROM users LIMIT 1")
    except sqlite3.Error:
        return JSONResponse({"status": "unhealthy", "database": "unreachable", "version": VERSION}, 503)
    return {"status": "healthy", "database": "connected", "version": VERSION}


def show_docs(call: Call) -> Any:
    return HTMLResponse(DOCS)


def show_mapping(call: Call) -> Any:
    labels = list(dict.fromkeys(UI_LABELS.values()))
    return {"mapping": UI_LABELS, "backend_stages": list(UI_LABELS), "frontend_stages": labels}


def take_letter(call: Call) -> Any:
    if not call.settings.can_mail:
        raise HTTPException(500, "Email service is not configured")

    def post() -> None:
        with (call.settings.data_dir / "outbox.jsonl").open("a") as outbox:
            outbox.write(json.dumps(call.body.model_dump(), ensure_ascii=False) + "\n")

    return JSONResponse({"message": "Your message has been sent."}, background=BackgroundTask(post))


ROUTES = [
    route("/", "GET", greet, is_public=True),
    route("/health", "GET", show_health, is_public=True),
    route("/docs", "GET", show_docs, is_public=True),
    route("/api/stages/mapping", "GET", show_mapping, is_public=True),
    route("/api/contact", "POST", take_letter, body=Letter, is_public=True),
]
