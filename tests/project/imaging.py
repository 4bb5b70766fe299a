"""The image that the Dockerfile makes, without an engine: its steps carried out under a folder, as if that
were `/`.

Not a container: kernel, C library, shell and compiler are the machine's, and for the base images stand copies
of the interpreter that runs this. Each stage is made at the same place and then set aside: a venv knows
its own.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from tests.project.base_image import install_headers, install_python
from tests.project.dockerfile import Step, assignments, exec_form, seen_by_build, stages

PLACES = re.compile(r"(?<![\w./-])/(?=(src|dist|opt|etc/headgate|usr/local|tmp)\b)")
"""Absolute paths of the Dockerfile that are not the machine's; `/bin/sh` is."""

BASE_PATH = "/usr/local/bin:/usr/bin:/bin"
STEP_S = 900.0
"""The longest step compiles: half a minute, on a machine with nothing else to do."""


@dataclass
class Image:
    """The end of the last stage. Its commands have the paths that they have here."""

    root: Path
    environment: dict[str, str]
    workdir: Path
    user: tuple[int, int] = (0, 0)
    says: dict[str, str] = field(default_factory=dict)
    """The words of instructions that do nothing to the tree, such as `EXPOSE`."""

    def here(self, text: str) -> str:
        """The text, with its paths under `root`."""
        return PLACES.sub(f"{self.root}/", text)

    def command(self, word: str) -> list[str]:
        """Of `ENTRYPOINT`, `CMD` or `HEALTHCHECK`."""
        return exec_form(self.here(self.says[word].rpartition(" CMD ")[2]))

    def run(self, command: list[str], **environment: str) -> "subprocess.Popen[str]":
        """Start a command as the image's user; who is not root can only be himself. The caller ends it."""
        user, group = self.user
        as_user = {"user": user, "group": group, "extra_groups": []} if os.getuid() == 0 else {}
        return subprocess.Popen(
            [shutil.which(command[0], path=self.environment["PATH"]) or command[0], *command[1:]],
            **as_user,  # type: ignore[call-overload]
            cwd=self.workdir,
            env={**self.environment, "HOME": str(self.root), "TMPDIR": self.here("/tmp"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def output(self, command: list[str], **environment: str) -> tuple[int, str]:
        """Run a command to its end: its code, and what it wrote."""
        with self.run(command, **environment) as process:
            written, _ = process.communicate(timeout=STEP_S)
        return process.returncode, written

    def listing(self) -> dict[str, str]:
        """Everything in the tree but `/tmp`: the content of files, where links lead, and who may what."""
        return {
            str(path.relative_to(self.root)): f"{stat.filemode(path.lstat().st_mode)} {_content(path)}"
            for path in self.root.rglob("*")
            if path.relative_to(self.root).parts[0] != "tmp"
        }


def build(project: Path, directory: Path) -> Image:
    """Carry out the Dockerfile of a checkout. Raises `CalledProcessError` where a step fails."""
    base, root = directory / "base", directory / "root"
    install_python(base / "usr/local")
    (base / "tmp").mkdir()
    for stage in stages((project / "Dockerfile").read_text(encoding="utf-8")):
        _copy_tree(base, root)
        if not stage.base.endswith("-slim"):
            install_headers(root / "usr/local")
        (root / "tmp").chmod(0o1777)
        making = _Making(project, Image(root, _environment(root), root))
        for step in stage.steps:
            making.take(step)
        if stage.name:
            root.rename(directory / stage.name)
    close(root)
    return making.image


class _Making:
    """One stage while it is made."""

    def __init__(self, project: Path, image: Image) -> None:
        self._project = project
        self.image = image

    def take(self, step: Step) -> None:
        acts = {
            "RUN": self._run,
            "COPY": self._copy,
            "ENV": self._set,
            "WORKDIR": self._enter,
            "USER": self._become,
        }
        if step.word in acts:
            acts[step.word](step.argument)
        else:
            self.image.says[step.word] = step.argument

    def _run(self, argument: str) -> None:
        # The machine says where packages come from; a cache that must not be in an image may be used here.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        # The compiler makes the same, and takes a small part of the time for it.
        environment = {**ours, **self.image.environment, "CFLAGS": "-O0"}
        environment.pop("PIP_NO_CACHE_DIR", None)
        command = ["/bin/sh", "-c", self.image.here(argument)]
        subprocess.run(command, cwd=self.image.workdir, env=environment, check=True, timeout=STEP_S)

    def _copy(self, argument: str) -> None:
        *sources, target = argument.split()
        to = self.image.workdir / self.image.here(target)
        if sources[0].startswith("--from="):
            other = self.image.root.with_name(sources.pop(0).removeprefix("--from="))
            _copy_tree(other / sources[0].lstrip("/"), to)
            return
        for source in sources:
            self._copy_in(source, to / Path(source).name if target.endswith("/") else to)

    def _copy_in(self, source: str, to: Path) -> None:
        top = self._project / source
        paths = [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
        ignore = (self._project / ".dockerignore").read_text(encoding="utf-8")
        seen = seen_by_build((str(path.relative_to(self._project)) for path in paths), ignore)
        assert seen, f"COPY {source}: no file of that name gets through .dockerignore"
        for path in seen:
            target = to / Path(path).relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._project / path, target)

    def _set(self, argument: str) -> None:
        for name, value in assignments(argument).items():
            text = Template(self.image.here(value)).substitute(self.image.environment)
            self.image.environment[name] = text

    def _enter(self, argument: str) -> None:
        self.image.workdir = Path(self.image.here(argument))
        self.image.workdir.mkdir(parents=True, exist_ok=True)

    def _become(self, argument: str) -> None:
        user, group = argument.split(":")
        self.image.user = int(user), int(group)


def _copy_tree(tree: Path, to: Path) -> None:
    """Of what was made here, whose files are replaced and never written to: a link is as good as a copy."""
    shutil.copytree(tree, to, symlinks=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def _environment(root: Path) -> dict[str, str]:
    """Return the environment that the base image sets, and where its interpreter finds itself."""
    path = PLACES.sub(f"{root}/", BASE_PATH.replace(":/usr/local", f":{root}/usr/local"))
    return {"PATH": path, "LANG": "C.UTF-8", "LD_LIBRARY_PATH": f"{root}/usr/local/lib"}


def _content(path: Path) -> str:
    if path.is_symlink():
        return str(path.readlink())
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@contextmanager
def opened(folder: Path) -> Iterator[None]:
    """Its owner may write there again: to put a settings file there, or to throw it all away."""
    _permit(folder, lambda mode: mode | stat.S_IWUSR)
    try:
        yield
    finally:
        close(folder)


def close(folder: Path) -> None:
    """Forbid everybody to write there, but to `/tmp`. Whoever owns a tree could open it again; nothing here
    does."""
    _permit(folder, lambda mode: mode & ~0o222)


def _permit(folder: Path, changed: Callable[[int], int]) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.exists() and not path.is_symlink() and not path.stat().st_mode & stat.S_ISVTX:
            path.chmod(changed(path.stat().st_mode))
