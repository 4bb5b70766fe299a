"""The shape of the house: who may import whom, and what nothing may be called."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("proxy", "flags")
BESIDE = {"dashboards", "docs", "examples", "tests"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "manager", "base", "misc"}
FLAGS_FOR_PROXY = {
    *("flags.decision", "flags.errors", "flags.tls", "flags.egress", "flags.explaining"),
    *(f"flags.sources.{name}" for name in ("flag_file", "kill_switch", "source", "unleash", "unleash_api")),
}
"""The decision, the flags it is taken by, and the names of failures. No request knows of rollouts."""

FLAGS_FOR_ALL = {"flags.decision", "flags.tls", "flags.egress"}
"""Every request is decided, and both packages reach others' servers by the same rules."""

COMPOSERS = {
    "proxy.app",
    "proxy.upkeep",
    "proxy.commands.serve",
    "proxy.commands.settings_file",
    "proxy.observe.admin",
    "proxy.observe.page.state",
    "proxy.commands.flags",
}
"""They open what `flags.sources` reads, or report on it; all else asks `flags.decision`."""

WINGS = {
    "proxy": {
        "http": "errors",
        "timers": "",
        "text": "turns timers",
        "settings.blocks": "text",
        "settings": "errors settings.blocks text",
        "observe": "errors identity http observe.page observe.spans observe.users settings settings.blocks "
        "text timers version",
        "observe.spans": "http settings version",
        "observe.users": "",
        "observe.page": "errors settings settings.blocks text version",
        "upstream": "errors turns http settings.blocks timers",
        "downstream": "errors http observe observe.spans timers",
        "relay": "errors turns downstream http observe observe.spans settings text upstream",
        "runs": "errors identity shares turns downstream http observe observe.spans relay settings text "
        "upstream",
        "viewers": "errors identity shares turns http observe observe.spans runs text",
        "llm": "errors turns downstream http llm.assembly llm.aws llm.taps observe observe.spans relay "
        "settings settings.blocks text upstream",
        "llm.taps": "http llm.assembly settings.blocks text",
        "llm.assembly": "",
        "llm.aws": "errors llm.assembly",
        "llm.dialects": "llm.assembly llm.dialects.gemini llm.dialects.openai",
        "llm.dialects.gemini": "llm.assembly",
        "llm.dialects.openai": "llm.assembly",
        "sources": "errors turns http llm.assembly llm.dialects.openai llm.taps runs settings.blocks text "
        "upstream",
        "routed": "errors identity downstream http llm llm.taps observe observe.spans relay runs settings "
        "settings.blocks sources upstream viewers",
        "replicas.store": "errors http runs settings.blocks text upstream",
        "replicas": "errors identity observe observe.spans replicas.store runs settings settings.blocks text "
        "upstream",
        "replicas.histories": "errors turns observe.users replicas.store",
        "workers": "errors downstream observe runs settings settings.blocks",
        "doctor.findings": "errors",
        "doctor.one_request": "errors doctor.findings downstream http llm.aws outbound settings "
        "settings.blocks text upstream workers",
        "doctor": "errors doctor.findings doctor.one_request llm llm.assembly llm.dialects outbound "
        "replicas.store settings settings.blocks upstream",
        "commands": "errors app demo loading doctor doctor.findings doctor.one_request llm.dialects observe "
        "observe.page outbound settings settings.blocks workers",
    },
    "flags": {
        "sources": "arms decision document egress engine errors tls",
        "rollout": "arms decision document egress engine errors targeting tls",
    },
    "flags.rollout": {
        "evidence": "",
        "policy": "evidence",
        "verdict": "evidence policy",
        "plan": "policy verdict",
        "writing": "",
        "leases": "",
        "reporting": "ledger moves policy verdict writing",
        "tick": "bodies evidence inbox journal leases ledger moves policy reporting verdict writing",
    },
}
"""The modules that each wing may import beside itself: other wings, and files that stand in front of all of
them."""

MOST_FILES = 14
"""Of a wing, beside its `__init__.py`: what a reader takes in at a glance."""

PLACE = re.compile(r"`([\w/]+(?:/|\.py))`")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Every module that a file imports; on request only those that are imported when it is."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES)
        if at_import_time and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            continue
        nodes.extend(ast.iter_child_nodes(node))


def place_of(module: str, house: str) -> str:
    """The wing in which a module of a house stands; the module's own name, if it stands in front of them."""
    inner = module.removeprefix(f"{house}.")
    return next(
        (wing for wing in sorted(WINGS[house], key=len, reverse=True) if f"{inner}.".startswith(f"{wing}.")),
        inner,
    )


def arrows(house: str) -> set[tuple[str, str]]:
    """Return which wings and front files of a house import which others."""
    inside = {module for module in MODULES if module.startswith(f"{house}.")}
    found = {
        (place_of(module, house), place_of(imported, house))
        for module in inside
        for imported in imports(MODULES[module])
        if imported in inside
    }
    return {(place, imported) for place, imported in found if place != imported}


@pytest.mark.parametrize("house", WINGS)
def test_a_wing_imports_what_the_table_allows(house: str) -> None:
    """No arrow that is not in the table, and none in the table that nobody needs."""
    allowed = {(wing, other) for wing, others in WINGS[house].items() for other in others.split()}

    assert {arrow for arrow in arrows(house) if arrow[0] in WINGS[house]} == allowed


@pytest.mark.parametrize("house", WINGS)
def test_no_wings_need_each_other(house: str) -> None:
    """No cycle between wings and the files in front of them, whenever an import happens."""
    graph: dict[str, set[str]] = {}
    for place, imported in arrows(house):
        graph.setdefault(place, set()).add(imported)

    assert set(TopologicalSorter(graph).static_order()) >= set(graph)


@pytest.mark.parametrize("folder", sorted({str(path.parent.relative_to(ROOT)) for path in MODULES.values()}))
def test_a_wing_is_taken_in_at_a_glance(folder: str) -> None:
    """Few files, and every folder of a house is in the table."""
    files = [path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]

    assert len(files) <= MOST_FILES
    named = {f"{house}.{wing}" for house in WINGS for wing in WINGS[house]}
    assert folder.replace("/", ".") in named | {"proxy", "flags", "flags.rollout"}


def test_an_init_exports_nothing() -> None:
    """It says what the wing is; whoever imports names the file."""
    for path in MODULES.values():
        if path.name == "__init__.py":
            assert len(ast.parse(path.read_text()).body) == 1, path


def test_proxy_asks_flags_and_knows_nothing_of_rollouts() -> None:
    """`proxy` imports the decision, its source and their errors; `flags` never imports `proxy`."""
    for module, path in MODULES.items():
        for imported in imports(path):
            if module.startswith("proxy") and imported.split(".")[0] == "flags":
                assert imported in FLAGS_FOR_PROXY, f"{module} imports {imported}"
                assert imported in FLAGS_FOR_ALL or module in COMPOSERS, f"{module} imports {imported}"
            if module.startswith("flags"):
                assert imported.split(".")[0] != "proxy", f"{module} imports {imported}"


def test_what_is_served_needs_nothing_that_stands_beside_it() -> None:
    """Dashboards, documentation, examples and tests are made from `proxy` and `flags`, never the reverse."""
    for module, path in MODULES.items():
        beside = {imported.split(".")[0] for imported in imports(path)} & BESIDE
        assert not beside, f"{module} imports {beside}"


def test_no_module_needs_itself_to_be_imported() -> None:
    """No cycles at import time; a name that only types need may go in a circle."""
    graph = {
        module: {name for name in imports(path, at_import_time=True) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_only_the_app_wires() -> None:
    """The parts are put together in `proxy.app`: nothing else makes a gateway, a relay, runs or sources."""
    wired = {
        "Gateway",
        "Relay",
        "Runs",
        "Upstream",
        "Identifier",
        "Metrics",
        "BatchSource",
        "PollSource",
        "StagesSource",
        "NativeSource",
        "TapSource",
        "Taps",
        "ModelPort",
    }
    for module, path in MODULES.items():
        made = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert module == "proxy.app" or not made & wired, f"{module} makes {made & wired}"
    importers = {module for module in MODULES if "proxy.app" in set(imports(MODULES[module]))}
    assert importers == {"proxy.commands.serve", "proxy.commands.settings_file"}


def test_the_pure_modules_do_no_io() -> None:
    """Events, framing, chunking, sections, templates and the tables have no loop, clock or socket."""
    io = {"asyncio", "socket", "time", "os", "httpx", "logging", "random"}
    pure = ("errors", "http.headers", "http.framing", "http.request_rules", "http.tracing", "runs.recovery")
    pure += (
        "text.events",
        "text.sse",
        "text.chunking",
        "text.sections",
        "text.templates",
        "llm.taps.expected_calls",
    )
    pure += tuple(f"llm.assembly.{name}" for name in ("dialect", "call_fields", "json_values", "joins"))
    pure += ("llm.assembly.kept_fields",)
    pure += tuple(f"llm.dialects.openai.{name}" for name in ("calls", "answer", "fields", "responses"))
    pure += tuple(f"llm.dialects.gemini.{name}" for name in ("calls", "answer", "arguments"))
    pure += ("llm.assembly.json_dialect", "llm.aws.event_stream", "llm.dialects.bedrock")
    pure += ("llm.dialects.converse_answer", "llm.dialects.invoked_answer")
    pure += ("llm.dialects.anthropic", "llm.dialects.apis", "llm.dialects.ollama", "llm.dialects.cohere")
    pure += ("sources.native_rules", "observe.labels")
    for name in pure:
        assert not io & {imported.split(".")[0] for imported in imports(MODULES[f"proxy.{name}"])}, name
    pure_flags = (
        "decision",
        "explaining",
        "sources.kill_order",
        "rollout.policy.policy",
        "rollout.policy.guardrail_settings",
        "rollout.policy.freezes",
        "rollout.evidence.readings",
        "rollout.plan.plan",
        "rollout.plan.refusals",
        "rollout.plan.planner",
        "rollout.plan.stopping_times",
        "rollout.bodies",
        "rollout.tick.beginning",
        "rollout.tick.desired",
        "rollout.tick.drift",
    )
    for name in pure_flags:
        assert not io & {imported.split(".")[0] for imported in imports(MODULES[f"flags.{name}"])}, name


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_named_for_what_it_is(module: str) -> None:
    """No drawer for odds and ends, and nothing that hides a module of the standard library."""
    name = module.rpartition(".")[2]
    assert name not in FORBIDDEN_NAMES
    assert name == "__main__" or module == "proxy.http" or name not in sys.stdlib_module_names


@pytest.mark.parametrize("module", MODULES)
def test_a_module_begins_by_saying_what_it_is(module: str) -> None:
    """Its docstring, which ends with a full stop or a list."""
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


def test_no_two_classes_have_one_name() -> None:
    """One word, one thing: see `docs/glossary.md`."""
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)

    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_the_glossary_names_what_is_there() -> None:
    """Each file and wing that it sends its reader to."""
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    named = {
        place
        for row in page.splitlines()
        if row.startswith("| ")
        for place in PLACE.findall(row.split(" | ")[-1])
    }
    wings = (ROOT, ROOT / "proxy", ROOT / "flags", ROOT / "flags" / "rollout")

    assert len(named) > 30
    assert 40 <= len(page.splitlines()) <= 60, "it is read as a whole"
    assert [place for place in named if not any((wing / place).exists() for wing in wings)] == []


def test_the_import_names_are_ours() -> None:
    """Other distributions are called `proxy` and `flags` too; here both names are Headgate's alone."""
    owners = packages_distributions()
    for package in PACKAGES:
        assert set(owners[package]) == {"headgate"}
