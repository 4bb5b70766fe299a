"""A Dockerfile as data, and which files `.dockerignore` lets a build see. Nothing is carried out here.

Not the whole language: no heredocs, no `RUN --mount`, and what a test must start has to be in the exec form.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from string import Template


@dataclass(frozen=True)
class Step:
    word: str
    argument: str


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    steps: tuple[Step, ...]


def stages(text: str) -> list[Stage]:
    """From FROM to FROM, with the defaults of the build's arguments."""
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for step in steps(text):
        if step.word == "FROM":
            base, _, name = Template(step.argument).substitute(arguments).partition(" AS ")
            found.append(Stage(base, name, ()))
        elif step.word == "ARG" and not found:
            arguments |= assignments(step.argument)
        else:
            found[-1] = Stage(found[-1].base, found[-1].name, (*found[-1].steps, step))
    return found


def steps(text: str) -> Iterator[Step]:
    """One instruction each, its lines joined; comments may stand between these."""
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for instruction in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, argument = instruction.partition(" ")
        yield Step(word, argument.strip())


def assignments(argument: str) -> dict[str, str]:
    """Of ARG, ENV and LABEL: `name=value`, as many as there are."""
    return dict(pair.split("=", 1) for pair in shlex.split(argument))


def exec_form(argument: str) -> list[str]:
    """Of CMD and ENTRYPOINT. Raises `ValueError` for the shell form: a shell would get the signals."""
    command: list[str] = json.loads(argument)
    return command


def seen_by_build(paths: Iterable[str], ignore: str) -> list[str]:
    """The files of the build context: the last pattern that matches a path, or a folder above it, decides."""
    patterns = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]

    def ignored(path: str) -> bool:
        decided = [pattern for pattern in patterns if _matches(pattern.removeprefix("!"), path)]
        return bool(decided) and not decided[-1].startswith("!")

    return [path for path in paths if not ignored(path)]


def _matches(pattern: str, path: str) -> bool:
    parts = PurePosixPath(path).parts
    if pattern.startswith("**/"):
        return any(fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
    wanted = PurePosixPath(pattern).parts
    return len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted))
