"""The row *Resources*: what the processes use. The controller's are there where it shares the job."""

from dashboards.panels import PODS, RED, YELLOW, About, Panel, Query, lines

STALL_S = 0.02
"""No input may hold the loop for longer."""


def _each(metric: str) -> str:
    return f"{metric}{{{PODS}}}"


def resources() -> list[Panel]:
    """By process, or by replica where several share a page."""
    lag = f"rate(headgate_event_loop_lag_seconds_bucket{{{PODS}}}[$__rate_interval])"
    return [
        lines(
            About("CPU", "Cores in use, all workers of a replica."),
            Query(f"rate({_each('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
        ),
        lines(
            About("Memory", "Resident memory of all workers.", "bytes"),
            Query(_each("process_resident_memory_bytes"), "{{instance}}"),
        ),
        lines(
            About(
                "Event loop lag, p99",
                "Seconds that a turn came too late. `/debug/stalls` has the stacks of the longest.",
                "s",
                lines=[(STALL_S, YELLOW)],
            ),
            Query(f"histogram_quantile(0.99, sum by (instance, le) ({lag}))", "{{instance}}"),
        ),
        lines(
            About(
                "File descriptors",
                "Those that are open, as a part of the most. At 1 no client can connect.",
                "percentunit",
                lines=[(0.9, RED)],
            ),
            Query(f"{_each('process_open_fds')} / {_each('process_max_fds')}", "{{instance}}"),
        ),
        lines(
            About("Garbage collections", "Of the oldest generation, a second; each is a pause.", "ops"),
            Query(
                f'rate(python_gc_collections_total{{{PODS},generation="2"}}[$__rate_interval])',
                "{{instance}}",
            ),
        ),
    ]
