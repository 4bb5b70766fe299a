"""The row *Resources*: what the processes use. The controller's are there where it shares the job."""

from dashboards.panels import RED, YELLOW, Panel, Query, lines
from dashboards.variables import PODS

STALL_S = 0.02
"""No input may hold the loop for longer."""


def _each(metric: str) -> str:
    return f"{metric}{{{PODS}}}"


def resources() -> list[Panel]:
    """By process, or by replica where several share a page."""
    lag = f"rate(headgate_event_loop_lag_seconds_bucket{{{PODS}}}[$__rate_interval])"
    whole = f'label_replace({_each("headgate_event_log_up")}, "shard", "all", "", "")'
    return [
        lines(
            "CPU",
            "Cores in use, all workers of a replica.",
            Query(f"rate({_each('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
        ),
        lines(
            "Memory",
            "Resident memory of all workers.",
            Query(_each("process_resident_memory_bytes"), "{{instance}}"),
            unit="bytes",
        ),
        lines(
            "Event loop lag, p99",
            "Seconds that a turn came too late. `/debug/stalls` has the stacks of the longest.",
            Query(f"histogram_quantile(0.99, sum by (instance, le) ({lag}))", "{{instance}}"),
            unit="s",
            lines=[(STALL_S, YELLOW)],
        ),
        lines(
            "File descriptors",
            "Those that are open, as a part of the most. At 1 no client can connect.",
            Query(f"{_each('process_open_fds')} / {_each('process_max_fds')}", "{{instance}}"),
            unit="percentunit",
            lines=[(0.9, RED)],
        ),
        lines(
            "Stores of runs",
            "1 while all replicas reach it: all of them, and each shard if there are several.",
            Query(f"min by (shard) ({_each('headgate_event_log_shard_up')} or {whole})", "{{shard}}"),
            alert="HeadgateEventLogDown",
        ),
        lines(
            "Garbage collections",
            "Of the oldest generation, a second; each is a pause.",
            Query(
                f'rate(python_gc_collections_total{{{PODS},generation="2"}}[$__rate_interval])',
                "{{instance}}",
            ),
            unit="ops",
        ),
    ]
