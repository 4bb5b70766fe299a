"""The dashboard *Rollout*: should it advance, and if not, why not? Prints nothing by itself."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.evidence import evidence
from dashboards.panels import (
    CLUSTER,
    CONTROLLER,
    JOB,
    NAMESPACE,
    POD,
    PODS,
    RED,
    ROUTE,
    ROUTES,
    YELLOW,
    About,
    Look,
    Panel,
    Query,
    built,
    lines,
    meters,
    number,
    states,
)
from dashboards.queries import age, metric, quantile, rate
from dashboards.rules import BLIND_S, FLAG_AGE_S, FLAG_STALE_S, SILENT_S

DRILL_S = 90 * 86400
"""A switch that nobody has tried for a quarter of a year may not work."""

PHASES = ("running", "paused", "rolled_back", "killed", "none")
MOVES = ("advance", "soak", "stay", "hold", "roll_back")
ARMS = ("stream", "control")


def _state() -> list[Panel]:
    return [
        number(
            About("Phase", "Of the newest rollout; none before the first.", span=4, height=4, named=PHASES),
            Query(f"{metric('phase')} == 1", "{{phase}}"),
            named=True,
        ),
        number(
            About(
                "Move",
                "What the last look came to. On hold somebody should look.",
                span=4,
                height=4,
                named=MOVES,
            ),
            Query(f"{metric('move')} == 1", "{{move}}"),
            named=True,
        ),
        number(
            About(
                "Reason",
                "Why; `headgate rollout status` says it in a sentence, with its numbers.",
                span=4,
                height=4,
                below="text",
            ),
            Query(f"{metric('reason')} == 1", "{{reason}}"),
            named=True,
        ),
        number(
            About(
                "Step", "The one in force, of so many; 0 before the first.", span=4, height=4, below="text"
            ),
            Query(metric("step"), "step"),
            Query(metric("steps"), "of"),
        ),
    ]


def _shares() -> list[Panel]:
    return [
        number(
            About(
                "Users who stream",
                "By policy, decision, last write, the flag, its evaluation, and requests. Dark plans 0.",
                unit="percent",
                span=8,
                height=4,
                below="text",
                alert="HeadgateRolloutNotWritten",
                decimals=0,
            ),
            Query(metric("share_percent"), "{{kind}}"),
        ),
        number(
            About(
                "Rollout", "Its id, its flag, and what the controller may do.", span=8, height=4, below="text"
            ),
            Query(metric("info"), "{{run}} · {{flag}} · {{mode}}"),
            named=True,
        ),
    ]


def _looks() -> list[Panel]:
    return [
        number(
            About(
                "Last look",
                "Ago. A controller that is silent rolls nothing back.",
                unit="s",
                span=8,
                height=4,
                alert="HeadgateControllerSilent",
                lines=[(SILENT_S, RED)],
                decimals=0,
            ),
            Query(age("look")),
        ),
        number(
            About(
                "Last evidence",
                "Ago. Without evidence it holds.",
                unit="s",
                span=8,
                height=4,
                alert="HeadgateRolloutBlind",
                lines=[(BLIND_S, YELLOW)],
                decimals=0,
            ),
            Query(age("evidence")),
        ),
    ]


def _acts() -> list[Panel]:
    return [
        number(
            About(
                "Last act of a person",
                "Ago; who and why is in the journal.",
                unit="s",
                span=8,
                height=4,
                below="text",
            ),
            Query(age("act")),
        ),
        number(
            About(
                "Last kill, or drill",
                "Ago. What was not tried for a quarter of a year may not work.",
                unit="s",
                span=8,
                height=4,
                alert="HeadgateKilled",
                lines=[(DRILL_S, YELLOW)],
            ),
            Query(age("kill")),
        ),
        number(
            About(
                "Flags confirmed",
                "By the proxies, ago: so late a change of the share may arrive.",
                unit="s",
                span=8,
                height=4,
                alert="HeadgateFlagsStale",
                lines=[(FLAG_AGE_S, YELLOW), (FLAG_STALE_S, RED)],
                decimals=0,
            ),
            Query(f"max(headgate_flag_age_seconds{{{PODS}}})"),
        ),
    ]


def _way() -> list[Panel]:
    streamed = rate("headgate_requests_total", "job", 'mode="stream"')
    every = rate("headgate_requests_total", "job", 'mode!="relay"')
    return [
        lines(
            About(
                "Share",
                "Planned, written, and observed in what settled; and of all requests at the proxies.",
                unit="percent",
                span=12,
            ),
            Query(metric("share_percent"), "{{kind}}"),
            Query(f"100 * {streamed} / {every}", "of requests"),
        ),
        states(
            About("Moves", "What each look came to.", span=6, named=MOVES),
            Query(f"{metric('move')} == 1", "{{move}}"),
        ),
        states(About("Reasons", "And why.", span=6), Query(f"{metric('reason')} == 1", "{{reason}}")),
    ]


def _gate() -> list[Panel]:
    return [
        meters(
            About(
                "Time in this step",
                "With evidence, as a part of the least that the policy asks for.",
                unit="percentunit",
                span=6,
                lines=[(1, "green")],
                below="blue",
            ),
            Query(
                f"clamp_max({metric('dwelt_seconds')} / ({metric('dwell_needed_seconds')} > 0), 1)", "dwelt"
            ),
        ),
        number(
            About(
                "Next gate",
                "Time that is left at least; then proof, samples, or a person's approval decide.",
                unit="s",
                span=6,
                below="text",
                decimals=0,
            ),
            Query(f"clamp_min({metric('dwell_needed_seconds')} - {metric('dwelt_seconds')}, 0)", "at least"),
        ),
        meters(
            About(
                "Samples",
                "Settled requests of the smaller arm in this step, as a part of so many as are needed.",
                unit="percentunit",
                span=6,
                lines=[(1, "green")],
                below="blue",
            ),
            Query(f"clamp_max({metric('samples')} / ({metric('samples_needed')} > 0), 1)", "{{guardrail}}"),
        ),
        meters(
            About(
                "Users",
                "Different users of the smaller arm, as a part of so many as are needed.",
                unit="percentunit",
                span=6,
                lines=[(1, "green")],
                below="blue",
            ),
            Query(f"clamp_max({metric('users')} / ({metric('users_needed')} > 0), 1)", "{{guardrail}}"),
        ),
    ]


def _arms() -> list[Panel]:
    arm = 'arm=~"stream|control"'
    failed = rate("headgate_outcomes_total", "arm", f'{arm},outcome=~"failed|truncated"')
    every = rate("headgate_outcomes_total", "arm", f'{arm},outcome!~"client_left|cancelled|shutdown"')
    srm = metric("evidence_log10", 'guardrail="sample_ratio",towards="harm"')
    return [
        lines(
            About(
                "Answers that failed",
                "By arm. The dashboard Compare has more of it.",
                "percentunit",
                6,
                named=ARMS,
            ),
            Query(f"{failed} / {every}", "{{arm}}"),
        ),
        lines(
            About("Whole answers, p95", "By arm, of requests with an answer.", "s", 6, named=ARMS),
            Query(quantile(0.95, "headgate_settled_seconds", arm, "le, arm"), "{{arm}}"),
        ),
        lines(
            About(
                "Users met",
                "Since the share was last written; up to 50 % as many in each arm.",
                span=6,
                named=ARMS,
            ),
            Query(f"max by (arm) (headgate_users{{{ROUTES}}})", "{{arm}}"),
        ),
        lines(
            About(
                "Sample ratio mismatch",
                "Evidence that users are not in the arms as the share says: then the measuring is wrong.",
                unit="none",
                span=6,
            ),
            Query(srm, "evidence"),
            Query(metric("line_log10", 'guardrail="sample_ratio",line="hold"'), "holds at"),
        ),
    ]


def _others() -> list[Panel]:
    return [
        lines(
            About("Journal", "Entries; one for each look, act, write and notice.", span=6),
            Query(metric("journal_entries"), "entries"),
        ),
        lines(
            About("Looks", "Seconds between two of them, by the policy, and since the last.", "s", 6),
            Query(metric("look_interval_seconds"), "interval"),
            Query(f"time() - ({metric('last_look_timestamp_seconds')} > 0)", "since the last"),
        ),
        lines(
            About("Fell back", "Runs of the stream arm that ended with the batch answer.", "percentunit", 6),
            Query(
                rate("headgate_runs_total", "job", 'arm="stream",outcome="fell_back"')
                + " / "
                + rate("headgate_runs_total", "job", 'arm="stream"'),
                "fell back",
            ),
        ),
        lines(
            About("First content", "p50 and p95 of streams.", "s", 6),
            Query(quantile(0.5, "headgate_first_content_seconds"), "p50"),
            Query(quantile(0.95, "headgate_first_content_seconds"), "p95"),
        ),
    ]


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
