"""Commands that only look: the settings in force, and why a user gets what he gets."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from flags.arms import bucket_of
from proxy.cli import main
from tests.servers.serving import flag_document
from tests.servers.streaming import route

SECRET = "hunter2-" * 5
FLAG = "headgate.streaming"


def headgate(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"SECRET": SECRET})


def written(directory: Path, flags: Any = None, **more: Any) -> str:
    path = directory / "headgate.yaml"
    (directory / "flags.json").write_text(json.dumps(flags or flag_document()))
    settings = {"upstream": {"url": "http://127.0.0.1:8000"}, "routes": [route()], **more}
    path.write_text(yaml.safe_dump(settings))
    return str(path)


# --- headgate settings


def test_the_settings_in_force_are_shown_with_their_defaults(tmp_path: Path) -> None:
    """Each by its full name; what nobody wrote is marked."""
    config = written(tmp_path, drain_s=7, limits={"connections": 99})

    rows = json.loads(headgate("settings", "--config", config, "--json").stdout)
    lines = headgate("settings", "--config", config).stdout.splitlines()

    found = {row["name"]: (row["value"], row["default"]) for row in rows}
    assert len(found) == len(rows) == len(lines)
    assert found["drain_s"] == (7.0, False)
    assert found["limits.connections"] == (99, False)
    assert found["limits.connections_of_client"][1] is True
    assert found["routes[0].name"] == ("start", False)
    assert found["routes[0].sections[1].panel"] == ("chat", False)
    assert found["upstream.breaker.failures"][1] is True
    assert "drain_s = 7.0" in lines
    assert [line for line in lines if line.startswith("listen = ")] == [
        'listen = "127.0.0.1:8080"  # default'
    ]


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Neither as text nor as JSON; that there is one can be seen."""
    config = written(
        tmp_path,
        admin_token="${SECRET}",
        identity={"jwt": {"key": "${SECRET}"}},
        event_log={"valkey": {"url": "redis://:${SECRET}@127.0.0.1:6379", "key": "${SECRET}"}},
    )

    for arguments in ((), ("--json",)):
        result = headgate("settings", "--config", config, *arguments)
        assert result.exit_code == 0
        assert "hunter2" not in result.stdout
        assert result.stdout.count("********") == 4


# --- headgate flags explain


def share(percent: int, **more: Any) -> dict[str, Any]:
    strategy = {
        "name": "flexibleRollout",
        "parameters": {"rollout": str(percent), "stickiness": "userId", "groupId": FLAG},
        **more,
    }
    return {"version": 2, "features": [{"name": FLAG, "enabled": True, "strategies": [strategy]}]}


def user_in(buckets: range) -> str:
    return next(user for n in range(10_000) if bucket_of(FLAG, user := f"user-{n}") in buckets)


def explained(config: str, user: str, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is said, and its steps by name."""
    result = headgate("flags", "explain", user, "start", "--config", config, "--json", *arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert [step["decides"] for step in said["steps"]] == [False] * (len(said["steps"]) - 1) + [True]
    assert said["steps"][-1]["step"] == said["reason"]
    return said, {step["step"]: step["says"] for step in said["steps"]}


def test_each_arm_is_explained_by_its_bucket(tmp_path: Path) -> None:
    """Of a flag at 20 %: stream, rest and control, each with where the lines are."""
    config = written(tmp_path, share(20))
    arms = {"stream": range(1, 21), "rest": range(21, 81), "control": range(81, 101)}

    for arm, buckets in arms.items():
        user = user_in(buckets)
        said, steps = explained(config, user)
        assert (said["arm"], said["mode"]) == (arm, "stream" if arm == "stream" else "batch")
        line = f"bucket {bucket_of(FLAG, user)} of the group '{FLAG}': 1 to 20 stream, 81 to 100 are control"
        assert steps["bucket"] == line
        assert steps["constraints"] == "the user meets the strategy's constraints and segments"


def test_a_constraint_that_leaves_the_user_out_is_named(tmp_path: Path) -> None:
    """His bucket alone would have let him in; with the tenant that is asked for he is in."""
    constraint = {"contextName": "tenant", "operator": "IN", "values": ["north"], "inverted": False}
    config, user = written(tmp_path, share(20, constraints=[constraint])), user_in(range(1, 21))

    out, steps = explained(config, user)
    inside, _ = explained(config, user, "--tenant", "north")

    assert (out["reason"], out["arm"]) == ("flag_off", "rest")
    assert steps["constraints"] == "the user does not meet the strategy's constraints and segments"
    assert inside["reason"] == "flag_on"


@pytest.mark.parametrize(
    ("flags", "arguments", "reason"),
    [
        (flag_document(kill=True), (), "killed"),
        ({"version": 2, "features": []}, (), "flag_unknown"),
        (share(0), (), "flag_off"),
        (share(100), ("--accept", "batch"), "accept"),
        (share(100), (), "flag_on"),
    ],
    ids=["killed", "unknown", "off", "accept", "on"],
)
def test_the_last_step_is_the_reason(
    tmp_path: Path, flags: dict[str, Any], arguments: tuple[str, ...], reason: str
) -> None:
    """The steps are those of a decision, in its order."""
    said, _ = explained(written(tmp_path, flags), "anna", *arguments)
    text = headgate(
        "flags", "explain", "anna", "start", "--config", str(tmp_path / "headgate.yaml"), *arguments
    )

    assert said["reason"] == reason
    assert text.stdout.splitlines()[0].startswith("anna on start: ")
    assert text.stdout.splitlines()[-1].startswith(f"  → {reason} ")


def test_a_route_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    """And flags that cannot be read, with why."""
    config = written(tmp_path)
    missing = headgate("flags", "explain", "anna", "strat", "--config", config)
    (tmp_path / "flags.json").write_text("{")
    broken = headgate("flags", "explain", "anna", "start", "--config", config)

    assert missing.exit_code == 2
    assert "there are: start" in missing.output
    assert broken.exit_code == 1
    assert "flags.json" in broken.output
