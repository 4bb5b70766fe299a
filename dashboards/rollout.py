"""The dashboard *Rollout*: should it advance, and if not, why not? Prints nothing by itself."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.evidence import evidence
from dashboards.panels import RED, YELLOW, Look, Panel, Query, built, lines, meters, number, row, states
from dashboards.queries import age, metric, quantile, rate
from dashboards.rules import BLIND_S, FLAG_AGE_S, FLAG_STALE_S, SILENT_S
from dashboards.variables import CLUSTER, CONTROLLER, JOB, NAMESPACE, POD, PODS, ROUTE, ROUTES

DRILL_S = 90 * 86400
"""A switch that nobody has tried for a quarter of a year may not work."""

PHASES = ("running", "paused", "rolled_back", "killed", "none")
MOVES = ("advance", "soak", "stay", "hold", "roll_back")
ARMS = ("stream", "control")


def _state() -> list[Panel]:
    return row(
        4,
        number(
            "Phase",
            "Of the newest rollout; none before the first.",
            Query(f"{metric('phase')} == 1", "{{phase}}"),
            named=PHASES,
            shows_name=True,
        ),
        number(
            "Move",
            "What the last look came to. On hold somebody should look.",
            Query(f"{metric('move')} == 1", "{{move}}"),
            named=MOVES,
            shows_name=True,
        ),
        number(
            "Reason",
            "Why; `headgate rollout status` says it in a sentence, with its numbers.",
            Query(f"{metric('reason')} == 1", "{{reason}}"),
            below="text",
            shows_name=True,
        ),
        number(
            "Step",
            "The one in force, of so many; 0 before the first.",
            Query(metric("step"), "step"),
            Query(metric("steps"), "of"),
            below="text",
        ),
    )


def _shares() -> list[Panel]:
    return row(
        8,
        number(
            "Users who stream",
            "By policy, decision, last write, the flag, its evaluation, and requests. Dark plans 0.",
            Query(metric("share_percent"), "{{kind}}"),
            unit="percent",
            below="text",
            alert="HeadgateRolloutNotWritten",
            decimals=0,
        ),
        number(
            "Rollout",
            "Its id, its flag, and what the controller may do.",
            Query(metric("info"), "{{run}} · {{flag}} · {{mode}}"),
            below="text",
            shows_name=True,
        ),
    )


def _looks() -> list[Panel]:
    return row(
        8,
        number(
            "Last look",
            "Ago. A controller that is silent rolls nothing back.",
            Query(age("look")),
            unit="s",
            alert="HeadgateControllerSilent",
            lines=[(SILENT_S, RED)],
            decimals=0,
        ),
        number(
            "Last evidence",
            "Ago. Without evidence it holds.",
            Query(age("evidence")),
            unit="s",
            alert="HeadgateRolloutBlind",
            lines=[(BLIND_S, YELLOW)],
            decimals=0,
        ),
    )


def _acts() -> list[Panel]:
    return row(
        8,
        number(
            "Last act of a person",
            "Ago; who and why is in the journal.",
            Query(age("act")),
            unit="s",
            below="text",
        ),
        number(
            "Last kill, or drill",
            "Ago. What was not tried for a quarter of a year may not work.",
            Query(age("kill")),
            unit="s",
            alert="HeadgateKilled",
            lines=[(DRILL_S, YELLOW)],
        ),
        number(
            "Flags confirmed",
            "By the proxies, ago: so late a change of the share may arrive.",
            Query(f"max(headgate_flag_age_seconds{{{PODS}}})"),
            unit="s",
            alert="HeadgateFlagsStale",
            lines=[(FLAG_AGE_S, YELLOW), (FLAG_STALE_S, RED)],
            decimals=0,
        ),
    )


def _way() -> list[Panel]:
    streamed = rate("headgate_requests_total", "job", 'mode="stream"')
    every = rate("headgate_requests_total", "job", 'mode!="relay"')
    return [
        lines(
            "Share",
            "Planned, written, and observed in what settled; and of all requests at the proxies.",
            Query(metric("share_percent"), "{{kind}}"),
            Query(f"100 * {streamed} / {every}", "of requests"),
            unit="percent",
            span=12,
        ),
        states(
            "Moves",
            "What each look came to.",
            Query(f"{metric('move')} == 1", "{{move}}"),
            span=6,
            named=MOVES,
        ),
        states("Reasons", "And why.", Query(f"{metric('reason')} == 1", "{{reason}}"), span=6),
    ]


def _gate() -> list[Panel]:
    return row(
        6,
        meters(
            "Time in this step",
            "With evidence, as a part of the least that the policy asks for.",
            Query(
                f"clamp_max({metric('dwelt_seconds')} / ({metric('dwell_needed_seconds')} > 0), 1)", "dwelt"
            ),
            unit="percentunit",
            lines=[(1, "green")],
            below="blue",
        ),
        number(
            "Next gate",
            "Time that is left at least; then proof, samples, or a person's approval decide.",
            Query(f"clamp_min({metric('dwell_needed_seconds')} - {metric('dwelt_seconds')}, 0)", "at least"),
            unit="s",
            below="text",
            decimals=0,
            height=8,
        ),
        meters(
            "Samples",
            "Settled requests of the smaller arm in this step, as a part of so many as are needed.",
            Query(f"clamp_max({metric('samples')} / ({metric('samples_needed')} > 0), 1)", "{{guardrail}}"),
            unit="percentunit",
            lines=[(1, "green")],
            below="blue",
        ),
        meters(
            "Users",
            "Different users of the smaller arm, as a part of so many as are needed.",
            Query(f"clamp_max({metric('users')} / ({metric('users_needed')} > 0), 1)", "{{guardrail}}"),
            unit="percentunit",
            lines=[(1, "green")],
            below="blue",
        ),
    )


def _arms() -> list[Panel]:
    arm = 'arm=~"stream|control"'
    failed = rate("headgate_outcomes_total", "arm", f'{arm},outcome=~"failed|truncated"')
    every = rate("headgate_outcomes_total", "arm", f'{arm},outcome!~"client_left|cancelled|shutdown"')
    srm = metric("evidence_log10", 'guardrail="sample_ratio",towards="harm"')
    return row(
        6,
        lines(
            "Answers that failed",
            "By arm. The dashboard Compare has more of it.",
            Query(f"{failed} / {every}", "{{arm}}"),
            unit="percentunit",
            named=ARMS,
        ),
        lines(
            "Whole answers, p95",
            "By arm, of requests with an answer.",
            Query(quantile(0.95, "headgate_settled_seconds", arm, "le, arm"), "{{arm}}"),
            unit="s",
            named=ARMS,
        ),
        lines(
            "Users met",
            "Since the share was last written; up to 50 % as many in each arm.",
            Query(f"max by (arm) (headgate_users{{{ROUTES}}})", "{{arm}}"),
            named=ARMS,
        ),
        lines(
            "Sample ratio mismatch",
            "Evidence that users are not in the arms as the share says: then the measuring is wrong.",
            Query(srm, "evidence"),
            Query(metric("line_log10", 'guardrail="sample_ratio",line="hold"'), "holds at"),
            unit="none",
        ),
    )


def _others() -> list[Panel]:
    return row(
        6,
        lines(
            "Journal",
            "Entries; one for each look, act, write and notice.",
            Query(metric("journal_entries"), "entries"),
        ),
        lines(
            "Looks",
            "Seconds between two of them, by the policy, and since the last.",
            Query(metric("look_interval_seconds"), "interval"),
            Query(f"time() - ({metric('last_look_timestamp_seconds')} > 0)", "since the last"),
            unit="s",
        ),
        lines(
            "Fell back",
            "Runs of the stream arm that ended with the batch answer.",
            Query(
                rate("headgate_runs_total", "job", 'arm="stream",outcome="fell_back"')
                + " / "
                + rate("headgate_runs_total", "job", 'arm="stream"'),
                "fell back",
            ),
            unit="percentunit",
        ),
        lines(
            "First content",
            "p50 and p95 of streams.",
            Query(quantile(0.5, "headgate_first_content_seconds"), "p50"),
            Query(quantile(0.95, "headgate_first_content_seconds"), "p95"),
            unit="s",
        ),
    )


def rollout(look: Look) -> Dashboard:
    """The dashboard of the person who answers for the rollout."""
    return built(
        "Rollout",
        "Should it advance? Where it stands and why, how far the evidence has come, and what comes next.",
        (CLUSTER, NAMESPACE, CONTROLLER, JOB, POD, ROUTE),
        look,
        {"Where it stands, and why": [*_state(), *_shares(), *_looks()], "Evidence": evidence()},
        {
            "The way so far": [*_way(), *_acts()],
            "The next gate": _gate(),
            "The arms, side by side": [*_arms(), *_others()],
        },
    )
