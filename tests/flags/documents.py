"""Documents of flags, as tests write them to files and have servers answer them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from flags.decision import FlagAnswer

FLAG = "headgate.streaming"
ALICE = {"userId": "alice"}
BUSY = 10  # times as slow as it should be, a machine may be
APPLIED_S = 2.0 * BUSY  # the design's bound from a changed file to a changed answer
ON = FlagAnswer(known=True, enabled=True)
OFF = FlagAnswer(known=True, enabled=False)
SECRET = "Mrs Miller, fever of 38.9"


class Clock:
    """Time that passes when told to, or breaks."""

    now_s = 1000.0
    broken = False

    def __call__(self) -> float:
        if self.broken:
            raise ArithmeticError
        return self.now_s


def gradual(rollout: Any = "100", **parameters: Any) -> dict[str, Any]:
    return {
        "name": "flexibleRollout",
        "parameters": {"rollout": rollout, "stickiness": "userId", "groupId": "headgate", **parameters},
    }


def feature(
    *strategies: dict[str, Any], name: str = FLAG, enabled: Any = True, **more: Any
) -> dict[str, Any]:
    return {"name": name, "enabled": enabled, "strategies": list(strategies), **more}


def document(*features: Any) -> dict[str, Any]:
    return {"version": 2, "features": list(features)}


def write(path: Path, content: Any) -> None:
    """Replace the file in one step, as an editor or a config map does."""
    draft = path.with_suffix(".draft")
    draft.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    draft.replace(path)


async def becomes(happened: Callable[[], Any], within_s: float = APPLIED_S) -> None:
    with anyio.fail_after(within_s):
        while not happened():  # noqa: ASYNC110 - a file has no event to wait for
            await anyio.sleep(0.01)
