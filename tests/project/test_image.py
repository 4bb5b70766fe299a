"""The image: what its steps make, how that runs, and what is in it. No engine is needed.

What the base image itself brings, Debian's packages and its interpreter, is not looked at here.
"""

import asyncio
import importlib.machinery
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project.dockerfile import seen_by_build, stages
from tests.project.imaging import Image, build, opened
from tests.project.test_compiled import compiled
from tests.servers.client import eventually
from tests.servers.ports import free_port
from tests.servers.scripted import ScriptedUpstream, ok
from tests.servers.serving import flag_document

ROOT = Path(__file__).parents[2]
START_S = 180.0
STOP_S = 30.0

TOOLS = {"pip", "setuptools", "wheel", "ensurepip", "pkg_resources", "_distutils_hack"}
COMPILERS = {"cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "cargo", "rustc"}

LICENCES = {
    "MIT": r"MIT|MIT-0|MIT License",
    "BSD": r"0BSD|BSD-[23]-Clause|BSD License",
    "Apache": r"Apache-2\.0|Apache Software License",
    "ISC": r"ISC",
    "Zlib": r"Zlib",
    "CC0": r"CC0-1\.0",
    "PSF": r"PSF-2\.0|CNRI-Python|Python Software Foundation License",
    "MPL": r"MPL[- ]2\.0|Mozilla Public License 2\.0",
}
"""The licences that may be in the image, and how packages spell them. Each lets us pass a package on with its
notice; MPL asks more, but of who changes the files of the package, and we change none. What else comes with a
new lock is for a person to read first."""


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The Dockerfile's last stage, made once. Not in pytest's own folder, where only its owner may go."""
    directory = Path(tempfile.mkdtemp(prefix="headgate-image-"))
    try:
        directory.chmod(0o755)
        yield build(ROOT, directory)
    finally:
        with opened(directory):
            shutil.rmtree(directory)


@dataclass(frozen=True)
class Addresses:
    url: str
    admin_url: str


def configured(image: Image, upstream_url: str) -> Addresses:
    """Put a settings file where the image expects one, and flags beside it."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    listens = dict(zip(("listen", "admin"), addresses, strict=True))
    settings = {**listens, "upstream": {"url": upstream_url}, "flags": {"file": "flags.json"}}
    with opened(image.workdir):
        (image.workdir / "headgate.yaml").write_text(json.dumps(settings))
        (image.workdir / "flags.json").write_text(json.dumps(flag_document()))
    return Addresses(*(f"http://{address}" for address in addresses))


@contextmanager
def serving(image: Image, *more: str) -> Iterator["subprocess.Popen[str]"]:
    """The image's own entry point and command."""
    process = image.run([*image.command("ENTRYPOINT"), *image.command("CMD"), *more])
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=STOP_S)


def checked(image: Image, admin_url: str) -> bool:
    """True if the image's health check says that all is well there."""
    code, _ = image.output(image.command("HEALTHCHECK"), HEADGATE_LIVEZ=f"{admin_url}/livez")
    return code == 0


NEEDS_TRACES = "proxy.observe.spans.otlp"


def locked() -> dict[str, str]:
    """The runtime's lock: each package that this platform takes, and its version."""
    lines = (ROOT / "requirements/runtime.lock").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line.removesuffix("\\")) for line in lines if re.match(r"\w", line)]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in wanted
        if requirement.marker is None or requirement.marker.evaluate()
    }


def sources() -> dict[str, bytes]:
    """Each file of the packages that are served, by its path."""
    return {
        str(path.relative_to(ROOT)): path.read_bytes()
        for package in ("proxy", "flags")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def site_packages(image: Image) -> Path:
    return next((image.root / "opt/headgate/lib").glob("python*/site-packages"))


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["as it is", "with workers"])
async def test_the_image_serves_from_a_tree_that_it_cannot_write(image: Image, more: tuple[str, ...]) -> None:
    """It answers, relays and is healthy; SIGTERM ends it with 0, and it leaves everything as it was."""
    async with ScriptedUpstream(ok).running() as upstream, httpx.AsyncClient(trust_env=False) as client:
        at = configured(image, upstream.url)
        before = image.listing()
        with serving(image, *more) as process:

            async def alive() -> bool:
                return await asyncio.to_thread(checked, image, at.admin_url)

            await eventually(alive, START_S)
            statuses = [(await client.get(at.admin_url + path)).status_code for path in ("/livez", "/readyz")]
            relayed = await client.get(f"{at.url}/anything?at=all")
            written = list((image.root / "tmp").iterdir())
            process.send_signal(getattr(signal, image.says["STOPSIGNAL"]))
            code = await asyncio.to_thread(process.wait, STOP_S)

    assert statuses == [200, 200]
    assert (relayed.json(), upstream.asked[0].target) == ({"ok": True}, b"/anything?at=all")
    assert code == 0
    assert image.listing() == before
    assert [path.name[:9] for path in written] == ["headgate-"], "the one thing that docs/install.md names"
    assert list((image.root / "tmp").iterdir()) == []


def test_the_image_s_user_is_not_root_and_may_write_nowhere(image: Image) -> None:
    """Every folder and file of the tree is tried, except under `/tmp`."""
    look = (
        "import os, sys; from pathlib import Path; root = Path(sys.argv[1]); "
        "print([str(p) for p in [root, *root.rglob('*')] if os.access(p, os.W_OK) and p != root / 'tmp'])"
    )
    touch = f"open('{image.workdir}/new', 'w')"

    writable = image.output(["python", "-c", look, str(image.root)])
    refused = image.output(["python", "-c", touch])

    assert min(image.user) > 0
    assert writable == (0, "[]\n")
    assert "PermissionError" in refused[1]


def test_the_health_check_fails_where_nobody_answers(image: Image) -> None:
    """So an engine learns of it."""
    assert not checked(image, f"http://127.0.0.1:{free_port()}")


def test_the_health_check_asks_the_admin_port_as_it_is_by_default(image: Image) -> None:
    """And both default ports are exposed."""
    assert image.environment["HEADGATE_LIVEZ"] == "http://127.0.0.1:9464/livez"
    assert image.says["EXPOSE"] == "8080 9464"


def test_the_packages_are_those_of_the_lock(image: Image) -> None:
    """Each in its version, and Headgate; nothing beside them."""
    listed = (
        "from importlib.metadata import distributions as d; print(*[f'{i.name}=={i.version}' for i in d()])"
    )

    _, written = image.output(["python", "-c", listed])

    found = (item.partition("==") for item in written.split())
    assert {canonicalize_name(name): version for name, _, version in found} == {
        **locked(),
        "headgate": "0.1.0",
    }


def test_the_image_has_all_that_is_served(image: Image) -> None:
    """Every file of `proxy` and `flags`, also those that are not Python.

    Every module can be imported, but the one whose packages `requirements/traces.lock` adds.
    """
    modules = [path.removesuffix(".py").replace("/", ".") for path in sources() if path.endswith(".py")]
    imported = ";".join(
        f"import {name.removesuffix('.__init__')}"
        for name in modules
        if "__main__" not in name and name != NEEDS_TRACES
    )

    assert {path: (site_packages(image) / path).read_bytes() for path in sources()} == sources()
    assert image.output(["python", "-c", imported]) == (0, "")
    assert "No module named 'opentelemetry" in image.output(["python", "-c", f"import {NEEDS_TRACES}"])[1]
    assert image.output(["headgate", "rollout", "run", "--help"])[0] == 0


def test_the_hot_path_of_the_image_is_compiled(image: Image) -> None:
    """Each module of it is machine code, with its source beside it, and the C code stays behind."""
    look = f"import importlib; print(*[importlib.import_module(n).__file__ for n in {compiled()}])"
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]

    found = image.output(["python", "-c", look])[1].split()

    assert found == [f"{site_packages(image) / name.replace('.', '/')}{suffix}" for name in compiled()]
    assert [path for path in site_packages(image).glob("proxy/**/*") if path.suffix in {".c", ".h"}] == []


def test_nothing_in_the_image_builds_or_tests(image: Image) -> None:
    """No package manager, not even the interpreter's own copy; no compiler, object files or tests."""
    paths = [Path(path) for path in image.listing()]

    assert [path for path in paths if TOOLS & {part.partition("-")[0] for part in path.parts}] == []
    assert [path for path in paths if re.fullmatch(r"pip[\d.]*|easy_install.*", path.name)] == []
    assert [path for path in paths if path.name in COMPILERS and path.parent.name == "bin"] == []
    assert [path for path in paths if path.suffix in {".o", ".a"}] == []
    assert [path for path in paths if {"tests", "examples"} & set(path.parts)] == []
    assert {path.parts[0] for path in paths} == {"etc", "opt", "usr"}


def test_the_image_compiles_nothing_when_it_starts(image: Image) -> None:
    """Each module has its bytecode, since nobody could keep it later."""
    modules = [path for path in image.root.rglob("*.py") if "bin" not in path.parts]

    assert [m for m in modules if not Path(importlib.util.cache_from_source(str(m))).exists()] == []


def test_the_working_directory_holds_settings_and_no_modules(image: Image) -> None:
    """A `yaml.py` beside the settings is not what `import yaml` finds."""
    with opened(image.workdir):
        (image.workdir / "yaml.py").write_text("raise SystemExit('taken')")

    assert image.output(["python", "-c", "import yaml"]) == (0, "")


def test_the_demo_says_that_it_is_not_in_the_image(image: Image) -> None:
    """Its sample upstream is not."""
    code, written = image.output(["headgate", "demo"])

    assert code == 1
    assert written == "Error: the demo runs from a checkout: its sample upstream is not installed\n"


def test_the_last_stage_takes_the_venv_and_nothing_of_the_checkout() -> None:
    """Both stages begin at one Python, where a venv is at home; only the first base can compile."""
    builder, last = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]

    assert [step.argument for step in last.steps if step.word in {"COPY", "ADD"}] == [
        "--from=builder /opt/headgate /opt/headgate"
    ]
    assert builder.base == f"python:{lowest.removeprefix('>=')}"
    assert last.base == f"{builder.base}-slim"


def test_every_package_is_installed_by_its_hash_and_as_a_wheel() -> None:
    """Or from the wheel that this very build has made, and from nowhere else."""
    made = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    commands = [step.argument for stage in made for step in stage.steps if step.word == "RUN"]
    installs = re.findall(r"\binstall\b[^&]*", " ".join(commands))

    assert len(installs) == 3
    for install in installs:
        options = set(install.split())
        assert "--no-index" in options or {"--require-hashes", "--only-binary", "--no-deps"} <= options


def test_a_build_sees_what_it_needs_and_no_more() -> None:
    """Other files of a checkout, such as settings with secrets, stay out of the build."""
    lying_about = ["headgate.yaml", ".env", ".git/config", "tests/x.py", "build/x", "proxy/__pycache__/x.pyc"]
    lying_about += ["requirements/test.in", "examples/clinic/flags.json", "node_modules/proxy/x.js"]
    needed = [
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "setup.py",
        "requirements/build.lock",
        "requirements/runtime.lock",
        *sources(),
    ]

    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8")

    assert seen_by_build([*needed, *lying_about], ignore) == needed


def test_the_wheel_is_built_with_what_the_tests_use() -> None:
    """`build.in` is the project's own requirement, and mypy, which compiles, with a type that it asks for.

    `build.lock` has the versions and hashes of `test.lock`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = (ROOT / "requirements/build.in").read_text(encoding="utf-8").splitlines()
    pins = (ROOT / "requirements/build.lock").read_text(encoding="utf-8")
    each = re.split(r"(?m)^(?=\w)", pins)[1:]
    tested = (ROOT / "requirements/test.lock").read_text(encoding="utf-8")

    assert [line for line in lines if not line.startswith("#")] == [
        *project["build-system"]["requires"],
        "mypy",
        "types-regex",
    ]
    assert len(each) > 1
    assert [pin for pin in each if pin not in tested] == []


@pytest.fixture(scope="module")
def sbom(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `make sbom` writes, of the image's own packages. make takes what is set up as it is."""
    directory, venv = tmp_path_factory.mktemp("sbom"), image.root / "opt/headgate"
    as_it_is = [f"VENV={sys.prefix}", f"--assume-old={sys.prefix}/.test", f"--assume-old={venv}/.ready"]
    subprocess.run(
        ["make", *as_it_is, "sbom", f"RUNTIME={venv}", f"SBOM={directory}"], cwd=ROOT, check=True, timeout=60
    )
    return directory


def components(sbom: Path) -> dict[str, dict[str, object]]:
    document = json.loads((sbom / "headgate.cdx.json").read_text(encoding="utf-8"))
    return {canonicalize_name(part["name"]): part for part in document["components"]}


def families(licence: str) -> set[str]:
    """Of an expression, or of a classifier: which families its terms belong to, and the terms of none."""
    terms = re.split(r"\b(?:AND|OR)\b|[;()]", licence)
    return {
        next((name for name, spelt in LICENCES.items() if re.fullmatch(spelt, term)), term)
        for term in (term.rpartition("::")[2].strip() for term in terms)
        if term
    }


def licences(part: dict[str, object]) -> set[str]:
    """Of a component of the SBOM."""
    stated = part.get("licenses", [])
    assert isinstance(stated, list)
    found = [one.get("expression") or one["license"].get("id") or one["license"]["name"] for one in stated]
    return set().union(*map(families, found))


def test_the_sbom_has_each_package_of_the_lock_and_no_other(sbom: Path) -> None:
    """In its version, by its package URL; Headgate is what all of it belongs to."""
    document = json.loads((sbom / "headgate.cdx.json").read_text(encoding="utf-8"))

    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["name"] == "headgate"
    assert {name: part["purl"] for name, part in components(sbom).items()} == {
        name: f"pkg:pypi/{name}@{version}" for name, version in locked().items()
    }


def test_the_sbom_says_the_same_wherever_it_is_made(sbom: Path, image: Image) -> None:
    """No time, no number of its own, and no path."""
    text = (sbom / "headgate.cdx.json").read_text(encoding="utf-8")

    assert not {"serialNumber", "timestamp"} & {*json.loads(text), *json.loads(text)["metadata"]}
    assert str(image.root) not in text
    assert str(ROOT) not in text


def test_every_licence_is_known_and_allowed(sbom: Path) -> None:
    """A package without one, or with one that nobody has read, fails here."""
    stated = {name: licences(part) for name, part in components(sbom).items()}

    assert {name: found for name, found in stated.items() if not found or not found <= set(LICENCES)} == {}


def test_the_licence_list_agrees_with_the_sbom(sbom: Path) -> None:
    """The same packages, versions and licences, for people to read."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (sbom / "licences.md").read_text(encoding="utf-8").splitlines()[2:]
    ]

    assert {canonicalize_name(name): version for name, version, _ in rows} == locked()
    assert {canonicalize_name(name): families(licence) for name, _, licence in rows} == {
        name: licences(part) for name, part in components(sbom).items()
    }
