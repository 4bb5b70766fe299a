"""`headgate doctor` as its user meets it: lines, JSON and exit codes; no secret in any of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.doctor.findings.diagnosis import Diagnosis, Grade, as_line, exit_code
from tests.servers.ports import free_port
from tests.servers.serving import flag_document
from tests.servers.streaming import route

SECRETS = {
    "event_log": {
        "valkey": {"url": "redis://ada:s3cret@127.0.0.1:9", "key": "k3y-of-more-than-thirty-two-characters"}
    },
    "admin_token": "t0ken-of-an-operator",
}


def config(directory: Path, **more: Any) -> Path:
    (directory / "flags.json").write_text(json.dumps(flag_document()))
    path = directory / "headgate.yaml"
    upstream = {"url": f"http://127.0.0.1:{free_port()}", "pool": {"keep_alive_s": 0.1}}
    path.write_text(yaml.safe_dump({"upstream": upstream, "routes": [route()], **more}))
    return path


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments], env={"HEADGATE_PROBE_KEY": "pr0be-key"})


def test_lines_say_what_was_seen_and_what_to_do(tmp_path: Path) -> None:
    """Exit code 1, since there is something to do."""
    result = doctor("--config", str(config(tmp_path, **SECRETS)))

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("FAIL    upstream: does not answer")
    assert lines[1] == "        → Start the upstream, mend upstream.url, or open the way there from here."
    assert any(line.startswith("ok      flags: ") for line in lines)
    assert any(line.startswith("FAIL    store: ") for line in lines)
    assert result.stderr == ""


def test_json_has_every_finding(tmp_path: Path) -> None:
    result = doctor("--config", str(config(tmp_path)), "--json")

    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["findings"][0] == {
        "check": "upstream",
        "status": "fail",
        "seen": "does not answer: the connection was refused, or the name is not known",
        "advice": "Start the upstream, mend upstream.url, or open the way there from here.",
    }


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_secret_is_in_the_output(tmp_path: Path, form: tuple[str, ...]) -> None:
    """Of the settings, and of the environment."""
    result = doctor("--config", str(config(tmp_path, **SECRETS)), *form)

    assert not any(secret in result.output for secret in ("s3cret", "k3y-of", "t0ken", "pr0be"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "/absent/headgate.yaml"),
        ("--probe-model", "nobody=small"),
        ("--wrong",),
        ("--route", "absent"),
        ("--route", "start"),
        ("--from", "https://public.example"),
        ("--route", "start", "--param", "case_id=7", "--headers", "/absent"),
    ],
    ids=["settings", "provider", "option", "route", "parameter", "stream to compare", "headers"],
)
def test_what_cannot_run_ends_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """And with one line that says why."""
    result = doctor("--config", str(config(tmp_path)), *arguments)

    assert result.exit_code == 2
    assert result.stderr != "" and result.stdout == ""


def test_a_real_request_is_announced(tmp_path: Path) -> None:
    """On standard error, before it is sent: it has all of its effects."""
    result = doctor("--config", str(config(tmp_path)), "--route", "start", "--param", "case_id=7", "--json")

    assert result.stderr == "Sending real requests: start to the upstream. They have all their effects.\n"
    checks = {each["check"]: each["status"] for each in json.loads(result.stdout)["findings"]}
    assert checks["route start"] == "fail"
    assert checks["tracing start"] == "skipped"


def test_wrong_settings_end_it_with_2(tmp_path: Path) -> None:
    """With every problem, as `check` has them."""
    result = doctor("--config", str(config(tmp_path, admin_token="short", limit=1)))

    assert result.exit_code == 2
    assert "admin_token" in result.stderr and "limit" in result.stderr


@pytest.mark.parametrize(
    ("grades", "code"),
    [
        ([], 0),
        ([Grade.OK, Grade.SKIPPED], 0),
        ([Grade.OK, Grade.WARN], 1),
        ([Grade.FAIL, Grade.OK], 1),
    ],
)
def test_the_exit_code(grades: list[Grade], code: int) -> None:
    """0 for ok and skipped alone."""
    assert exit_code(Diagnosis("check", grade, "seen") for grade in grades) == code


def test_a_line_without_advice_is_one_line() -> None:
    assert as_line(Diagnosis("store", Grade.OK, "answers")) == "ok      store: answers"
