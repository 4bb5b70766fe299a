"""The dashboards' JSON, held against the types that Grafana itself publishes for several of its releases."""

import json
from pathlib import Path

import pytest

from tests.browser.npm import HERE, node
from tests.dashboards.test_dashboards import documents

RELEASES = {"11.6": "grafana-schema-11", "12": "grafana-schema-12", "13": "@grafana/schema"}
"""Of Grafana, and the package with its types."""

LITERALS = """\
type Said<T> = T extends string ? `${T}` : T extends readonly (infer E)[] ? Said<E>[]
  : T extends object ? { [K in keyof T]: Said<T[K]> } : T;
"""
"""JSON has the texts of an enumeration, not its members."""

CHECKED = ("--noEmit", "--strict", "--skipLibCheck", "--target", "es2022")
CHECKED += ("--module", "nodenext", "--moduleResolution", "nodenext")


def checked(directory: Path, found: dict[str, dict[str, object]]) -> None:
    """Have the types' checker read all documents as all releases do. It knows no name that is not there."""
    lines = [
        f'import type {{ Dashboard as D{at} }} from "{name}";' for at, name in enumerate(RELEASES.values())
    ]
    lines.append(LITERALS)
    for name, document in found.items():
        text = json.dumps(document)
        lines += [f"export const {name}{at}: Said<D{at}> = {text};" for at in range(len(RELEASES))]
    (directory / "node_modules").symlink_to(HERE / "node_modules")
    (directory / "all.ts").write_text("\n".join(lines), encoding="utf-8")
    checker = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    node(str(checker), *CHECKED, "all.ts", cwd=directory)


def test_grafanas_own_types_take_the_dashboards(tmp_path: Path) -> None:
    """Every name and value, in three releases. Two things are older: a query of an annotation, which its data
    source moves into `target`, and fields that a variable has if it is an interval."""
    if not (HERE / "node_modules" / "grafana-schema-12").is_dir():
        pytest.skip("Grafana's types are not here: npm ci --prefix tests/browser")
    found = documents()
    for document in found.values():
        for event in document["annotations"]["list"]:
            assert event.pop("expr")
        for variable in document["templating"]["list"]:
            for name in ("auto", "auto_count", "auto_min"):
                variable.pop(name)
    checked(tmp_path, found)

    found["compare"]["panels"][1]["fieldConfig"]["defaults"]["thresholds"]["mode"] = "absolutely"
    (tmp_path / "wrong").mkdir()
    with pytest.raises(AssertionError, match="absolutely"):
        checked(tmp_path / "wrong", {"compare": found["compare"]})
