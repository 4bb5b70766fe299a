"""Paths of the demo page only: a token for a made-up user, and the flag. 404 unless the setting is there."""

from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from examples.clinic import flag_file
from examples.clinic.bodies import FlagState
from examples.clinic.endpoint import Call, route
from examples.clinic.tokens import demo_token


def give_token(call: Call) -> Any:
    if not call.settings.is_demo:
        raise HTTPException(404)
    return {"token": demo_token(call.query.get("user", "demo"), call.settings.jwt_secret)}


def show_flag(call: Call) -> Any:
    return flag_file.read(_file(call))


def set_flag(call: Call) -> Any:
    path = _file(call)
    flag_file.write(path, rollout=call.body.rollout, kill=call.body.kill)
    return flag_file.read(path)


def _file(call: Call) -> Path:
    if call.settings.flags_file is None:
        raise HTTPException(404)
    return call.settings.flags_file


ROUTES = [
    route("/demo/token", "GET", give_token, is_public=True),
    route("/demo/flag", "GET", show_flag, is_public=True),
    route("/demo/flag", "PUT", set_flag, body=FlagState, is_public=True),
]
