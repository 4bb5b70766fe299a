"""The part of the dashboard *Rollout* that shows how far the evidence has come, on its way to each line."""

from dashboards.panels import RED, YELLOW, Panel, Query, lines, meters, row, rows
from dashboards.queries import line_of, metric, progress


def evidence() -> list[Panel]:
    """Now, over time, and in numbers."""
    return [*_now(), *_over_time(), *_numbers()]


def _now() -> list[Panel]:
    return [
        meters(
            "Harm, on its way to hold",
            "As a part of the evidence that it takes. Full: it holds, and somebody is asked.",
            Query(progress("harm", "hold"), "{{guardrail}}"),
            unit="percentunit",
            lines=[(0.5, YELLOW), (1, RED)],
        ),
        meters(
            "Harm, on its way to roll back",
            "Of guardrails that may. Full: everybody gets batch.",
            Query(progress("harm", "roll_back"), "{{guardrail}}"),
            unit="percentunit",
            lines=[(0.5, YELLOW), (1, RED)],
        ),
        meters(
            "Safety, on its way to proof",
            "In this step. What is too rare to be judged may count as safe without: see the table.",
            Query(progress("safe", "safe"), "{{guardrail}}"),
            unit="percentunit",
            lines=[(1, "green")],
            below="blue",
        ),
    ]


def _over_time() -> list[Panel]:
    return row(
        12,
        lines(
            "Harm, over time",
            "The same way to hold, as it went. What goes back and forth at the bottom is chance.",
            Query(progress("harm", "hold"), "{{guardrail}}"),
            unit="percentunit",
            lines=[(1, RED)],
        ),
        lines(
            "Safety, over time",
            "The same way to proof, as it went. Each step begins at 0.",
            Query(progress("safe", "safe"), "{{guardrail}}"),
            unit="percentunit",
            lines=[(1, "green")],
            below="blue",
        ),
    )


def _numbers() -> list[Panel]:
    return [
        rows(
            "Guardrails",
            "As the last look saw them. Evidence and lines are powers of ten; some have none.",
            ("guardrail", "finding"),
            {
                "": Query(f"{metric('finding')} == 1"),
                "harm": Query(metric("evidence_log10", 'towards="harm"')),
                "holds at": Query(line_of("hold")),
                "rolls back at": Query(line_of("roll_back")),
                "safety": Query(metric("evidence_log10", 'towards="safe"')),
                "proved at": Query(line_of("safe")),
                "samples": Query(metric("samples")),
                "of": Query(metric("samples_needed")),
                "users": Query(metric("users")),
                "of users": Query(metric("users_needed")),
            },
            unit="none",
            span=24,
            height=10,
        )
    ]
