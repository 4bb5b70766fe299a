"""The demo's flags: two features in Unleash's client-features JSON, in a file that others watch."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

STREAMING, KILL = "headgate.streaming", "headgate.kill"


def fresh() -> dict[str, Any]:
    """Everybody streams, nothing is killed."""
    rollout = {"rollout": "100", "stickiness": "userId", "groupId": STREAMING}
    streaming = {
        "name": STREAMING,
        "type": "release",
        "enabled": True,
        "strategies": [{"name": "flexibleRollout", "parameters": rollout, "constraints": []}],
        "variants": [],
    }
    kill = {"name": KILL, "enabled": False, "strategies": [{"name": "default", "parameters": {}}]}
    return {"version": 2, "features": [streaming, kill]}


def read(path: Path) -> dict[str, Any]:
    """`{"rollout": 0..100, "kill": bool}`; of a file that is not there yet, that of a fresh one."""
    document = _load(path)
    return {
        "rollout": int(_parameters(document)["rollout"]),
        "kill": bool(_feature(document, KILL)["enabled"]),
    }


def write(path: Path, *, rollout: int, kill: bool) -> None:
    """Change two values and leave the rest. Whoever reads meanwhile sees a whole file, old or new."""
    document = _load(path)
    _parameters(document)["rollout"] = str(rollout)
    _feature(document, KILL)["enabled"] = kill
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    with os.fdopen(handle, "w") as new:
        json.dump(document, new, indent=2)
    os.replace(name, path)


def _load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else fresh()
    return document


def _feature(document: dict[str, Any], name: str) -> dict[str, Any]:
    feature: dict[str, Any] = next(one for one in document["features"] if one["name"] == name)
    return feature


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = _feature(document, STREAMING)["strategies"][0]["parameters"]
    return parameters
