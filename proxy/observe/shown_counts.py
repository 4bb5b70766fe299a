"""The counters that the operators' page shows, read from the metrics of this process."""

from collections import Counter
from collections.abc import Mapping

from proxy.observe.metrics import Metrics


def totals(metrics: Metrics, providers: Mapping[tuple[str, str], float]) -> dict[tuple[str, ...], float]:
    """Return the counts since the process began: the kind, its labels, and how often.

    `decision` has route, mode and reason; `run` route, source and outcome; `parity` route and result.

    Args:
        providers: ended calls, by provider and end; `provider` has them.
    """
    metrics.flush()
    found: Counter[tuple[str, ...]] = Counter()
    families = (
        ("decision", metrics.requests, ("route", "mode", "reason")),
        ("run", metrics.runs, ("route", "source", "outcome")),
        ("parity", metrics.parity, ("route", "result")),
    )
    for kind, family, names in families:
        for metric in family.collect():
            for sample in metric.samples:
                if sample.value and sample.name.endswith("_total"):
                    found[(kind, *(sample.labels[name] for name in names))] += int(sample.value)
    for key, count in providers.items():
        found[("provider", *key)] = int(count)
    return dict(found)


def viewers(metrics: Metrics) -> dict[str, float]:
    """Open streams, by route."""
    return {
        sample.labels["route"]: sample.value for each in metrics.viewers.collect() for sample in each.samples
    }
