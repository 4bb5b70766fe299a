"""The dashboards, as a real Prometheus answers them that scrapes a real proxy and a rollout's page."""

import asyncio
import json
import math
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from dashboards.__main__ import DASHBOARDS
from dashboards.draw import NOTE, all_panels, drawn, view_of
from dashboards.panels import json_of
from dashboards.place import RUNBOOKS
from dashboards.rules import groups
from flags.rollout.reporting.metrics import FAMILIES
from proxy.observe.metrics import Metrics
from tests.dashboards.observed import CONTROLLER, PROXY, Observed, observed
from tests.project.shell_blocks import commands
from tests.servers.client import browser
from tests.servers.prometheus_server import is_installed
from tests.servers.serving import ADMIN_TOKEN

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "runbooks"
NOT_SHOWN: Mapping[str, str] = {
    "headgate_rollout_not_in_force": "it is an alert's; the shares that then differ are shown",
    "headgate_kill_flag_on_timestamp_seconds": "it is of what is over, for the controller",
    "process_start_time_seconds": "it dates the counters, for the controller",
}
"""Metrics that no panel shows, and why."""


def documents() -> dict[str, dict[str, Any]]:
    return {name: json.loads((ROOT / "dashboards" / f"{name}.json").read_text()) for name in DASHBOARDS}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, document in documents().items():
        for panel in all_panels(document):
            if panel["type"] != "row":
                yield name, panel


PANELS = list(panels())
each_panel = pytest.mark.parametrize(
    ("name", "panel"), PANELS, ids=[f"{name}: {panel['title']}" for name, panel in PANELS]
)


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Observed]:
    if not is_installed():
        pytest.skip("no prometheus here")
    async with observed(tmp_path_factory.mktemp("observed")) as found:
        yield found


def resolved(expr: str, house: Observed) -> str:
    """With everything in the place of its variables; none is left."""
    for name, value in house.variables.items():
        expr = expr.replace(f"${name}", value)
    assert "$" not in expr, expr
    return expr


async def asked(house: Observed, expr: str) -> list[Any]:
    """The series that a panel would draw; Prometheus has nothing to object."""
    window = {"start": house.at_s - house.look_s, "end": house.at_s, "step": 1}
    async with browser(house.server.url) as client:
        answer = await client.get("/api/v1/query_range", params={"query": expr, **window})
    said = answer.json()
    assert said["status"] == "success", said
    assert not said.get("warnings")
    found: list[Any] = said["data"]["result"]
    return found


@each_panel
async def test_every_query_of_every_panel_has_data(house: Observed, name: str, panel: Any) -> None:
    """After a load with faults and half a rollout none is empty: no name, label or join is wrong."""
    for target in panel["targets"]:
        series = await asked(house, resolved(target["expr"], house))
        values = [float(value) for one in series for _, value in one["values"]]
        assert any(map(math.isfinite, values)), target["expr"]
        for one in series:
            assert set(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))) <= set(one["metric"]), one


async def test_every_choice_has_values(house: Observed) -> None:
    """Each variable's query finds some; but for labels that are there in clusters alone."""
    for document in documents().values():
        for variable in document["templating"]["list"]:
            if variable["type"] != "query" or variable["name"] in ("cluster", "namespace"):
                continue
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
            assert found is not None
            values = await house.server.ask(f"count by ({found[2]}) ({resolved(found[1], house)})")
            assert values, variable["name"]


def expressions() -> Iterator[str]:
    """Of all panels and all rules."""
    for _, panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])
    for group in groups():
        yield from (rule["expr"] for rule in group["rules"])


def named(expressions: Iterator[str]) -> set[str]:
    bare = (re.sub(r'"[^"]*"', "", expr) for expr in expressions)
    return {name for expr in bare for name in re.findall(r"(?<![:\w])headgate_\w+", expr)}


def exported() -> set[str]:
    """Of the proxy and of the controller, without the endings of histograms."""
    proxy = Metrics(CollectorRegistry(), [])
    own = {
        f"{metric._name}{'_total' if type(metric).__name__ == 'Counter' else ''}"
        for metric in (*vars(proxy).values(), proxy.process.loop_lag)
        if hasattr(metric, "_labelnames")
    }
    return own | {f"headgate_rollout_{name}" for name in FAMILIES}


def without_endings(names: set[str]) -> set[str]:
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


def test_every_metric_that_is_named_exists() -> None:
    """In the code, not only in one that was scraped; recorded ones are recorded."""
    assert without_endings(named(expressions())) <= exported()
    recorded = {rule["record"] for group in groups() for rule in group["rules"] if "record" in rule}
    used = {name for expr in expressions() for name in re.findall(r"\w+:headgate_\w+:\w+", expr)}
    assert used <= recorded


def test_every_metric_that_is_exported_is_shown() -> None:
    """Somewhere; or it is known why not."""
    shown = without_endings(named(target["expr"] for _, panel in PANELS for target in panel["targets"]))

    assert exported() - shown == set(NOT_SHOWN)


@each_panel
def test_every_panel_says_what_it_is(name: str, panel: Any) -> None:
    """Title, description, unit, the chosen data source and place, and a runbook that is there."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert not re.search(r"\[\d", target["expr"]), "a window of its own"
        for inside in re.findall(r"headgate_[\w:]+({[^}]*})?", target["expr"]):
            assert "$" in inside, f"a metric without the chosen place: {target['expr']}"
    for link in panel.get("links", ()):
        page = re.fullmatch(r"\$\{runbooks\}/(\w+\.md)", link["url"])
        assert page is not None
        assert (DOCS / page[1]).exists()


@pytest.mark.parametrize("panel", [panel for _, panel in PANELS if panel["type"] == "table"])
async def test_the_queries_of_a_table_join(house: Observed, panel: Any) -> None:
    """Their series have the labels that are shown and no other: Grafana joins rows by all they share."""
    organize = next(step["options"] for step in panel["transformations"] if step["id"] == "organize")
    shown = {name for name in organize["indexByName"] if not name.startswith("Value")}
    for target in panel["targets"]:
        for one in await asked(house, resolved(target["expr"], house)):
            assert set(one["metric"]) <= shown


@pytest.mark.parametrize("name", DASHBOARDS)
def test_little_is_asked_until_somebody_asks(name: str) -> None:
    """At most 16 panels are open: each asks Prometheus each half minute, for everybody who looks."""
    document = documents()[name]
    rows = [panel for panel in document["panels"] if panel["type"] == "row"]

    assert len(document["panels"]) - len(rows) <= 16
    assert all(row["collapsed"] == bool(row["panels"]) for row in rows)


async def test_events_are_marked(house: Observed) -> None:
    """Prometheus answers each query of an annotation; without its condition there is something to mark."""
    for event in documents()["streams"]["annotations"]["list"]:
        expr = resolved(event["expr"], house)
        await asked(house, expr)
        bare = re.sub(r" (>|<|unless) .*", "", expr)
        assert await asked(house, bare), event["name"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_nothing_is_lost_that_grafana_would_read(name: str) -> None:
    """The JSON, read as Grafana's own types and written again, is the same."""
    read = Dashboard.from_json(documents()[name])

    assert json.loads(json_of(read)) == documents()[name]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    """Each has its place on the grid of 24 columns, and an id of its own."""
    found = all_panels(documents()[name])
    taken: set[tuple[int, int]] = set()
    for panel in found:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in found}) == len(found)


@pytest.mark.parametrize("name", DASHBOARDS)
async def test_a_dashboard_can_be_drawn(house: Observed, name: str, tmp_path: Path) -> None:
    """Every panel that has data shows some, as in the documentation, and the picture says what it is not."""
    with httpx.Client(base_url=house.server.url) as http:
        chosen = {"job": PROXY, "controller": CONTROLLER}
        view = replace(view_of(http, house.look_s, 10, chosen), until_s=house.at_s)
        figure = await asyncio.to_thread(drawn, documents()[name], view)

    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert len(figure.axes) == len([panel for shown, panel in PANELS if shown == name])
    assert "none" not in texts
    assert NOTE in {text.get_text() for text in figure.texts}
    assert (ROOT / "docs" / "pictures" / f"dashboard-{name}.png").stat().st_size > 50_000


async def test_an_alert_says_what_it_should(house: Observed) -> None:
    """Its texts are filled in, and lead to the runbook."""
    async with browser(house.server.url) as client:
        alerts = (await client.get("/api/v1/alerts")).json()["data"]["alerts"]
    [wrong] = [alert for alert in alerts if alert["labels"]["alertname"] == "HeadgateTextWrong"]

    assert wrong["state"] == "firing"
    assert wrong["labels"] | {"route": "start", "severity": "critical"} == wrong["labels"]
    assert wrong["annotations"]["summary"].endswith("on start.")
    assert wrong["annotations"]["runbook_url"] == f"{RUNBOOKS}/HeadgateTextWrong.md"
    assert "<" not in str([alert["annotations"] for alert in alerts])


async def test_no_page_says_who(house: Observed) -> None:
    """Of the proxy and of the controller: no user of the load, and nobody who acted."""
    targets = await house.server.ask("up")
    for target in targets:
        async with browser(f"http://{target['metric']['instance']}") as client:
            page = (await client.get("/metrics")).text
        assert list(text_string_to_metric_families(page))
        assert not re.search(r"user-\d|\bops\b|a drill", page)


PAGES = sorted(DOCS.glob("*.md"))
EXIT_CODES = {"headgate rollout status": range(8)}
"""The exit statuses of commands that have others than 0 when all is well."""

REFUSED_HERE = {
    'headgate rollout resume --reason "evidence is back"': "resume: no controller runs",
    'headgate rollout unkill --reason "the cause is mended"': "go back first",
}
"""Commands that make no sense for this rollout, which is under way and has no controller; with what is said
then."""


def pages_by_command() -> dict[str, list[str]]:
    """Each command of the runbooks, and its pages."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for command in commands(page):
            found.setdefault(command, []).append(page.name)
    return found


def test_every_runbook_has_commands() -> None:
    """At least one: what to look at can be looked at."""
    assert {page for pages in pages_by_command().values() for page in pages} == {page.name for page in PAGES}


@pytest.mark.parametrize("command", pages_by_command())
async def test_a_command_of_the_runbooks_works(house: Observed, command: str, tmp_path: Path) -> None:
    """Each command runs as it is printed, in a rollout that no other command has touched."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-o", "pipefail", "-c", command),
        cwd=_own_rollout(house.policy, tmp_path),
        env=_environment(house, tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()

    if (refusal := REFUSED_HERE.get(command)) is not None:
        assert refusal in said.decode()
        return
    allowed = next((codes for start, codes in EXIT_CODES.items() if command.startswith(start)), (0,))
    assert process.returncode in allowed, f"{pages_by_command()[command]}: {said.decode()}"


def _own_rollout(policy: Path, directory: Path) -> Path:
    """A copy of the folder in which a policy, its flags and its journal are."""
    copy = shutil.copytree(policy.parent, directory / "rollout")
    text = (copy / policy.name).read_text().replace(str(policy.parent), str(copy))
    (copy / policy.name).write_text(text)
    return copy


def _environment(house: Observed, directory: Path) -> dict[str, str]:
    """Return the environment that the page about runbooks names, and `headgate`."""
    command = directory / "headgate"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m proxy "$@"\n')
    command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{directory}:{os.environ['PATH']}",
        "ADMIN": house.serving.admin_url,
        "HEADGATE_ADMIN_TOKEN": ADMIN_TOKEN,
        "PROMETHEUS": house.server.url,
    }
