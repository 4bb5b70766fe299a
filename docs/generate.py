"""Writes `docs/reference` and the chart's schema and README, from the code. `make docs` runs it.

A test fails while the files differ from what this would write.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
from prometheus_client import CollectorRegistry

from docs import chart, dialects_page, http_page
from docs.tables import blocks, table
from flags.decision import Arm, Mode, Reason
from flags.rollout.policy.policy import Policy
from flags.rollout.reporting.metrics import FAMILIES
from flags.rollout.reporting.metrics import LABELS as ROLLOUT_LABELS
from proxy.cli import main as command_line
from proxy.errors import Fault
from proxy.observe.labels import Budget, CallResult, FaultPhase, PageResult
from proxy.observe.metrics import OUTCOMES, RECOVERY_RESULTS, Metrics
from proxy.settings.blocks.route import SourceName
from proxy.settings.settings import Settings
from proxy.text.sections import Parity

REFERENCE = Path(__file__).parent / "reference"

NOTE = "<!-- Written by `make docs` from the code. Change the docstrings there, not this page. -->\n"


def pages() -> dict[Path, str]:
    """The text of each file that is written."""
    reference = {
        "settings.md": settings_page(),
        "policy.md": policy_page(),
        "metrics.md": metrics_page(),
        "cli.md": cli_page(),
        "http.md": http_page.text(NOTE),
        "dialects.md": dialects_page.text(NOTE),
    }
    return {REFERENCE / name: text for name, text in reference.items()} | chart.files()


def settings_page() -> str:
    lines = [
        NOTE,
        "# Settings",
        "",
        "One YAML file (JSON is YAML too), `./headgate.yaml` unless `--config` names another. It is read",
        "once, at start; every problem is reported at once with its path, and an unknown name is a problem.",
        "`${NAME}` in a text stands for the environment variable of that name.",
        "",
    ]
    for path, model in blocks("", Settings):
        lines += table(path, model)
    return "\n".join(lines) + "\n"


POLICY = """\
flag: headgate.streaming
routes: [workflow-start]
where: {unleash: {url: http://unleash:4242, token: "${UNLEASH_ADMIN_TOKEN}"}}
evidence: {prometheus: {url: http://prometheus:9090, selector: 'job="headgate"'}}
journal: rollout.sqlite
lease: {file: rollout.lock}
steps:
  - {share: 0, at_least: 1h}                                  # dark: nobody is shown anything
  - {share: 1, at_least: 24h, prove: false, approve: true}    # too few to prove: a person decides
  - {share: 5, at_least: 24h, at_most: 7d}
  - {share: 25, at_least: 24h, at_most: 7d}
  - {share: 50, at_least: 24h, at_most: 7d}
  - {share: 95, at_least: 7d, approve: true}
guardrails:
  slow: {limit_s: 90}
  fallback: {disabled: "the upstream is known to fail at night, which the batch answer covers"}
freeze:
  zone: Europe/Berlin
  windows:
    - {days: [fri], from: "15:00", to: "24:00"}
    - {days: [sat, sun]}
    - {dates: [2026-12-20, 2027-01-06]}
"""


def policy_page() -> str:
    lines = [
        NOTE,
        "# Policy of a rollout",
        "",
        "One YAML file: how far the share of users may move, when, and by what proof. Every problem is",
        "reported at once with its path, and an unknown name is a problem. `${NAME}` in a text stands for",
        "the environment variable of that name; paths are beside the file. A duration is text with a unit:",
        '`"90s"`, `"10m"`, `"24h"`, `"7d"`.',
        "",
        "```yaml",
        POLICY.rstrip(),
        "```",
        "",
    ]
    for path, model in blocks("", Policy):
        lines += table(path, model)
    return "\n".join(lines) + "\n"


LABELS: dict[str, type[enum.Enum] | tuple[str, ...] | str] = {
    "shard": "a name of `event_log.valkey.shards`, or of one of its `nodes`, if the store has several",
    "route": "a route's name, or `unmatched`",
    "mode": Mode,
    "reason": Reason,
    "arm": Arm,
    "source": get_args(SourceName),
    "outcome": OUTCOMES,
    "budget": Budget,
    "fault": Fault,
    "phase": FaultPhase,
    "result": "of recoveries: "
    + ", ".join(f"`{r}`" for r in RECOVERY_RESULTS)
    + "; of parity: "
    + ", ".join(f"`{p.value}`" for p in Parity)
    + "; of calls to the model port: "
    + ", ".join(f"`{e.value}`" for e in CallResult)
    + "; of pages: "
    + ", ".join(f"`{e.value}`" for e in PageResult),
    "provider": "a name of `llm.providers`",
    "model": "of a provider's `models`, else `other`",
    "type": ("input", "output"),
    "harm": "`few`, `some`, `all`: what streaming may do, and to which part of users",
    "limit": "`5`, `7`: natural logarithms of the odds that a user has become worse",
    "bucket": "`0` to `15`: a hash of the user id, unrelated to the flags' own",
    "generation": "of Python's garbage collector: `0` to `2`",
    "version": "of Headgate, with its commit where that is known: `0.1.0+1a2b3c4`",
    "python": "its version",
}


def metrics_page() -> str:
    registry = CollectorRegistry()
    metrics = Metrics(registry, [])
    lines = [
        NOTE,
        "# Metrics",
        "",
        "On the admin port at `/metrics`. All label sets of the routes exist from the first scrape.",
        "No label ever says who: routes are names from the settings, never paths.",
        "",
        "| name | kind | labels | what |",
        "| --- | --- | --- | --- |",
    ]
    used: list[str] = []
    for collector in (*vars(metrics).values(), *vars(metrics.process).values()):
        if not hasattr(collector, "_labelnames"):
            continue
        kind = type(collector).__name__.lower()
        name = collector._name + ("_total" if kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        lines.append(f"| `{name}` | {kind} | {labels} | {collector._documentation} |")
        used += [label for label in collector._labelnames if label not in used]
    lines += _labels(LABELS, used)
    return "\n".join([*lines, *_of_rollouts()]) + "\n"


def _labels(values: Mapping[str, Any], used: Iterable[str]) -> list[str]:
    rows = [f"| `{label}` | {_values(values[label])} |" for label in used]
    return ["", "## Labels", "", "| label | values |", "| --- | --- |", *rows]


def _of_rollouts() -> list[str]:
    rows = [
        f"| `headgate_rollout_{name}` | gauge | {', '.join(f'`{label}`' for label in labels)} | {text} |"
        for name, (labels, text) in FAMILIES.items()
    ]
    used = dict.fromkeys(label for labels, _ in FAMILIES.values() for label in labels)
    head = ["", "# Metrics of the rollout controller", "", "Of the controller, not of the proxies."]
    head += ["", "| name | kind | labels | what |", "| --- | --- | --- | --- |"]
    return [*head, *rows, *_labels(ROLLOUT_LABELS, used)]


def _values(values: type[enum.Enum] | tuple[str, ...] | str) -> str:
    if isinstance(values, str):
        return values
    names = values if isinstance(values, tuple) else [member.value for member in values]
    return ", ".join(f"`{name}`" for name in names)


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and all its subcommands, by their full names."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None, f"{name} lists {inner}"
            yield from commands(f"{name} {inner}", found)


def cli_page() -> str:
    lines = [NOTE, "# Command line", ""]
    for name, command in commands("headgate", command_line):
        context = click.Context(command, info_name=name, max_content_width=100)
        lines += [f"## `{name}`", "", "```text", command.get_help(context), "```", ""]
    lines += [
        "Exit status: 0 when all went well, 1 when the settings, the flag file or an address cannot be used",
        "(each problem is a line on standard error), 2 for a wrong command line.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
