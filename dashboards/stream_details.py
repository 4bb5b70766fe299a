"""The rows of *Streams* that are closed until somebody opens them: why it is as it is."""

from dashboards.objectives import DELIVERY_S, OBJECTIVES
from dashboards.panels import OF_JOB, PODS, RED, ROUTES, About, Panel, Query, lines
from dashboards.queries import quantile, quantiles, rate
from dashboards.rules import BURNS, ratio_name

DELIVERY, ANSWERS, RECOVERY = OBJECTIVES


def times() -> list[Panel]:
    """Panels of the time that answers take, and that a reader waits."""
    first, whole = "headgate_first_content_seconds", "headgate_request_seconds"
    return [
        lines(
            About("First content", "Seconds from a run's start to its first text.", "s"), *quantiles(first)
        ),
        lines(
            About(
                "Delivery",
                "Seconds from text known to bytes handed to the socket. The line is the goal of the p99.",
                "s",
                alert=DELIVERY.alert,
                lines=[(DELIVERY_S, RED)],
            ),
            *quantiles("headgate_delivery_seconds"),
        ),
        lines(
            About(
                "Perceived wait",
                "What a reader waits for: the first text of a stream, or the whole of a batch answer (p50).",
                "s",
            ),
            Query(quantile(0.5, first), "first text of a stream"),
            Query(quantile(0.5, whole, 'mode="batch"'), "batch answer"),
            Query(quantile(0.5, whole, 'mode="stream"'), "whole stream"),
        ),
        lines(
            About(
                "First text as a part of the run",
                "1 is no better than batch. Half of the runs are below the p50.",
                "percentunit",
            ),
            *quantiles("headgate_perceived_wait_ratio")[:2],
        ),
        lines(
            About("First content by source", "p95, where live text comes from several sources.", "s"),
            Query(quantile(0.95, first, by="le, source"), "{{source}}"),
        ),
        lines(
            About("Relay overhead", "Of relayed requests, seconds that were not the upstream's.", "s"),
            *quantiles("headgate_relay_overhead_seconds"),
        ),
    ]


def ends() -> list[Panel]:
    """Panels of the ends of runs and of their texts."""
    return [
        lines(
            About(
                "Runs by outcome",
                "Ended runs a second, in all arms.",
                "ops",
                alert=ANSWERS.alert,
                named=("failed", "truncated"),
            ),
            Query(rate("headgate_runs_total", "outcome"), "{{outcome}}"),
            stacked=True,
        ),
        lines(
            About("Faults", "By class and by phase: before headers, after them, after content.", "ops"),
            Query(f"{rate('headgate_faults_total', 'fault, phase')} > 0", "{{fault}}, {{phase}}"),
            stacked=True,
        ),
        lines(
            About(
                "What became of runs with a fault",
                "By class and end. `fell_back` is the whole batch answer, `recovered` a whole stream.",
                "ops",
                alert=RECOVERY.alert,
            ),
            Query(f"{rate('headgate_recoveries_total', 'fault, result')} > 0", "{{fault}}: {{result}}"),
            stacked=True,
        ),
        lines(
            About(
                "Shown text against the answer",
                "Sections by comparison: `replaced` was corrected on the screen, `missing` could not be.",
                "ops",
                alert="HeadgateTextWrong",
                named=("missing",),
            ),
            Query(rate("headgate_parity_total", "result"), "{{result}}"),
            stacked=True,
        ),
    ]


def budgets() -> list[Panel]:
    """Panels of the speed at which error budgets burn, and of calls to the model port."""
    burning = f'{OF_JOB},route=~"$route"'
    return [
        lines(
            About(
                "Budgets burn",
                "So many times faster than the month allows, over an hour. At the line somebody is paged.",
                "none",
                alert="README",
                lines=[(BURNS[0].factor, RED)],
            ),
            *(
                Query(
                    f"{ratio_name(objective, BURNS[0].long)}{{{burning}}} / {objective.budget}",
                    f"{objective.name}, {{{{route}}}}",
                )
                for objective in OBJECTIVES
            ),
        ),
        lines(
            About(
                "Calls to the model port",
                "By what became of them; `no_context`, `not_tapped` and `unmatched` belong to no run.",
                "ops",
                alert="HeadgateTapLost",
            ),
            Query(rate("headgate_tap_calls_total", "result", where=PODS), "{{result}}"),
            stacked=True,
        ),
    ]


def used() -> list[Panel]:
    """The model's tokens and their cost."""
    return [
        lines(
            About(
                "Tokens of the model",
                "Of the calls of runs, read and written; models that the settings do not name are `other`.",
                "none",
                span=12,
            ),
            Query(
                rate("headgate_tap_tokens_sum", "provider, model, type"), "{{provider}} {{model}}, {{type}}"
            ),
            stacked=True,
        ),
        lines(
            About(
                "Cost of the model, by the hour",
                "Of the calls of runs, by the prices in the settings and in their currency.",
                "none",
                span=12,
                decimals=2,
            ),
            Query(f"{rate('headgate_tap_cost_total', 'route, model')} * 3600", "{{route}}, {{model}}"),
            stacked=True,
        ),
    ]


def busy() -> list[Panel]:
    """Panels of what is in the way: viewers, lag, refusals."""
    return [
        lines(
            About("Viewers", "Open streams by route; and open upgraded connections, as of WebSocket."),
            Query(f"sum by (route) (headgate_viewers{{{ROUTES}}})", "{{route}}"),
            Query(f"sum(headgate_upgrades_open{{{PODS}}})", "upgraded"),
        ),
        lines(
            About(
                "Lag", "Events that the slowest viewer of each proxy has not been sent.", alert=DELIVERY.alert
            ),
            Query(f"max by (instance) (headgate_viewer_lag_events{{{PODS}}})", "{{instance}}"),
        ),
        lines(
            About(
                "Turned away",
                "Requests that would have streamed and could not: too many runs, or the breaker is open.",
                "reqps",
                alert="HeadgateFallbackSurge",
            ),
            Query(
                rate("headgate_requests_total", "route, reason", 'reason=~"breaker_open|overloaded"'),
                "{{route}}: {{reason}}",
            ),
        ),
        lines(
            About("Runs", "p95 of a run's seconds, by arm.", "s", named=("stream", "control")),
            Query(quantile(0.95, "headgate_run_seconds", by="le, arm"), "{{arm}}"),
        ),
        lines(
            About(
                "Flag age by proxy",
                "Seconds since the flags were confirmed.",
                "s",
                alert="HeadgateFlagsStale",
            ),
            Query(f"headgate_flag_age_seconds{{{PODS}}}", "{{instance}}"),
        ),
        lines(
            About("Without an identity", "Requests of a route that nobody signed: they get batch.", "reqps"),
            Query(rate("headgate_flag_context_missing_total", "instance", where=PODS), "{{instance}}"),
        ),
    ]
