"""The dashboard *Streams*: is it healthy? Prints nothing; `python -m dashboards` writes it."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.objectives import APART, BAD, DELIVERY_S, OBJECTIVES, RECOVERABLE
from dashboards.panels import RED, YELLOW, Look, Panel, Query, built, lines, number, row, rows
from dashboards.queries import quantile, rate
from dashboards.resources import resources
from dashboards.rules import FLAG_AGE_S, FLAG_STALE_S
from dashboards.stream_details import budgets, busy, ends, times, used
from dashboards.variables import CLUSTER, JOB, NAMESPACE, POD, PODS, ROUTE, ROUTES

DELIVERY, ANSWERS, RECOVERY = OBJECTIVES


def _healthy() -> list[Panel]:
    total = "headgate_outcomes_total"
    failed = f'sum(rate({total}{{{ROUTES},arm="stream",outcome=~"{BAD}"}}[$__rate_interval]))'
    every = f'sum(rate({total}{{{ROUTES},arm="stream",outcome!~"{APART}"}}[$__rate_interval]))'
    lost = f'headgate_recoveries_total{{{ROUTES},fault=~"{RECOVERABLE}"'
    return row(
        4,
        number(
            "Delivery, p99",
            "From text known to the proxy to bytes handed to the socket. The goal is below 100 ms.",
            Query(f"{quantile(0.99, 'headgate_delivery_seconds')} >= 0"),
            unit="s",
            alert=DELIVERY.alert,
            lines=[(DELIVERY_S, RED)],
        ),
        number(
            "Answers that failed",
            "Requests of users who stream that ended without a whole answer. Who left is not counted.",
            Query(f"{failed} / {every} >= 0"),
            unit="percentunit",
            alert=ANSWERS.alert,
            lines=[(ANSWERS.budget, RED)],
            decimals=2,
        ),
        number(
            "Lost text made good",
            "Of runs that lost their live text, those that still gave the whole answer.",
            Query(
                f'sum(increase({lost},result!="failed"}}[$__range])) / sum(increase({lost}}}[$__range])) >= 0'
            ),
            unit="percentunit",
            alert=RECOVERY.alert,
            lines=[(RECOVERY.goal, "green")],
            below=RED,
        ),
    )


def _switches() -> list[Panel]:
    return row(
        3,
        number(
            "Texts shown wrongly",
            "Sections that were shown and that the stored answer does not have, in the time shown here.",
            Query(f'sum(increase(headgate_parity_total{{{ROUTES},result="missing"}}[$__range]))'),
            alert="HeadgateTextWrong",
            lines=[(0.5, RED)],
            decimals=0,
        ),
        number(
            "Kill switch",
            "On: everybody gets batch, by the local switch or the kill flag.",
            Query(f"max(headgate_kill_switch{{{PODS}}})"),
            alert="HeadgateKilled",
            lines=[(1, RED)],
            says={"0": "off", "1": "ON"},
        ),
        number(
            "Flags confirmed",
            "Since when: the oldest of all proxies. At `flags.stale_s` everybody gets batch.",
            Query(f"max(headgate_flag_age_seconds{{{PODS}}})"),
            unit="s",
            alert="HeadgateFlagsStale",
            lines=[(FLAG_AGE_S, YELLOW), (FLAG_STALE_S, RED)],
            decimals=0,
        ),
    )


def _seen() -> list[Panel]:
    pages, live = f"headgate_attached_pages_total{{{PODS}", 'result=~"attached|unchanged"'
    return [
        number(
            "Store of runs",
            "Whether it takes writes; also fine where replicas share nothing and none is used.",
            Query(f"min(headgate_event_log_up{{{PODS}}})"),
            span=3,
            alert="HeadgateEventLogDown",
            lines=[(1, "green")],
            below=RED,
            says={"0": "DOWN", "1": "fine"},
        ),
        rows(
            "Alerts",
            "What fires, or is about to. Empty is good, as long as proxies are seen.",
            ("alertname", "route", "severity", "alertstate"),
            {"": Query('ALERTS{alertname=~"Headgate.+",cluster=~"$cluster",namespace=~"$namespace"}')},
            span=8,
            height=5,
            alert="README",
        ),
        number(
            "Over budget",
            "Refused with 503 because all share a budget (`limits`), in the time shown here.",
            Query(f"sum(increase(headgate_over_budget_total{{{PODS}}}[$__range]))"),
            span=4,
            height=5,
            decimals=0,
        ),
        number(
            "Identity",
            "Whether nobody is somebody by saying so: else strangers can make up evidence for a rollout.",
            Query(f"min(headgate_identity_verified{{{ROUTES}}})"),
            span=4,
            height=5,
            says={"0": "not verified", "1": "verified"},
        ),
        number(
            "Pages with live text",
            "Of `attach`: those that have the script, and those left as they are; the metric says why.",
            Query(f"sum(increase({pages},{live}}}[$__range]))", "with the script"),
            Query(f"sum(increase({pages}}}[$__range])) - sum(increase({pages},{live}}}[$__range]))", "left"),
            span=4,
            height=5,
            decimals=0,
        ),
        number(
            "Proxies",
            "Scraped ones, by version.",
            Query(f"count by (version) (headgate_build_info{{{PODS}}})", "{{version}}"),
            span=4,
            height=5,
            alert="HeadgateMetricsAbsent",
        ),
    ]


def _traffic() -> list[Panel]:
    requests = "headgate_requests_total"
    streamed = rate(requests, "route", 'mode="stream"')
    of_routes = rate(requests, "route", 'mode!="relay"')
    return [
        lines(
            "Requests",
            "By what was decided. `relay` matches no route, or was relayed untouched.",
            Query(rate(requests, "mode"), "{{mode}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Why batch",
            "Requests of routes that got batch, by the reason. Those of 0 are left out.",
            Query(f'{rate(requests, "reason", """mode="batch" """.strip())} > 0', "{{reason}}"),
            unit="reqps",
            alert="HeadgateFallbackSurge",
            stacked=True,
        ),
        lines(
            "Share that streams",
            "Of the requests of each route, whoever asked.",
            Query(f"{streamed} / {of_routes}", "{{route}}"),
            unit="percentunit",
        ),
    ]


def streams(look: Look) -> Dashboard:
    """The dashboard of the person on call."""
    return built(
        "Streams",
        "Is it healthy? Traffic, times against their goals, what became of runs, and what is in the way.",
        (CLUSTER, NAMESPACE, JOB, POD, ROUTE),
        look,
        {"Is it healthy?": [*_healthy(), *_switches(), *_seen()], "Traffic": _traffic()},
        {
            "How long it takes": times(),
            "What became of it": [*ends(), *budgets()],
            "What the model has used": used(),
            "How busy it is": busy(),
            "Resources": resources(),
        },
    )
