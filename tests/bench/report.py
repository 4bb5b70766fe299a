"""The bench's report: one table for people and as JSON for programs."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.results import DISTURBED, SLOW, Goal, Results, Row, Samples, Target

WIDTH = 190
SATURATED = 0.9
NOTHING = "–"
COLUMNS = {
    Target.HEADGATE: "Headgate",
    Target.NGINX: "nginx",
    Target.NGINX_BUFFERED: "buffered",
    Target.NAIVE: "naive",
    Target.DIRECT: "direct",
}
NOTES = """\
nginx is one worker with proxy_buffering off. Figures are medians of interleaved runs; "added" is to direct.
"CPU µs" is Headgate's own time for one request or event, "by CPU" nginx's divided by it. "busy" is the
proxy's core and the load's during Headgate's runs.
disturbed: something else took so much of the proxy's core; goals for rates are then judged by CPU time.
slow: a neighbour of the virtual machine slowed the proxy's core to so much of its best.
load-bound: the load's core was full and the proxy's was not, so that the figure is a floor.
Where two runs or more were neither disturbed nor slow, only they count; else a verdict has a "?"."""


def print_table(results: Results, console: Console) -> None:
    """The rows, then what to know about them."""
    # Each process has said so itself, or it was not measured.
    hot_path = "Python" if results.plan.pure else "compiled"
    title = None if Target.HEADGATE in results.absent else f"The hot path of Headgate's processes: {hot_path}"
    table = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for heading in (*COLUMNS.values(), "of nginx", "by CPU", "× naive", "CPU µs", "busy"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("goals", no_wrap=True)
    for row in results.rows:
        table.add_row(f"{row.name}, {row.unit}", *_cells(row), _goals(row))
    console.print(table)
    console.print(NOTES, style="dim", highlight=False)
    for warning in _warnings(results):
        console.print(warning, style="yellow", highlight=False)


def write_json(results: Results, path: Path) -> None:
    """Everything, with every sample."""
    document = {
        "plan": asdict(results.plan),
        "absent": dict(results.absent),
        "rows": [_row(row) for row in results.rows],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def all_met(results: Results) -> bool:
    """Is every goal of these rows met? What could not be measured is not."""
    return all(goal.met(row) for row in results.rows for goal in row.goals)


def _cells(row: Row) -> Iterator[str]:
    for target in COLUMNS:
        yield _number(row.value(target))
    rate = not row.added and row.unit.endswith("/s")
    yield _share(row.ratio(Target.NGINX) if rate else None)
    yield _share(row.cpu_ratio(Target.NGINX))
    times = row.ratio(Target.NAIVE) if rate else None
    yield NOTHING if times is None else f"{times:.0f}"
    yield _number(row.cost(Target.HEADGATE, lambda one: one.cpu_us) or None)
    proxy = row.cost(Target.HEADGATE, lambda one: one.proxy_core)
    load = row.cost(Target.HEADGATE, lambda one: one.load_core)
    yield f"{_share(proxy)} {_share(load)}" if proxy else NOTHING


def _goals(row: Row) -> str:
    return "\n".join(_verdict(goal, row) for goal in row.goals)


def _verdict(goal: Goal, row: Row) -> str:
    value = goal.measure(row)
    if value is None:
        return f"{goal.text}: not measured"
    word = "[green]met[/]" if goal.met(row) else "[red]missed[/]"
    doubt = "" if all(sample.good for target in goal.targets for sample in row.counted(target)) else "?"
    return f"{goal.text}: {goal.shown.format(value)}, {word}{doubt}"


def _warnings(results: Results) -> Iterator[str]:
    for target, why in results.absent.items():
        yield f"{COLUMNS[target]} was not measured: {why}"
    told: list[Samples] = []
    for row in results.rows:
        if any(row.samples is samples for samples in told):
            continue  # another figure of the same runs
        told.append(row.samples)
        doubts = [
            f"{COLUMNS[target]} {', '.join(found)}"
            for target in row.samples
            if (found := _doubts(row, target))
        ]
        if doubts:
            yield f"{row.name}: {'; '.join(doubts)}"


def _doubts(row: Row, target: Target) -> list[str]:
    found = []
    if errors := row.errors(target):
        found.append(f"{errors:,} failed")
    if (others := row.disturbance(target)) > DISTURBED:
        found.append(f"disturbed {others:.0%}")
    if (speed := row.cost(target, lambda one: one.speed) or 1.0) < SLOW:
        found.append(f"slow {speed:.0%}")
    proxy = row.cost(target, lambda one: one.proxy_core) or 0.0
    load = row.cost(target, lambda one: one.load_core) or 0.0
    if row.saturating and proxy < SATURATED <= load:
        found.append(f"load-bound {proxy:.0%} {load:.0%}")
    return found


def _row(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "unit": row.unit,
        "values": {target: row.value(target) for target in row.samples},
        "ratios": {target: row.ratio(target) for target in row.samples if target is not Target.HEADGATE},
        "goals": [
            {"text": goal.text, "value": goal.measure(row), "met": goal.met(row)} for goal in row.goals
        ],
        "samples": {target: [asdict(sample) for sample in taken] for target, taken in row.samples.items()},
    }


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    size = abs(value)
    return f"{value:,.0f}" if size >= 10 else f"{value:.1f}" if size >= 1 else f"{value:.2f}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"
