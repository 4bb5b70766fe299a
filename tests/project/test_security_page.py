"""The page on security names tests that are there, and figures that are the settings'."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from proxy.identity import BUCKETS
from proxy.replicas.store.records import LIVE_TTL_S
from proxy.settings.settings import LimitSettings, MemoryLogSettings, ValkeyLogSettings
from proxy.viewers.tickets import TICKET_S

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a title."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@cache
def names_in(name: str) -> frozenset[str]:
    tree = ast.parse((TESTS / name).read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("row", rows("Threats and answers"), ids=lambda row: row[0][:40])
def test_every_answer_to_a_threat_is_shown_by_a_test(row: list[str]) -> None:
    """One or more, which are there under that name."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", row[2])

    assert named
    assert [f"{name}::{test}" for name, test in named if test not in names_in(name)] == []


def test_the_figures_are_those_of_the_code() -> None:
    """The page says how long things are kept, and how many."""
    said = " ".join(" ".join(row) for row in rows("What is where"))
    memory, store = MemoryLogSettings(), ValkeyLogSettings.model_fields["ttl_s"].default

    assert f"`event_log.memory.ttl_s` ({memory.ttl_s:g} s)" in said
    assert f"`runs` ({memory.runs}) and `bytes` ({memory.bytes // 2**20} MiB)" in said
    assert f"`ttl_s` ({store} s) after the end; {LIVE_TTL_S:g} s after" in said
    assert f"once, {TICKET_S} s" in said
    assert f"`limits.bodies` ({LimitSettings().bodies // 2**20} MiB)" in said
    assert f"`limits.answers` ({LimitSettings().answers // 2**20} MiB)" in said
    assert f"{BUCKETS} buckets of users" in said
