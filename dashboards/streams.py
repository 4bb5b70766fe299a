"""The dashboard *Streams*: is it healthy? Prints nothing; `python -m dashboards` writes it."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.objectives import APART, BAD, DELIVERY_S, OBJECTIVES, RECOVERABLE
from dashboards.panels import (
    JOB,
    NAMESPACE,
    POD,
    PODS,
    RED,
    ROUTE,
    ROUTES,
    YELLOW,
    About,
    Panel,
    Query,
    built,
    lines,
    number,
    rows,
)
from dashboards.queries import quantile, quantiles, rate
from dashboards.rules import BURNS, FLAG_AGE_S, FLAG_STALE_S, ratio_name

DELIVERY, ANSWERS, RECOVERY = OBJECTIVES


def _healthy() -> list[Panel]:
    total = "headgate_outcomes_total"
    failed = f'sum(rate({total}{{{ROUTES},arm="stream",outcome=~"{BAD}"}}[$__rate_interval]))'
    every = f'sum(rate({total}{{{ROUTES},arm="stream",outcome!~"{APART}"}}[$__rate_interval]))'
    lost = f'headgate_recoveries_total{{{ROUTES},fault=~"{RECOVERABLE}"'
    return [
        number(
            About(
                "Delivery, p99",
                "From text known to the proxy to bytes handed to the socket. The goal is below 100 ms.",
                unit="s",
                span=4,
                height=4,
                alert=DELIVERY.alert,
                lines=[(DELIVERY_S, RED)],
            ),
            Query(f"{quantile(0.99, 'headgate_delivery_seconds')} >= 0"),
        ),
        number(
            About(
                "Answers that failed",
                "Requests of users who stream that ended without a whole answer. Who left is not counted.",
                unit="percentunit",
                span=4,
                height=4,
                alert=ANSWERS.alert,
                lines=[(ANSWERS.budget, RED)],
                decimals=2,
            ),
            Query(f"{failed} / {every} >= 0"),
        ),
        number(
            About(
                "Lost text made good",
                "Of runs that lost their live text, those that still gave the whole answer.",
                unit="percentunit",
                span=4,
                height=4,
                alert=RECOVERY.alert,
                lines=[(RECOVERY.goal, "green")],
                below=RED,
            ),
            Query(
                f'sum(increase({lost},result!="failed"}}[$__range])) / sum(increase({lost}}}[$__range])) >= 0'
            ),
        ),
    ]


def _switches() -> list[Panel]:
    return [
        number(
            About(
                "Texts shown wrongly",
                "Sections that were shown and that the stored answer does not have, in the time shown here.",
                span=3,
                height=4,
                alert="HeadgateTextWrong",
                lines=[(0.5, RED)],
                decimals=0,
            ),
            Query(f'sum(increase(headgate_parity_total{{{ROUTES},result="missing"}}[$__range]))'),
        ),
        number(
            About(
                "Kill switch",
                "On: everybody gets batch, by the local switch or the kill flag.",
                span=3,
                height=4,
                alert="HeadgateKilled",
                lines=[(1, RED)],
            ),
            Query(f"max(headgate_kill_switch{{{PODS}}})"),
            says={"0": "off", "1": "ON"},
        ),
        number(
            About(
                "Flags confirmed",
                "Since when: the oldest of all proxies. At `flags.stale_s` everybody gets batch.",
                unit="s",
                span=3,
                height=4,
                alert="HeadgateFlagsStale",
                lines=[(FLAG_AGE_S, YELLOW), (FLAG_STALE_S, RED)],
                decimals=0,
            ),
            Query(f"max(headgate_flag_age_seconds{{{PODS}}})"),
        ),
    ]


def _seen() -> list[Panel]:
    pages, live = f"headgate_attached_pages_total{{{PODS}", 'result=~"attached|unchanged"'
    return [
        number(
            About(
                "Store of runs",
                "Whether it takes writes; also fine where replicas share nothing and none is used.",
                span=3,
                height=4,
                alert="HeadgateEventLogDown",
                lines=[(1, "green")],
                below=RED,
            ),
            Query(f"min(headgate_event_log_up{{{PODS}}})"),
            says={"0": "DOWN", "1": "fine"},
        ),
        rows(
            About(
                "Alerts",
                "What fires, or is about to. Empty is good, as long as proxies are seen.",
                span=8,
                height=5,
                alert="README",
            ),
            ("alertname", "route", "severity", "alertstate"),
            {"": Query('ALERTS{alertname=~"Headgate.+",namespace=~"$namespace"}')},
        ),
        number(
            About(
                "Over budget",
                "Refused with 503 because all share a budget (`limits`), in the time shown here.",
                span=4,
                height=5,
                decimals=0,
            ),
            Query(f"sum(increase(headgate_over_budget_total{{{PODS}}}[$__range]))"),
        ),
        number(
            About(
                "Identity",
                "Whether nobody is somebody by saying so: else strangers can make up evidence for a rollout.",
                span=4,
                height=5,
            ),
            Query(f"min(headgate_identity_verified{{{ROUTES}}})"),
            says={"0": "not verified", "1": "verified"},
        ),
        number(
            About(
                "Pages with live text",
                "Of `attach`: those that have the script, and those left as they are; the metric says why.",
                span=4,
                height=5,
                decimals=0,
            ),
            Query(f"sum(increase({pages},{live}}}[$__range]))", "with the script"),
            Query(f"sum(increase({pages}}}[$__range])) - sum(increase({pages},{live}}}[$__range]))", "left"),
        ),
        number(
            About("Proxies", "Scraped ones, by version.", span=4, height=5, alert="HeadgateMetricsAbsent"),
            Query(f"count by (version) (headgate_build_info{{{PODS}}})", "{{version}}"),
        ),
    ]


def _traffic() -> list[Panel]:
    requests = "headgate_requests_total"
    streamed = rate(requests, "route", 'mode="stream"')
    of_routes = rate(requests, "route", 'mode!="relay"')
    return [
        lines(
            About(
                "Requests",
                "By what was decided. `relay` matches no route, or was relayed untouched.",
                "reqps",
            ),
            Query(rate(requests, "mode"), "{{mode}}"),
            stacked=True,
        ),
        lines(
            About(
                "Why batch",
                "Requests of routes that got batch, by the reason. Those of 0 are left out.",
                "reqps",
                alert="HeadgateFallbackSurge",
            ),
            Query(f'{rate(requests, "reason", """mode="batch" """.strip())} > 0', "{{reason}}"),
            stacked=True,
        ),
        lines(
            About("Share that streams", "Of the requests of each route, whoever asked.", "percentunit"),
            Query(f"{streamed} / {of_routes}", "{{route}}"),
        ),
    ]


def _times() -> list[Panel]:
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


def _ends() -> list[Panel]:
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


def _budgets() -> list[Panel]:
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
                    f'{ratio_name(objective, BURNS[0].long)}{{namespace=~"$namespace",job=~"$job",'
                    f'route=~"$route"}} / {objective.budget}',
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


def _used() -> list[Panel]:
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


def _busy() -> list[Panel]:
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


def streams(runbooks: str) -> Dashboard:
    """The dashboard of the person on call."""
    return built(
        "headgate-streams",
        "Headgate: Streams",
        "Is it healthy? Traffic, times against their goals, what became of runs, and what is in the way.",
        (NAMESPACE, JOB, POD, ROUTE),
        runbooks,
        {
            "Is it healthy?": [*_healthy(), *_switches(), *_seen()],
            "Traffic": _traffic(),
            "How long it takes": _times(),
            "What became of it": [*_ends(), *_budgets()],
            "What the model has used": _used(),
            "How busy it is": _busy(),
        },
    )
