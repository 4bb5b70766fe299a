"""Made-up clinical markdown: the same seed and messages give the same text, in any process and any mode."""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from examples.clinic.model.scenarios import Scenario, scenario_of

TASK = re.compile(r"^Task: (\w+)$", re.MULTILINE)
TOKEN = re.compile(r"\s?\w{1,7}|\s?[^\w\s]+|\s")

CHANGES = ("stable", "rising", "falling", "not yet repeated", "borderline", "as expected")


@dataclass(frozen=True)
class Layout:
    """The layout of the text of one task."""

    title: str
    lead: str
    columns: tuple[str, str, str]
    table: str
    """The field of `Scenario` that fills the table."""
    remarks: str


LAYOUTS = {
    "extraction": Layout(
        "Extracted factors", "What the case states:", ("Factor", "Value", "Weight"), "findings", "Context"
    ),
    "causal_analysis": Layout(
        "Causal links", "Read from left to right:", ("Cause", "Effect", "Strength"), "links", "Open questions"
    ),
    "validation": Layout(
        "Validation",
        "✅ Yes — the analysis is consistent and complete enough to go on.",
        ("Link", "Seen as", "Strength"),
        "links",
        "Checked",
    ),
    "counterfactual": Layout(
        "Counterfactual analysis",
        "Without the leading cause, what would remain?",
        ("Alternative", "Would be", "Because"),
        "diagnoses",
        "What would change the view",
    ),
    "diagnosis": Layout(
        "Diagnosis", "In order of likelihood:", ("Diagnosis", "Likelihood", "Evidence"), "diagnoses", "Next"
    ),
    "treatment_planning": Layout(
        "Treatment options", "To be weighed:", ("Measure", "Dose or target", "Reason"), "options", "Cautions"
    ),
    "patient_specific": Layout(
        "For this patient",
        "Fitted to age, kidneys and home:",
        ("Measure", "Dose or target", "Reason"),
        "options",
        "At home",
    ),
    "final_plan": Layout(
        "Final plan", "To start now:", ("Measure", "Dose or target", "Reason"), "options", "Follow-up"
    ),
    "note": Layout(
        "Clinical note", "Assessment:", ("Diagnosis", "Likelihood", "Evidence"), "diagnoses", "Plan"
    ),
}
SUMMARY = Layout("Summary", "In short:", ("Finding", "Value", "Weight"), "findings", "Please confirm")


def find_task(messages: list[dict[str, Any]]) -> str:
    """The task that the last prompt names; `summary` when it names none."""
    found = TASK.search(str(messages[-1].get("content", ""))) if messages else None
    return found[1] if found else "summary"


@dataclass(frozen=True)
class Author:
    """Writes the answers of one model server."""

    seed: int
    tokens: int
    has_blank_end: bool = False
    """Every text ends with two line feeds, as many a model's does."""

    def write(self, messages: list[dict[str, Any]]) -> list[str]:
        """See `write`."""
        text = write(messages, seed=self.seed, tokens=self.tokens)
        return [*text, "\n", "\n"] if self.has_blank_end else text


def count_tokens(message: dict[str, Any]) -> int:
    return len(TOKEN.findall(str(message.get("content", ""))))


def write(messages: list[dict[str, Any]], *, seed: int, tokens: int) -> list[str]:
    """About `tokens` tokens, cut at the end of a line; joined, they are the text."""
    canonical = json.dumps([seed, messages], ensure_ascii=False, sort_keys=True).encode()
    choice = random.Random(hashlib.sha256(canonical).digest())
    layout = LAYOUTS.get(find_task(messages), SUMMARY)
    scenario = scenario_of(str(messages[-1].get("content", "")) if messages else "")
    return TOKEN.findall(_until(_lines(layout, scenario, choice), tokens))


def _until(lines: Iterator[str], tokens: int) -> str:
    text = next(lines)
    for line in lines:
        if len(TOKEN.findall(f"{text}\n{line}")) > tokens:
            break
        text += f"\n{line}"
    return text.rstrip()


def _lines(layout: Layout, scenario: Scenario, choice: random.Random) -> Iterator[str]:
    """Without end: after the first table and list come further observations."""
    rows = getattr(scenario, layout.table)
    yield from (f"# {layout.title}", "", layout.lead, "")
    yield from (_row(layout.columns), _row(("---",) * 3))
    # In the table's own order: that of weight or likelihood.
    yield from (_row(rows[index]) for index in sorted(choice.sample(range(len(rows)), 3)))
    yield from ("", f"## {layout.remarks}", "")
    yield from (f"- {remark}" for remark in choice.sample(scenario.remarks, 4))
    for part in count(2):
        yield from ("", f"## {layout.remarks}, part {part}", "")
        yield from (_observation(scenario, choice) for _ in range(6))


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _observation(scenario: Scenario, choice: random.Random) -> str:
    name, value, weight = choice.choice(scenario.findings)
    hours = choice.choice((2, 4, 6, 12, 24))
    return f"- **{name}** {value}: {choice.choice(CHANGES)} over {hours} h — weight {weight}."
