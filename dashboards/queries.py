"""PromQL that panels share. Windows are Grafana's, places are the dashboard's variables."""

from dashboards.panels import Query
from dashboards.variables import IN_NAMESPACE, ROUTES

CONTROLLER = f'{IN_NAMESPACE},job=~"$controller"'
PARTS = (0.5, 0.95, 0.99)


def rate(metric: str, by: str, more: str = "", where: str = ROUTES) -> str:
    """Events a second."""
    selector = ",".join(part for part in (where, more) if part)
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(part: float, metric: str, more: str = "", by: str = "le") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({part}, {rate(f'{metric}_bucket', by, more)})"


def quantiles(metric: str, more: str = "") -> list[Query]:
    return [Query(quantile(part, metric, more), f"p{100 * part:.0f}") for part in PARTS]


def metric(name: str, more: str = "") -> str:
    """One of the controller's metrics."""
    return f"headgate_rollout_{name}{{{','.join(part for part in (CONTROLLER, more) if part)}}}"


def age(name: str) -> str:
    """Seconds since an event; no series if there never was one."""
    return f"time() - max({metric(f'last_{name}_timestamp_seconds')} > 0)"


def progress(towards: str, line: str) -> str:
    """Evidence as a share of what a line needs, from 0 (also for evidence against it) to 1."""
    evidence, at = (metric("evidence_log10", f'towards="{towards}"'), metric("line_log10", f'line="{line}"'))
    return f"clamp({evidence} / ignoring (towards, line) {at}, 0, 1)"


def line_of(line: str) -> str:
    return metric("line_log10", f'line="{line}"')
