"""Notes and reports: made as PDF on this machine's disk, downloaded by id."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from examples.clinic import pdf
from examples.clinic.endpoint import Call, route
from examples.clinic.stages import STAGES
from examples.clinic.store import documents, messages, stage_results
from examples.clinic.store.database import Row, new_id
from examples.clinic.workflow import Workflow


def make_note(call: Call) -> Any:
    case = call.own_case()
    return _filed(call, case, "note", _note(call, case))


def make_report(call: Call) -> Any:
    case = call.own_case()
    return _filed(call, case, "report", _report(call, case))


def generate_note(call: Call) -> Any:
    """The note as text; the frontend never asks for it."""
    case = call.own_case()
    if not case["is_complete"]:
        raise HTTPException(400, "Case must be complete to generate a note")
    return {"note": _note(call, case)}


def download(kind: str) -> Callable[[Call], Response]:
    def send(call: Call) -> Response:
        document = documents.get(call.db, call.own_case()["id"], call.id(f"{kind}_id"))
        if document is None:
            raise HTTPException(404, f"{kind.capitalize()} not found")
        path = Path(document["file_path"])
        headers = {"Content-Disposition": f'attachment; filename="{path.name}"'}
        # Not a FileResponse: that would add the ETag and Last-Modified which clients of this API never see.
        return Response(path.read_bytes(), media_type="application/pdf", headers=headers)

    return send


def _note(call: Call, case: Row) -> str:
    with call.llm() as llm:
        return Workflow(call.db, llm, case).write_note()


def _report(call: Call, case: Row) -> str:
    """The whole record of the case in one text."""
    texts = [f"# Case report\n\n{case['case_text']}"]
    for row in stage_results.in_order(call.db, case["id"]):
        if row["stage_name"] in STAGES:
            texts.append(row["result"][STAGES[row["stage_name"]].field])
    chat = messages.oldest(call.db, case["id"])
    texts += [f"## {message['role'].capitalize()}\n\n{message['content']}" for message in chat]
    return "\n\n".join(texts)


def _filed(call: Call, case: Row, kind: str, text: str) -> Row:
    document_id = new_id()
    path = call.settings.data_dir / f"{kind}s" / f"{kind}_{document_id}.pdf"
    try:
        content = pdf.render(text, title=f"Clinical {kind}")
    except pdf.HeadingOrder as exc:
        raise HTTPException(500, f"Failed to generate {kind}") from exc
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return documents.add(call.db, case["id"], document_id, path)


ROUTES = [
    route("/api/cases/{case_id}/notes", "POST", make_note, status=201),
    route("/api/cases/{case_id}/notes/{note_id}", "GET", download("note")),
    route("/api/cases/{case_id}/reports", "POST", make_report, status=201),
    route("/api/cases/{case_id}/reports/{report_id}", "GET", download("report")),
    route("/api/cases/{case_id}/generate-note", "POST", generate_note),
]
