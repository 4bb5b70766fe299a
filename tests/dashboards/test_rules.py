"""Alerts fire when they should and not otherwise: after resets, without traffic, without a single series."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from dashboards.__main__ import files, main
from dashboards.objectives import OBJECTIVES
from dashboards.place import Place
from dashboards.rules import CRITICAL, INFO, WARNING, alerts, groups

ROOT = Path(__file__).parents[2]
RULES = ROOT / "dashboards" / "rules.yaml"
INHIBITION = ROOT / "dashboards" / "inhibition.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")

Series = Mapping[str, str]
"""Of promtool: a series and its values, one a minute, or in five where it takes days; `0+5x60` begins at 0
and grows by 5 sixty times."""


@dataclass(frozen=True)
class Case:
    """A case: the series that are there, and whether an alert fires `at` a time, in minutes."""

    alert: str
    name: str
    series: Series
    at: int
    fires: tuple[str, ...] = ()
    """With these severities."""


BOTH = (CRITICAL, WARNING)
"""Both severities: what is bad in an hour is bad in a day; whoever routes them lets a page silence its
ticket."""

PLACE = 'job="headgate",route="start"'
HOUR, DAY = 60, 1440


def deliveries(every: str, quick: str) -> Series:
    return {
        f"headgate_delivery_seconds_count{{{PLACE}}}": every,
        f'headgate_delivery_seconds_bucket{{{PLACE},le="0.1"}}': quick,
    }


def answers(every: str, good: str, bad: str = "failed") -> Series:
    """`every` is there for the same arguments as the others."""
    labels = f'{PLACE},arm="stream",bucket="3"'
    return {
        f'headgate_outcomes_total{{{labels},outcome="complete"}}': good,
        f'headgate_outcomes_total{{{labels},outcome="{bad}"}}': difference(every, good),
    }


def recoveries(every: str, good: str) -> Series:
    labels = f'{PLACE},fault="source_lost"'
    return {
        f'headgate_recoveries_total{{{labels},result="fell_back"}}': good,
        f'headgate_recoveries_total{{{labels},result="failed"}}': difference(every, good),
    }


def difference(every: str, good: str) -> str:
    """Term by term: of `a+bxn` the begins and the steps."""
    terms = []
    for one, other in zip(every.split(), good.split(), strict=True):
        (a, b, n), (c, d, _) = (
            re.fullmatch(r"(\d+)\+([\d.]+)x(\d+)", term).groups() for term in (one, other)
        )  # type: ignore[union-attr]
        terms.append(f"{int(a) - int(c)}+{float(b) - float(d):g}x{n}")
    return " ".join(terms)


COUNTERS = {
    "HeadgateDeliverySlow": deliveries,
    "HeadgateAnswersFail": answers,
    "HeadgateRecoveryFails": recoveries,
}


def burning() -> list[Case]:
    """The same for each promise; a bad share of 16 budgets burns fast, one of 1.5 slowly."""
    cases = []
    for objective in OBJECTIVES:
        both = BOTH if objective.critical else (WARNING,)
        of, fast, slow = COUNTERS[objective.alert], 16 * objective.budget, 1.5 * objective.budget
        many, few = objective.events, 0.8 * objective.events / HOUR

        def counted(share: float, minutes: int, rate: float = many, began: int = 0) -> tuple[str, str]:
            return f"{began}+{rate:g}x{minutes}", f"{began}+{rate * (1 - share):g}x{minutes}"

        def joined(*parts: tuple[str, str]) -> tuple[str, str]:
            return " ".join(every for every, _ in parts), " ".join(good for _, good in parts)

        slowly = counted(slow, 3 * DAY // 5)
        resets = [counted(0, 9) for _ in range(8)]
        bad_resets = [counted(fast, 9) for _ in range(8)]
        began = int(many * 30), int(many * 30 * (1 - fast))
        mended = (
            f"0+{many:g}x30 {began[0]}+{many:g}x65",
            f"0+{many * (1 - fast):g}x30 {began[1]}+{many:g}x65",
        )
        cases += [
            Case(objective.alert, "fires", of(*counted(fast, 70)), 70, both),
            Case(objective.alert, "fires for a slow burn", of(*slowly), 3 * DAY, (WARNING,)),
            Case(objective.alert, "is quiet within the budget", of(*counted(objective.budget / 2, 70)), 70),
            Case(objective.alert, "pages no more when it is over", of(*mended), 95, (WARNING,)),
            Case(objective.alert, "is quiet when proxies restart", of(*joined(*resets)), 75),
            Case(objective.alert, "fires though proxies restart", of(*joined(*bad_resets)), 75, both),
            Case(objective.alert, "is quiet without traffic", of("0+0x70", "0+0x70"), 70),
            Case(objective.alert, "is quiet with little traffic", of(*counted(1, 59, few)), 59),
            Case(objective.alert, "is quiet without a series", {}, 70),
        ]
    return cases


def runs(streamed: str, fell_back: str, turned_away: str = "0x70") -> Series:
    return {
        f'headgate_runs_total{{{PLACE},arm="stream",source="tap",outcome="complete"}}': streamed,
        f'headgate_runs_total{{{PLACE},arm="stream",source="tap",outcome="fell_back"}}': fell_back,
        f'headgate_runs_total{{{PLACE},arm="stream",source="tap",outcome="client_left"}}': "0+50x70",
        f'headgate_requests_total{{{PLACE},mode="batch",reason="breaker_open"}}': turned_away,
    }


def calls(runs_: str = "0+1x70", tapped: str = "0+3x70", **others: str) -> Series:
    """Model calls by result, of a route whose runs are well."""
    counted = {"tapped": tapped, **others}
    series = {f'headgate_tap_calls_total{{job="headgate",result="{name}"}}': n for name, n in counted.items()}
    return {f'headgate_runs_total{{{PLACE},arm="stream",source="tap",outcome="complete"}}': runs_, **series}


MISSING = f'headgate_parity_total{{{PLACE},result="missing"}}'
REPLACED = f'headgate_parity_total{{{PLACE},result="replaced"}}'
PROXY = '{job="headgate",instance="one"}'
OTHER = '{job="headgate",instance="two"}'
AGE, KILL, STORE, BUILD = (
    f"headgate_{name}{PROXY}" for name in ("flag_age_seconds", "kill_switch", "event_log_up", "build_info")
)
OTHER_KILL, OTHER_STORE = f"headgate_kill_switch{OTHER}", f"headgate_event_log_up{OTHER}"
LOOK, INTERVAL, EVIDENCE = (
    f"headgate_rollout_{name}{PROXY}"
    for name in ("last_look_timestamp_seconds", "look_interval_seconds", "last_evidence_timestamp_seconds")
)
NEXT_LOOK, NEXT_INTERVAL = LOOK.replace("one", "two"), INTERVAL.replace("one", "two")
NOT_IN_FORCE = 'headgate_rollout_not_in_force{job="headgate",instance="one"}'
RUNNING = 'headgate_rollout_phase{job="headgate",instance="one",phase="running"}'
NEXT_RUNNING, PAUSED, NEXT_PAUSED, OVER = (
    RUNNING.replace("one", instance).replace("running", phase)
    for instance, phase in (("two", "running"), ("one", "paused"), ("two", "paused"), ("one", "rolled_back"))
)
UP = f"up{PROXY}"

FEW = {f'headgate_runs_total{{{PLACE},arm="stream",source="tap",outcome="fell_back"}}': "0+1x70"}

LEVELS: Mapping[str, Sequence[tuple[Any, ...]]] = {
    "HeadgateFallbackSurge": [
        ("fires", runs("0+7x70", "0+3x70"), 60, (WARNING,)),
        ("fires for requests turned away", runs("0+7x70", "0x70", "0+3x70"), 60, (WARNING,)),
        ("is quiet with a few", runs("0+9x70", "0+1x70"), 60),
        ("is quiet when proxies restart", runs("0+9x9 " * 7, "0+1x9 " * 7), 65),
        ("is quiet without traffic", runs("0x70", "0x70"), 60),
        ("is quiet with little traffic", runs("0+0.2x70", "0+0.3x70"), 60),
        ("is quiet without a series", {}, 60),
    ],
    "HeadgateTapLost": [
        ("fires for runs without their calls", runs("0+0.1x70", "0+0.3x70"), 60, (WARNING,)),
        ("fires for calls without context", calls(no_context="0+1x70"), 60, (WARNING,)),
        ("fires for models without streams", calls(avoided="0+1x70"), 60, (WARNING,)),
        ("fires for tokens that are over", calls(unmatched="0+1x70"), 60, (WARNING,)),
        ("is quiet with a few", calls("0+9x70", lost="0+0.5x70") | FEW, 60),
        ("is quiet for users who get batch", calls(not_tapped="0+50x70"), 60),
        ("is quiet while nobody streams", calls("0x70", no_context="0+9x70"), 60),
        ("is quiet when proxies restart", runs("0+9x9 " * 7, "0+1x9 " * 7), 65),
        ("is quiet with little traffic", runs("0+0.05x70", "0+0.05x70"), 60),
        ("is quiet without a series", {}, 60),
    ],
    "HeadgateTextWrong": [
        ("fires", {MISSING: "0x10 1x10"}, 12, (CRITICAL,)),
        ("is quiet for what was put right", {REPLACED: "0+1x20", MISSING: "0x20"}, 12),
        ("is quiet when proxies restart", {MISSING: "3x10 0x20"}, 12),
        ("fires though proxies restart", {MISSING: "3x9 0x2 1x20"}, 14, (CRITICAL,)),
        ("is quiet when it is over", {MISSING: "0x5 1x60"}, 40),
        ("is quiet without a series", {}, 12),
    ],
    "HeadgateFlagsStale": [
        ("fires", {AGE: "5x5 60+60x10"}, 12, (WARNING,)),
        ("fires where no flags ever came", {AGE: "1000000000x10"}, 5, (WARNING,)),
        ("is quiet for a late poll", {AGE: "5x5 90 5x10"}, 8),
        ("is quiet without a series", {}, 8),
    ],
    "HeadgateKilled": [
        ("fires", {KILL: "1x10", OTHER_KILL: "0x10"}, 5, (WARNING,)),
        ("is quiet when it is off", {KILL: "1x4 0x10"}, 7),
        ("is quiet without a series", {}, 5),
    ],
    "HeadgateEventLogDown": [
        ("fires for one of two", {STORE: "1x5 0x10", OTHER_STORE: "1x20"}, 10, (CRITICAL,)),
        ("is quiet for a moment", {STORE: "1x5 0 1x10"}, 10),
        ("is quiet without a series", {}, 10),
    ],
    "HeadgateControllerSilent": [
        ("fires", {LOOK: "0+60x10 600x30", INTERVAL: "60x40"}, 30, (CRITICAL,)),
        ("fires when it is gone", {LOOK: "60+60x10", INTERVAL: "60x10"}, 40, (CRITICAL,)),
        (
            "fires for a rollout that runs, though it was paused before",
            {LOOK: "60+60x10", INTERVAL: "60x10", PAUSED: "1x5 0x5", RUNNING: "0x5 1x5"},
            40,
            (CRITICAL,),
        ),
        (
            "only informs when the rollout was paused, and then stopped",
            {LOOK: "60+60x10", INTERVAL: "60x10", PAUSED: "0x5 1x5", RUNNING: "1x5 0x5"},
            40,
            (INFO,),
        ),
        (
            "only informs when the last of two pods found it paused",
            {
                LOOK: "60+60x10",
                INTERVAL: "60x10",
                RUNNING: "1x10",
                PAUSED: "0x10",
                NEXT_LOOK: "_x12 720+60x5",
                NEXT_INTERVAL: "_x12 60x5",
                NEXT_RUNNING: "_x12 0x5",
                NEXT_PAUSED: "_x12 1x5",
            },
            40,
            (INFO,),
        ),
        (
            "is quiet when the rollout is over",
            {LOOK: "60+60x10", INTERVAL: "60x10", RUNNING: "1x5 0x5", OVER: "0x5 1x5"},
            40,
        ),
        ("is quiet while it looks", {LOOK: "0+60x40", INTERVAL: "60x40"}, 30),
        (
            "is quiet for another pod",
            {LOOK: "60+60x9", INTERVAL: "60x9", NEXT_LOOK: "_x12 720+60x40", NEXT_INTERVAL: "_x12 60x40"},
            40,
        ),
        ("is quiet for a slow one", {LOOK: "60x40", INTERVAL: "600x40"}, 30),
        ("is quiet before it ever looked", {LOOK: "0x40", INTERVAL: "60x40"}, 30),
        ("is quiet where there is none", {}, 40),
    ],
    "HeadgateRolloutNotWritten": [
        ("fires", {NOT_IN_FORCE: "1x40"}, 5, (CRITICAL,)),
        ("is quiet for a moment", {NOT_IN_FORCE: "0 1 0x40"}, 5),
        ("is quiet without a series", {}, 30),
    ],
    "HeadgateRolloutBlind": [
        ("fires", {EVIDENCE: "60x40", RUNNING: "1x40"}, 30, (WARNING,)),
        ("is quiet with evidence", {EVIDENCE: "0+60x40", RUNNING: "1x40"}, 30),
        ("is quiet when it is over", {EVIDENCE: "60x40", RUNNING: "0x40"}, 30),
        ("is quiet without a series", {}, 30),
    ],
    "HeadgateMetricsAbsent": [
        ("fires without a series", {}, 7, (CRITICAL,)),
        (
            "fires for one proxy",
            {BUILD: "1x5", UP: "1x5 0x20", BUILD.replace("one", "two"): "1x30"},
            14,
            (CRITICAL,),
        ),
        ("is quiet when all are there", {BUILD: "1x30", UP: "1x30"}, 14),
        ("is quiet for what is not ours", {BUILD: "1x30", 'up{job="other"}': "0x30"}, 14),
    ],
}
"""By the alert, what `Case` has besides."""

CASES = [*burning(), *(Case(alert, *row) for alert, rows in LEVELS.items() for row in rows)]


def told(case: Case) -> Mapping[str, Any]:
    """Return the case as promtool has it; alerts that fire are counted, by severity."""
    firing = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
    expected = [{"labels": f'{{severity="{severity}"}}', "value": 1} for severity in case.fires]
    return {
        "interval": "1m" if case.at < DAY else "5m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {
                # promtool shows the expression of what failed.
                "expr": f"# {case.name}\ncount by (severity) ({firing})",
                "eval_time": f"{case.at}m",
                "exp_samples": expected,
            }
        ],
    }


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("alert", "days"), sorted({(case.alert, case.at >= DAY) for case in CASES}))
def test_an_alert(alert: str, days: bool, tmp_path: Path) -> None:
    """In each case it fires, with its severity and no other, or it does not."""
    cases = [case for case in CASES if case.alert == alert and (case.at >= DAY) == days]
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "30m" if days else "1m",
        "group_eval_order": [group["name"] for group in groups()],
        "tests": [told(case) for case in cases],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(document))

    result = promtool("test", "rules", str(path))

    assert result.returncode == 0, result.stderr + result.stdout


def test_every_alert_is_shown_to_fire_and_not_to() -> None:
    """Also without a series; what is a rate, also after resets and without traffic."""
    severities = {(alert.name, alert.severity) for alert in alerts()}
    assert {(case.alert, severity) for case in CASES for severity in case.fires} == severities
    for name in {alert.name for alert in alerts()}:
        assert [case for case in CASES if case.alert == name and not case.fires], name
        assert [case for case in CASES if case.alert == name and not case.series], name
        if any(
            "rate(" in alert.expr or "increase(" in alert.expr for alert in alerts() if alert.name == name
        ):
            assert [case for case in CASES if case.alert == name and "restart" in case.name], name


def test_promtool_accepts_the_rules() -> None:
    """Names, expressions, and templates."""
    result = promtool("check", "rules", str(RULES))

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_lies_here_is_what_the_python_says(path: Path) -> None:
    """`make docs` would change nothing."""
    assert path.read_text(encoding="utf-8") == files()[path]


def test_rules_of_one_place_are_about_nothing_else(tmp_path: Path) -> None:
    """Every series that they read is narrowed, recorded ones too; each alert has the place's labels."""
    place = Place("https://wiki/books", 'namespace="clinic"', {"team": "ai"})
    rules = [rule for group in groups(place) for rule in group["rules"]]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups(place)}))

    for rule in rules:
        named = re.findall(r"(?<![\w:])(?:\w+:)?headgate_[\w:]+", rule["expr"])
        assert named
        assert rule["expr"].count('{namespace="clinic"') == len(named)
        if "alert" in rule:
            assert rule["labels"]["team"] == "ai"
            assert rule["annotations"]["runbook_url"].startswith("https://wiki/books/")
    assert promtool("check", "rules", str(path)).returncode == 0


def test_what_is_recorded_says_its_level() -> None:
    """`level:metric:operation`: the level has the labels that are left."""
    names = [rule["record"] for group in groups() for rule in group["rules"] if "record" in rule]

    for name in names:
        assert re.fullmatch(
            r"namespace_job_route:headgate_[a-z_]+:(ratio_rate|events_increase)\d+[mhd]", name
        )


def test_the_worse_silences_the_less_bad_of_the_same(tmp_path: Path) -> None:
    """Alertmanager takes the file, and the labels that must agree are those that alerts have."""
    rules = yaml.safe_load(INHIBITION.read_text(encoding="utf-8"))["inhibit_rules"]
    path = tmp_path / "alertmanager.yml"
    path.write_text(
        yaml.safe_dump({"route": {"receiver": "a"}, "receivers": [{"name": "a"}], "inhibit_rules": rules})
    )

    assert [rule["target_matchers"][1] for rule in rules] == ['severity=~"warning|info"', 'severity=~"info"']
    taken = subprocess.run(["amtool", "check-config", str(path)], capture_output=True, text=True, check=False)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert "2 inhibit rules" in taken.stdout


def test_every_alert_leads_to_its_runbook() -> None:
    """The runbook is a page here, and an alert leads to each runbook."""
    rules: Sequence[Mapping[str, Any]] = [rule for group in groups() for rule in group["rules"]]
    pages = {rule["annotations"]["runbook_url"].rsplit("/", 1)[1] for rule in rules if "alert" in rule}

    assert {page.name for page in RUNBOOKS.glob("Headgate*.md")} == pages


def test_rules_and_dashboards_are_made_for_the_names_of_another_place(tmp_path: Path) -> None:
    """Of labels, titles, UIDs and tags, by a file; no label has its old name, and promtool agrees."""
    config, out = tmp_path / "place.yaml", tmp_path / "out"
    config.write_text(
        "names: {cluster: k8s_cluster, namespace: kube_ns, instance: target}\n"
        "titles: 'AI gateway: '\nuids: ai-\ntag: ai\nlabels: {team: ai}\n"
        "runbooks: https://wiki.example.org/runbooks\n"
    )
    done = CliRunner().invoke(main, ["--config", str(config), "--out", str(out)])
    assert done.exit_code == 0, done.output

    streams = json.loads((out / "streams.json").read_text())
    assert (streams["title"], streams["uid"], streams["tags"]) == (
        "AI gateway: Streams",
        "ai-streams",
        ["ai"],
    )
    rules = (out / "rules.yaml").read_text()
    for text in (rules, *(path.read_text() for path in out.glob("*.json"))):
        assert not re.search(
            r"[{(,]\s*(namespace|instance|cluster)\s*[=),]|labels\.(namespace|instance)", text
        )
    assert "kube_ns" in rules
    [first, *_] = yaml.safe_load((out / "inhibition.yaml").read_text())["inhibit_rules"]
    assert first["equal"] == ["alertname", "kube_ns", "job", "route"]
    assert {rule["labels"]["team"] for rule in _alerts(rules)} == {"ai"}
    subprocess.run(["promtool", "check", "rules", out / "rules.yaml"], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("titel: x", "titel is unknown"),
        ("names: {route: path}", "names: route"),
        ("labels: team", "labels must be a map"),
        ("- x", "must be names with values"),
    ],
)
def test_a_file_of_names_that_means_nothing_is_refused(tmp_path: Path, said: str, problem: str) -> None:
    """With what is wrong, and before anything is written."""
    config = tmp_path / "place.yaml"
    config.write_text(said)
    done = CliRunner().invoke(main, ["--config", str(config), "--out", str(tmp_path / "out")])

    assert done.exit_code == 2
    assert problem in done.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def _alerts(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule]
