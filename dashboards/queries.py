"""PromQL that panels share. Windows are Grafana's, places are the dashboard's variables."""

from dashboards.panels import ROUTES, Query

CONTROLLER = 'namespace=~"$namespace",job=~"$controller"'
PARTS = (0.5, 0.95, 0.99)


def rate(metric: str, by: str, more: str = "", where: str = ROUTES) -> str:
    """Events a second."""
    selector = ",".join(part for part in (where, more) if part)
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(part: float, metric: str, more: str = "", by: str = "le") -> str:
    """So many of a histogram's events are at most this."""
    return f"histogram_quantile({part}, {rate(f'{metric}_bucket', by, more)})"


def quantiles(metric: str, more: str = "") -> list[Query]:
    return [Query(quantile(part, metric, more), f"p{100 * part:.0f}") for part in PARTS]


def of(name: str, more: str = "") -> str:
    """One of the controller's metrics."""
    return f"headgate_rollout_{name}{{{','.join(part for part in (CONTROLLER, more) if part)}}}"


def age(name: str) -> str:
    """Seconds since; nothing if it never was."""
    return f"time() - max({of(f'last_{name}_timestamp_seconds')} > 0)"


def way(towards: str, line: str) -> str:
    """Evidence as a part of what it takes to reach a line: from 0, also where it speaks against it, to 1."""
    evidence, at = of("evidence_log10", f'towards="{towards}"'), of("line_log10", f'line="{line}"')
    return f"clamp({evidence} / ignoring (towards, line) {at}, 0, 1)"


def line_of(line: str) -> str:
    return of("line_log10", f'line="{line}"')
