"""The rows of *Streams* that are closed until somebody opens them: why it is as it is."""

from dashboards.objectives import DELIVERY_S, OBJECTIVES
from dashboards.panels import RED, Panel, Query, lines, row
from dashboards.queries import quantile, quantiles, rate
from dashboards.rules import BURNS, ratio_name
from dashboards.variables import OF_JOB, PODS, ROUTES

DELIVERY, ANSWERS, RECOVERY = OBJECTIVES


def times() -> list[Panel]:
    """Panels of the time that answers take, and that a reader waits."""
    first, whole = "headgate_first_content_seconds", "headgate_request_seconds"
    return [
        lines("First content", "Seconds from a run's start to its first text.", *quantiles(first), unit="s"),
        lines(
            "Delivery",
            "Seconds from text known to bytes handed to the socket. The line is the goal of the p99.",
            *quantiles("headgate_delivery_seconds"),
            unit="s",
            alert=DELIVERY.alert,
            lines=[(DELIVERY_S, RED)],
        ),
        lines(
            "Perceived wait",
            "What a reader waits for: the first text of a stream, or the whole of a batch answer (p50).",
            Query(quantile(0.5, first), "first text of a stream"),
            Query(quantile(0.5, whole, 'mode="batch"'), "batch answer"),
            Query(quantile(0.5, whole, 'mode="stream"'), "whole stream"),
            unit="s",
        ),
        lines(
            "First text as a part of the run",
            "1 is no better than batch. Half of the runs are below the p50.",
            *quantiles("headgate_perceived_wait_ratio")[:2],
            unit="percentunit",
        ),
        lines(
            "First content by source",
            "p95, where live text comes from several sources.",
            Query(quantile(0.95, first, by="le, source"), "{{source}}"),
            unit="s",
        ),
        lines(
            "Relay overhead",
            "Of relayed requests, seconds that were not the upstream's.",
            *quantiles("headgate_relay_overhead_seconds"),
            unit="s",
        ),
    ]


def ends() -> list[Panel]:
    """Panels of the ends of runs and of their texts."""
    return [
        lines(
            "Runs by outcome",
            "Ended runs a second, in all arms.",
            Query(rate("headgate_runs_total", "outcome"), "{{outcome}}"),
            unit="ops",
            alert=ANSWERS.alert,
            named=("failed", "truncated"),
            stacked=True,
        ),
        lines(
            "Faults",
            "By class and by phase: before headers, after them, after content.",
            Query(f"{rate('headgate_faults_total', 'fault, phase')} > 0", "{{fault}}, {{phase}}"),
            unit="ops",
            stacked=True,
        ),
        lines(
            "What became of runs with a fault",
            "By class and end. `fell_back` is the whole batch answer, `recovered` a whole stream.",
            Query(f"{rate('headgate_recoveries_total', 'fault, result')} > 0", "{{fault}}: {{result}}"),
            unit="ops",
            alert=RECOVERY.alert,
            stacked=True,
        ),
        lines(
            "Shown text against the answer",
            "Sections by comparison: `replaced` was corrected on the screen, `missing` could not be.",
            Query(rate("headgate_parity_total", "result"), "{{result}}"),
            unit="ops",
            alert="HeadgateTextWrong",
            named=("missing",),
            stacked=True,
        ),
    ]


def budgets() -> list[Panel]:
    """Panels of the speed at which error budgets burn, and of calls to the model port."""
    burning = f'{OF_JOB},route=~"$route"'
    return [
        lines(
            "Budgets burn",
            "So many times faster than the month allows, over an hour. At the line somebody is paged.",
            *(
                Query(
                    f"{ratio_name(objective, BURNS[0].long)}{{{burning}}} / {objective.budget}",
                    f"{objective.name}, {{{{route}}}}",
                )
                for objective in OBJECTIVES
            ),
            unit="none",
            alert="README",
            lines=[(BURNS[0].factor, RED)],
        ),
        lines(
            "Calls to the model port",
            "By what became of them; `no_context`, `not_tapped` and `unmatched` belong to no run.",
            Query(rate("headgate_tap_calls_total", "result", where=PODS), "{{result}}"),
            unit="ops",
            alert="HeadgateTapLost",
            stacked=True,
        ),
    ]


def used() -> list[Panel]:
    """The model's tokens and their cost."""
    return row(
        12,
        lines(
            "Tokens of the model",
            "Of the calls of runs, read and written; models that the settings do not name are `other`.",
            Query(
                rate("headgate_tap_tokens_sum", "provider, model, type"), "{{provider}} {{model}}, {{type}}"
            ),
            unit="none",
            stacked=True,
        ),
        lines(
            "Cost of the model, by the hour",
            "Of the calls of runs, by the prices in the settings and in their currency.",
            Query(f"{rate('headgate_tap_cost_total', 'route, model')} * 3600", "{{route}}, {{model}}"),
            unit="none",
            decimals=2,
            stacked=True,
        ),
    )


def busy() -> list[Panel]:
    """Panels of what is in the way: viewers, lag, refusals."""
    return [
        lines(
            "Viewers",
            "Open streams by route; and open upgraded connections, as of WebSocket.",
            Query(f"sum by (route) (headgate_viewers{{{ROUTES}}})", "{{route}}"),
            Query(f"sum(headgate_upgrades_open{{{PODS}}})", "upgraded"),
        ),
        lines(
            "Lag",
            "Events that the slowest viewer of each proxy has not been sent.",
            Query(f"max by (instance) (headgate_viewer_lag_events{{{PODS}}})", "{{instance}}"),
            alert=DELIVERY.alert,
        ),
        lines(
            "Turned away",
            "Requests that would have streamed and could not: too many runs, or the breaker is open.",
            Query(
                rate("headgate_requests_total", "route, reason", 'reason=~"breaker_open|overloaded"'),
                "{{route}}: {{reason}}",
            ),
            unit="reqps",
            alert="HeadgateFallbackSurge",
        ),
        lines(
            "Runs",
            "p95 of a run's seconds, by arm.",
            Query(quantile(0.95, "headgate_run_seconds", by="le, arm"), "{{arm}}"),
            unit="s",
            named=("stream", "control"),
        ),
        lines(
            "Flag age by proxy",
            "Seconds since the flags were confirmed.",
            Query(f"headgate_flag_age_seconds{{{PODS}}}", "{{instance}}"),
            unit="s",
            alert="HeadgateFlagsStale",
        ),
        lines(
            "Without an identity",
            "Requests of a route that nobody signed: they get batch.",
            Query(rate("headgate_flag_context_missing_total", "instance", where=PODS), "{{instance}}"),
            unit="reqps",
        ),
    ]
