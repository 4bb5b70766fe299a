"""Prometheus rules: recorded ratios, and alerts that somebody can do something about. Prints `rules.yaml`.

Budgets burn in two windows at once: the long one says that it matters, the short one that it still goes on
(multi-window, multi-burn-rate; The Site Reliability Workbook, chapter 5, table 5-8). Each alert that is about
a rate needs so many events, and each that is about a level needs the series; that those are missing is an
alert of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from dashboards.objectives import APART, BY, OBJECTIVES, Objective
from dashboards.place import EVERYWHERE, Place

CRITICAL, WARNING, INFO = "critical", "warning", "info"
"""A person now, a person today, nobody: as in the rules of most clusters, so that their routes fit."""

INHIBITED_BY = ("alertname", "namespace", "job", "route")
"""A more severe alert that has these in common silences a less severe one."""

DEPLOYMENT = "namespace, job"
POD = f"{DEPLOYMENT}, instance"

FALLBACK_SHARE, FALLBACK_EVENTS = 0.2, 20
"""The share and the number of runs that fall back when the source of live text is down. One failed model call
causes fewer."""

TAP_LOST_SHARE, TAP_LOST_RUNS, TAP_LOST_CALLS = 0.2, 5, 20
"""The share and the numbers without live words when the backend passes no trace context on: then all of them
have none, also where a small share of the users streams."""

FLAG_AGE_S, FLAG_STALE_S = 120, 300
"""The second is the default of `flags.stale_s`, after which everybody gets batch; the first is well below."""

SILENT_LOOKS, SILENT_S = 5, 300
"""A controller is silent after so many missed looks, and at least so many seconds."""

BLIND_S = 900
"""Seconds, as the default of the policy's `page_after_s`."""


@dataclass(frozen=True, slots=True)
class Burn:
    """A 30-day error budget that burns `factor` times too fast, in both windows."""

    factor: float
    long: str
    short: str
    severity: str


BURNS = (
    Burn(14.4, "1h", "5m", CRITICAL),  # 2 % of the month's budget in an hour
    Burn(6, "6h", "30m", CRITICAL),  # 5 % in six
    Burn(3, "1d", "2h", WARNING),  # 10 % in a day
    Burn(1, "3d", "6h", WARNING),  # 10 % in three
)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: the condition, for how long it holds, and the annotations."""

    name: str
    expr: str
    severity: str
    wait: str
    summary: str
    description: str

    def rule(self, place: Place) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": place.scoped(self.expr),
            "for": self.wait,
            "labels": {"severity": self.severity, **place.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{place.runbooks}/{self.name}.md",
            },
        }


LEVEL = BY.replace(", ", "_")
"""The labels of what is recorded, as the first part of its name."""


def ratio_name(objective: Objective, window: str) -> str:
    """The name of the recorded ratio of bad events."""
    return f"{LEVEL}:headgate_{objective.name}:ratio_rate{window}"


def count_name(objective: Objective, window: str) -> str:
    """The name of the recorded number of events."""
    return f"{LEVEL}:headgate_{objective.name}:events_increase{window}"


def _recorded(objective: Objective, place: Place) -> Iterator[dict[str, str]]:
    for window in dict.fromkeys(window for burn in BURNS for window in (burn.short, burn.long)):
        yield {"record": ratio_name(objective, window), "expr": place.scoped(objective.ratio(window))}
    for burn in BURNS:
        yield {"record": count_name(objective, burn.long), "expr": place.scoped(objective.count(burn.long))}


def _burnt(objective: Objective, burn: Burn) -> str:
    line = f"> {burn.factor} * {objective.budget}"
    return (
        f"{ratio_name(objective, burn.short)} {line} and {ratio_name(objective, burn.long)} {line}"
        f" and {count_name(objective, burn.long)} >= {objective.events}"
    )


def _burning(objective: Objective, severity: str) -> Alert:
    burns = [burn for burn in BURNS if severity == (burn.severity if objective.critical else WARNING)]
    hours = " or ".join(burn.long for burn in burns)
    return Alert(
        name=objective.alert,
        expr="\nor\n".join(f"({_burnt(objective, burn)})" for burn in burns),
        severity=severity,
        wait="2m" if severity == CRITICAL else "15m",
        summary=f"{objective.summary[0].upper()}{objective.summary[1:]}, on {{{{ $labels.route }}}}.",
        description=(
            f"{{{{ $value | humanizePercentage }}}} in the short window, with {objective.budget:.0%} allowed;"
            f" the month's budget burns too fast over {hours}."
        ),
    )


_STREAMED = f'sum by ({BY}) (rate(headgate_runs_total{{outcome!~"{APART}"}}[30m]))'
_FELL_BACK = f'sum by ({BY}) (rate(headgate_runs_total{{outcome="fell_back"}}[30m]))'
_TURNED_AWAY = f'sum by ({BY}) (rate(headgate_requests_total{{reason=~"breaker_open|overloaded"}}[30m]))'
_TAPPED = f'sum by ({BY}) (rate(headgate_runs_total{{source="tap",outcome!~"{APART}"}}[30m]))'
_TAP_LOST = f'sum by ({BY}) (rate(headgate_runs_total{{source="tap",outcome="fell_back"}}[30m]))'
_NOT_LIVE = "avoided|lost|no_context|unmatched"
_CALLS = f'sum by ({DEPLOYMENT}) (rate(headgate_tap_calls_total{{result=~"tapped|{_NOT_LIVE}"}}[30m]))'
_CALLS_LOST = f'sum by ({DEPLOYMENT}) (rate(headgate_tap_calls_total{{result=~"{_NOT_LIVE}"}}[30m]))'
_LAST_LOOK = "last_over_time(headgate_rollout_last_look_timestamp_seconds[1d])"
_LOOKED = f"max by ({DEPLOYMENT}) ({_LAST_LOOK} > 0)"
_LOOKS = f"max by ({DEPLOYMENT}) (max_over_time(headgate_rollout_look_interval_seconds[1d]))"
_SILENCE = f"> clamp_min({SILENT_LOOKS} * {_LOOKS}, {SILENT_S})"
_EVIDENCE = f"max by ({DEPLOYMENT}) (headgate_rollout_last_evidence_timestamp_seconds)"
_RUNNING = f'max by ({DEPLOYMENT}) (headgate_rollout_phase{{phase="running"}}) == 1'


def _looked_last(phases: str) -> str:
    """The last look of a controller, if it found its rollout in one of these phases."""
    phase = f'last_over_time(headgate_rollout_phase{{phase=~"{phases}"}}[1d])'
    found = f"max by ({POD}) ({_LAST_LOOK}) * on ({POD}) max by ({POD}) ({phase})"
    return f"({_LOOKED} == max by ({DEPLOYMENT}) ({found}))"


_WAS_HERE = "on (namespace, job, instance) last_over_time(headgate_build_info[1h])"

LEVELS = (
    Alert(
        "HeadgateFallbackSurge",
        f"({_FELL_BACK} + {_TURNED_AWAY}) / ({_STREAMED} + {_TURNED_AWAY}) > {FALLBACK_SHARE}\n"
        f"and 1800 * ({_STREAMED} + {_TURNED_AWAY}) >= {FALLBACK_EVENTS}",
        WARNING,
        "10m",
        "Many who should stream get the batch answer, on {{ $labels.route }}.",
        "{{ $value | humanizePercentage }} of the last half hour fell back, or were never let begin.",
    ),
    Alert(
        "HeadgateTapLost",
        f"({_TAP_LOST} / {_TAPPED} > {TAP_LOST_SHARE} and 1800 * {_TAPPED} >= {TAP_LOST_RUNS})\n"
        f"or\n({_CALLS_LOST} / {_CALLS} > {TAP_LOST_SHARE} and 1800 * {_CALLS} >= {TAP_LOST_CALLS}\n"
        f"and sum by ({DEPLOYMENT}) ({_TAPPED}) > 0)",
        WARNING,
        "10m",
        "Users who should see the model's words wait for the whole answer.",
        "{{ $value | humanizePercentage }} of the runs of {{ $labels.job }} {{ $labels.route }}, or of its"
        " model calls, had no live words in the last half hour.",
    ),
    Alert(
        "HeadgateTextWrong",
        f'sum by ({BY}) (increase(headgate_parity_total{{result="missing"}}[15m])) > 0',
        CRITICAL,
        "0m",
        "Text was shown that the stored answer does not have, on {{ $labels.route }}.",
        "{{ $value | humanize }} sections in a quarter of an hour. One is too many.",
    ),
    Alert(
        "HeadgateFlagsStale",
        f"max by ({POD}) (headgate_flag_age_seconds) > {FLAG_AGE_S}",
        WARNING,
        "1m",
        "The flags are old: changes in Unleash, also the kill flag, do not arrive.",
        "Last confirmed {{ $value | humanizeDuration }} ago. From `flags.stale_s` on everybody gets batch.",
    ),
    Alert(
        "HeadgateKilled",
        f"max by ({POD}) (headgate_kill_switch) == 1",
        WARNING,
        "1m",
        "The kill switch is on: everybody gets batch.",
        "By the local switch or the kill flag, of {{ $labels.instance }}. Nobody streams there meanwhile.",
    ),
    Alert(
        "HeadgateEventLogDown",
        f"min by ({POD}) (headgate_event_log_up) == 0",
        CRITICAL,
        "2m",
        "The store of runs does not answer: replicas do not know each other's runs.",
        "Runs of {{ $labels.instance }} go on from memory; a viewer that reconnects to another replica is not"
        " found.",
    ),
    Alert(
        "HeadgateControllerSilent",
        f"time() - ({_LOOKED} unless {_looked_last('paused|rolled_back|killed|none')})\n{_SILENCE}",
        CRITICAL,
        "1m",
        "Nobody watches the rollout: the controller does not look.",
        "Its last look was {{ $value | humanizeDuration }} ago. The share stays, also if it does harm.",
    ),
    Alert(
        "HeadgateControllerSilent",
        f"time() - {_looked_last('paused')}\n{_SILENCE}",
        INFO,
        "1m",
        "The controller was stopped, after the rollout was paused.",
        "Its last look was {{ $value | humanizeDuration }} ago. The share stays, also if it does harm.",
    ),
    Alert(
        "HeadgateRolloutNotWritten",
        f"max by ({DEPLOYMENT}) (headgate_rollout_not_in_force) == 1",
        CRITICAL,
        "2m",
        "What is in force is not what the rollout decided.",
        "It could not be written, or somebody has changed the flag: `headgate rollout status` says which.",
    ),
    Alert(
        "HeadgateRolloutBlind",
        f"time() - {_EVIDENCE} > {BLIND_S}\nand {_RUNNING}",
        WARNING,
        "5m",
        "The rollout has no evidence: it can neither advance nor go back.",
        "The last evidence is {{ $value | humanizeDuration }} old.",
    ),
    Alert(
        "HeadgateMetricsAbsent",
        f"absent(headgate_build_info)\nor\nup == 0 and {_WAS_HERE}",
        CRITICAL,
        "5m",
        "Prometheus does not see Headgate, or one of its proxies.",
        "No other alert can be relied on meanwhile. {{ $labels.instance }}",
    ),
)


def alerts() -> tuple[Alert, ...]:
    burning = [
        _burning(objective, severity)
        for objective in OBJECTIVES
        for severity in (CRITICAL, WARNING)
        if severity == WARNING or objective.critical
    ]
    return (*burning, *LEVELS)


def groups(place: Place = EVERYWHERE) -> Sequence[Mapping[str, Any]]:
    """The groups of the rule file."""
    recorded = [
        {"name": f"headgate-{objective.name.replace('_', '-')}", "rules": list(_recorded(objective, place))}
        for objective in OBJECTIVES
    ]
    found = [*recorded, {"name": "headgate-alerts", "rules": [alert.rule(place) for alert in alerts()]}]
    return [{**group, "rules": place.renamed(group["rules"])} for group in found]


class _Dumper(yaml.SafeDumper):
    """Writes expressions of several lines as block scalars."""


def _line(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _line)


def text(place: Place = EVERYWHERE) -> str:
    """The file."""
    return _file({"groups": groups(place)})


def inhibition(place: Place = EVERYWHERE) -> str:
    """Return rules for Alertmanager's own file: an alert is silent while a worse one says more of the
    same."""
    order = (CRITICAL, WARNING, INFO)
    rules = [
        {
            "source_matchers": ['alertname=~"Headgate.+"', f'severity="{severity}"'],
            "target_matchers": ['alertname=~"Headgate.+"', f'severity=~"{"|".join(order[at:])}"'],
            "equal": [place.names.get(name, name) for name in INHIBITED_BY],
        }
        for at, severity in enumerate(order[:-1], 1)
    ]
    return _file({"inhibit_rules": rules})


def _file(content: Mapping[str, Any]) -> str:
    head = "# Written by `make docs` from dashboards/rules.py. Change that, not this file.\n"
    return head + yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=1000)
