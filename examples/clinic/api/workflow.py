"""Start, process, approve: the calls that take minutes because they wait for the model."""

import time
from typing import Any

from examples.clinic.bodies import StageInput
from examples.clinic.endpoint import Call, route
from examples.clinic.stages import FIRST_GROUP, GROUP_OF_NAME, STAGES, next_after
from examples.clinic.store import cases, stage_results
from examples.clinic.store.database import Row
from examples.clinic.workflow import Workflow


def start(call: Call) -> Any:
    return _run(call, FIRST_GROUP.name, None)


def process(call: Call) -> Any:
    return _run(call, call.path["stage"], call.body.input_text)


def approve(call: Call) -> Any:
    case, stage_name = call.own_case(), call.path["stage"]
    row = stage_results.get(call.db, case["id"], stage_name)
    if row is None:
        nothing = {"error": f"No result found for stage: {stage_name}"}
        return _answer(stage_name, nothing, is_approved=True, next_stage=None)
    stage_results.approve(call.db, row)
    following = next_after(stage_name)
    cases.update(call.db, case, current_stage=following)
    result = {
        "stage_name": stage_name,
        "is_approved": True,
        "next_stage": following,
        "message": f"Stage {stage_name} approved. Moving to {following}.",
    }
    return _answer(stage_name, result, is_approved=True, next_stage=following)


def _run(call: Call, name: str, input_text: str | None) -> Row:
    case, began = call.own_case(), time.monotonic()
    if name not in GROUP_OF_NAME and name not in STAGES:
        # The made-up name is stored before it is refused, and the refusal is a success.
        cases.update(call.db, case, current_stage=name)
        return _answer(name, {"error": f"Unknown stage: {name}"})
    with call.llm() as llm:
        result = _result(Workflow(call.db, llm, case), name, input_text)
    timed = result | {"processing_time": round(time.monotonic() - began, 2)}
    return _answer(name, timed, next_stage=result["next_stage"])


def _result(workflow: Workflow, name: str, input_text: str | None) -> Row:
    if name in GROUP_OF_NAME:
        return workflow.run_group(GROUP_OF_NAME[name], input_text)
    return workflow.run_stage(STAGES[name], input_text)


def _answer(name: str, result: Row, *, is_approved: bool = False, next_stage: str | None = None) -> Row:
    return {"stage_name": name, "result": result, "is_approved": is_approved, "next_stage": next_stage}


ROUTES = [
    route("/api/cases/{case_id}/workflow/start", "POST", start),
    route("/api/cases/{case_id}/workflow/stages/{stage}/process", "POST", process, body=StageInput),
    route("/api/cases/{case_id}/workflow/stages/{stage}/approve", "POST", approve),
]
