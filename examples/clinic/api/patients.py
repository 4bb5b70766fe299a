"""Cases and their chats."""

from typing import Any

from starlette.responses import Response

from examples.clinic.bodies import CasePatch, NewCase, NewMessage
from examples.clinic.endpoint import Call, route
from examples.clinic.stages import VALIDATION
from examples.clinic.store import cases, messages, stage_results
from examples.clinic.store.database import Row
from examples.clinic.workflow import Workflow


def show_list(call: Call) -> Any:
    user_id, window = call.user["id"], call.window()
    shown = cases.newest(call.db, user_id, skip=window.skip, limit=window.limit)
    return {"cases": shown, "total": cases.total(call.db, user_id)}


def open_case(call: Call) -> Any:
    return cases.add(call.db, call.user["id"], call.body.case_text)


def show(call: Call) -> Any:
    return call.own_case()


def show_details(call: Call) -> Any:
    case = call.own_case()
    chat = messages.oldest(call.db, case["id"])
    return case | {"messages": chat, "stage_results": stage_results.in_order(call.db, case["id"])}


def change(call: Call) -> Any:
    return cases.update(call.db, call.own_case("update"), **call.body.model_dump(exclude_none=True))


def delete(call: Call) -> Any:
    cases.delete(call.db, call.own_case("delete")["id"])
    return Response(status_code=204)


def show_chat(call: Call) -> Any:
    window, case = call.window(), call.own_case()
    shown = messages.oldest(call.db, case["id"], skip=window.skip, limit=window.limit)
    return {"messages": shown, "total": messages.total(call.db, case["id"])}


def say(call: Call) -> Any:
    case = call.own_case()
    message = messages.add(call.db, case["id"], role=call.body.role, content=call.body.content)
    if call.body.role == "user" and case["current_stage"] == VALIDATION:
        _answer_in_chat(call, case)
    return message


def _answer_in_chat(call: Call, case: Row) -> None:
    """The fault of the app this stands for: the work is done and saved, then a missing logger is called."""
    with call.llm() as llm:
        answer = Workflow(call.db, llm, case).validate_again()
    messages.add(call.db, case["id"], role="assistant", content=answer)
    raise NameError("name 'logger' is not defined")


ROUTES = [
    route("/api/cases", "GET", show_list),
    route("/api/cases", "POST", open_case, body=NewCase, status=201),
    route("/api/cases/{case_id}", "GET", show),
    route("/api/cases/{case_id}", "PATCH", change, body=CasePatch),
    route("/api/cases/{case_id}", "DELETE", delete),
    route("/api/cases/{case_id}/details", "GET", show_details),
    route("/api/cases/{case_id}/messages", "GET", show_chat),
    route("/api/cases/{case_id}/messages", "POST", say, body=NewMessage, status=201),
]
