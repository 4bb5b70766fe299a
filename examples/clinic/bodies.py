"""The bodies of requests, and the check that names everything wrong with one at once."""

import json
from collections.abc import Mapping
from json import JSONDecodeError
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from examples.clinic.refusals import Invalid, Problem, missing


class NewCase(BaseModel):
    case_text: str


class CasePatch(BaseModel):
    case_text: str | None = None
    current_stage: str | None = None
    is_complete: bool | None = None


class NewMessage(BaseModel):
    role: Literal["user", "assistant"]
    content: str


class StageInput(BaseModel):
    input_text: str | None = None


class Profile(BaseModel):
    name: str | None = None
    job_title: str | None = None


class Letter(BaseModel):
    name: str
    email: str
    subject: str
    message: str


class Window(BaseModel):
    """The query of every list."""

    skip: int = Field(default=0, ge=0)
    limit: int = Field(default=100, ge=1)


class FlagState(BaseModel):
    rollout: int = Field(ge=0, le=100)
    kill: bool


_UUID: TypeAdapter[UUID] = TypeAdapter(UUID)


def parse(payload: bytes, content_type: str | None) -> Any:
    """The JSON of a body; None when there is no body, the text itself when it does not claim to be JSON."""
    if not payload:
        return None
    if content_type is not None and "json" not in content_type:
        return payload.decode(errors="replace")
    try:
        return json.loads(payload)
    except (JSONDecodeError, UnicodeDecodeError) as exc:
        raise Invalid([_not_json(exc)]) from exc


def check_body(model: type[BaseModel], value: Any) -> BaseModel | list[Problem]:
    if value is None:
        return [missing("body")]
    try:
        return model.model_validate(value, from_attributes=True)
    except ValidationError as exc:
        return _problems(exc, "body")


def read_window(query: Mapping[str, str]) -> Window:
    """Raises `Invalid`."""
    try:
        return Window.model_validate(dict(query))
    except ValidationError as exc:
        raise Invalid(_problems(exc, "query")) from exc


def check_ids(path: Mapping[str, str]) -> list[Problem]:
    """Name the path parameters that must be UUIDs and are not."""
    return [
        problem for name, text in path.items() if name.endswith("_id") for problem in _check_id(name, text)
    ]


def _check_id(name: str, text: str) -> list[Problem]:
    try:
        _UUID.validate_python(text)
    except ValidationError as exc:
        return _problems(exc, "path", name)
    return []


def _problems(error: ValidationError, *place: str) -> list[Problem]:
    found = error.errors(include_url=False)
    return [{**problem, "loc": [*place, *problem["loc"]]} for problem in found]


def _not_json(error: ValueError) -> Problem:
    position = getattr(error, "pos", getattr(error, "start", 0))
    reason = getattr(error, "msg", "Not UTF-8")
    return {
        "type": "json_invalid",
        "loc": ["body", position],
        "msg": "JSON decode error",
        "input": {},
        "ctx": {"error": reason},
    }
