"""The dashboard *Compare*: what streaming does to users, against a control arm of the same size."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.objectives import APART, BAD
from dashboards.panels import Look, Panel, Query, built, lines, number
from dashboards.queries import quantile, rate
from dashboards.variables import CLUSTER, JOB, NAMESPACE, POD, ROUTE, ROUTES

ARMS = ("stream", "control")
ARM = 'arm=~"stream|control"'
OUTCOMES, SETTLED = "headgate_outcomes_total", "headgate_settled_seconds"
CAPPED = "headgate_capped_failures_total"
EXPECTED, WEIGHED = "headgate_expected_failures_total", "headgate_weighed_failures_total"


def share(outcomes: str, more: str = ARM, by: str = "arm") -> str:
    """The share of settled requests with these outcomes, a second."""
    some = rate(OUTCOMES, by, f'{more},outcome=~"{outcomes}"')
    return f"{some} / {rate(OUTCOMES, by, more)}"


def beyond_expected(arm: str) -> str:
    """Failures of an arm for each one that its users' histories let expect."""
    return f"{rate(WEIGHED, 'job', in_arm(arm))} / {rate(EXPECTED, 'job', in_arm(arm))}"


def in_arm(arm: str) -> str:
    return f'arm="{arm}"'


def failed_share(arm: str) -> str:
    """The share of an arm's answers that failed, in the time range shown."""
    chosen = f'{ROUTES},arm="{arm}"'
    bad = f'sum(increase({OUTCOMES}{{{chosen},outcome=~"{BAD}"}}[$__range]))'
    return f'{bad} / sum(increase({OUTCOMES}{{{chosen},outcome!~"{APART}"}}[$__range]))'


def median(metric: str, arm: str = "") -> str:
    """The median of a histogram, in the time range shown."""
    chosen = f'{ROUTES},arm="{arm}"' if arm else ROUTES
    return f"histogram_quantile(0.5, sum by (le) (increase({metric}_bucket{{{chosen}}}[$__range])))"


def _sum() -> list[Panel]:
    count = f'sum by (arm) (increase({OUTCOMES}{{{ROUTES},{ARM},outcome!~"{APART}"}}[$__range]))'
    return [
        number(
            "Failed, stream against control",
            "In all the time shown. The guardrails judge it; this only shows it.",
            Query(failed_share("stream"), "stream"),
            Query(failed_share("control"), "control"),
            unit="percentunit",
            below="text",
            decimals=2,
            alert="HeadgateAnswersFail",
        ),
        number(
            "What a reader waits for",
            "Half of them wait less: for the first text of a stream, for the whole answer in control.",
            Query(median("headgate_first_content_seconds"), "stream"),
            Query(median(SETTLED, "control"), "control"),
            unit="s",
            below="text",
        ),
        number(
            "Settled requests",
            "In all the time shown. Up to a share of 50 % both arms are as wide.",
            Query(count, "{{arm}}"),
            below="text",
            decimals=0,
        ),
    ]


def _answers() -> list[Panel]:
    return [
        lines(
            "Failed",
            "Requests that ended without a whole answer; and those of them of which each user has five an "
            "hour at most.",
            Query(share(BAD), "{{arm}}"),
            Query(f"{rate(CAPPED, 'arm', ARM)} / {rate(OUTCOMES, 'arm', ARM)}", "{{arm}}, five of a user"),
            unit="percentunit",
            named=ARMS,
        ),
        lines(
            "Failed, in stream over control",
            "1 is no difference; above it streaming does harm, or chance does. The second line is beside "
            "what users' own histories let expect.",
            Query(
                f"({share(BAD, in_arm('stream'), 'job')}) / ({share(BAD, in_arm('control'), 'job')})", "ratio"
            ),
            Query(
                f"({beyond_expected('stream')}) / ({beyond_expected('control')})", "beyond what was expected"
            ),
            unit="none",
            lines=[(1, "yellow")],
        ),
        lines(
            "Who left",
            "Clients that went before the answer came, and cancelled runs.",
            Query(share("client_left|cancelled"), "{{arm}}"),
            unit="percentunit",
            named=ARMS,
        ),
        lines(
            "Stream arm by outcome",
            "Settled requests a second.",
            Query(rate(OUTCOMES, "outcome", 'arm="stream"'), "{{outcome}}"),
            unit="reqps",
            span=12,
            named=("failed", "truncated"),
            stacked=True,
        ),
        lines(
            "Control by outcome",
            "Settled requests a second.",
            Query(rate(OUTCOMES, "outcome", 'arm="control"'), "{{outcome}}"),
            unit="reqps",
            span=12,
            named=("failed", "truncated"),
            stacked=True,
        ),
    ]


def _times() -> list[Panel]:
    return [
        lines(
            f"Whole answers, p{100 * at:.0f}",
            text,
            Query(quantile(at, SETTLED, ARM, "le, arm"), "{{arm}}"),
            unit="s",
            named=ARMS,
        )
        for at, text in (
            (0.5, "Half of the answers are whole sooner."),
            (0.95, "Of 20 answers, one is later."),
            (0.99, "Of 100 answers, one is later."),
        )
    ]


def _users() -> list[Panel]:
    answered = f'{ARM},outcome=~"complete|recovered|fell_back"'
    return [
        lines(
            "Users met",
            "Different ones since the share was last written. Beside them, how much users differ in how "
            "often they fail, by their histories: a squared coefficient of variation; 0 is alike.",
            Query(f"max by (arm) (headgate_users{{{ROUTES}}})", "{{arm}}"),
            Query(f"max(headgate_users_cv2{{{ROUTES}}})", "CV² of failures"),
            named=ARMS,
        ),
        lines(
            "Settled requests",
            "A second; up to a share of 50 % both arms are as wide.",
            Query(rate(OUTCOMES, "arm", ARM), "{{arm}}"),
            unit="reqps",
            named=ARMS,
        ),
        lines(
            "Failed, by bucket of users",
            "Sixteen buckets of a hash of the user. One far from the median is a few users.",
            Query(f"max({share(BAD, in_arm('stream'), 'bucket')})", "worst"),
            Query(f"quantile(0.5, {share(BAD, in_arm('stream'), 'bucket')})", "median"),
            Query(f"min({share(BAD, in_arm('stream'), 'bucket')})", "best"),
            unit="percentunit",
        ),
        number(
            "Users who came to fail far more often",
            "Than before, in all the time shown. By chance the stream arm has its share of them. "
            "Processes that share a store count each user once; others may each count the same one.",
            Query(
                f'sum by (arm) (increase(headgate_users_worse_total{{{ROUTES},limit="7"}}[$__range]))',
                "{{arm}}",
            ),
            Query(f"max(sum by (route) (headgate_users_alone{{{ROUTES}}}))", "count alone"),
            Query(f"max(headgate_users_group{{{ROUTES}}} > bool 0)", "count together: 1"),
            Query(f"avg by (harm) (headgate_draw_evidence{{{ROUTES}}})", "draw: harm to {{harm}}"),
            span=12,
            below="text",
            decimals=0,
            height=8,
        ),
        lines(
            "Slower than is usual for their user",
            "Of whole answers, those that took 1.5 times what is usual for whoever asked.",
            Query(
                f"{rate('headgate_slower_total', 'arm', ARM)} / {rate(OUTCOMES, 'arm', answered)}", "{{arm}}"
            ),
            unit="percentunit",
            span=12,
            named=ARMS,
        ),
    ]


def compare(look: Look) -> Dashboard:
    """The dashboard that compares what streaming gains for readers with what it costs."""
    return built(
        "Compare",
        "The stream arm against its control: as many users, drawn by the same hash, at the same time.",
        (CLUSTER, NAMESPACE, JOB, POD, ROUTE),
        look,
        {
            "In sum": _sum(),
            "Answers": _answers(),
            "How long a whole answer takes": _times(),
            "Who is compared": _users(),
        },
    )
