"""axe-core: what it finds in a page, by WCAG 2.2 AA and its own advice."""

from typing import Any

import pytest

from tests.browser.npm import HERE

AXE = HERE / "node_modules" / "axe-core" / "axe.min.js"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

RUN = "rules => axe.run(document, rules)"
"""In a page that has the script; `RULES` is its argument."""


def script() -> str:
    """Return the script that a page must have evaluated before; skips where it is not installed."""
    if not AXE.is_file():
        pytest.skip("axe-core is not here: npm ci --prefix tests/browser")
    return AXE.read_text()


def findings(result: dict[str, Any]) -> list[str]:
    """Rule by rule and element by element, of what `RUN` gives."""
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in result["violations"]
        for node in rule["nodes"]
    ]
