"""Reads a policy from its YAML file, and reports every problem at once, each with its path and its mend."""

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from flags.errors import PolicyError
from flags.rollout.policy.policy import FlagPlace, Policy

MAX_BYTES = 1024 * 1024
"""A policy has a few kilobytes."""

Block = TypeVar("Block", bound=FlagPlace)

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAMES = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}


class _PolicyLoader(yaml.SafeLoader):
    """Safe YAML without surprises: each name is text and stands once (`on` and `off` are truth values), and
    there are no aliases, which could form a cycle or expand to a million copies."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            problem = f"`*{event.anchor}` stands for another place: write it out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag not in _NAMES or key.value in seen:
                problem = "stands twice" if key.tag in _NAMES else "is no text for YAML: put it in quotes"
                raise yaml.MarkedYAMLError(problem=f"`{key.value}` {problem}", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Policy:
    """Read and check a policy. Relative paths in it are beside it.

    Raises:
        PolicyError: with every problem that was found.
    """
    return _checked(Policy, _document(path), path)


def load_place(path: Path) -> tuple[FlagPlace, list[str]]:
    """Read what going down needs of a policy, and the problems of the rest: down never waits for them.

    Raises:
        PolicyError: with every problem that was found, where what is needed is wrong itself, or may be: a
            name that is unknown at the top could be a needed one that is mistyped.
    """
    document = _document(path)
    try:
        return _checked(Policy, document, path), []
    except PolicyError as exc:
        if not document.keys() <= Policy.model_fields.keys():
            raise
        problems = exc.problems
    needed = {name: value for name, value in document.items() if name in FlagPlace.model_fields}
    try:
        return _checked(FlagPlace, needed, path), list(problems)
    except PolicyError:
        raise PolicyError(list(problems)) from None


def _checked(model: type[Block], document: dict[Any, Any], path: Path) -> Block:
    problems: list[str] = []
    document = _with_environment(document, "", problems)
    try:
        checked = model.model_validate(document, context={"base": path.parent})
    except ValidationError as exc:
        raise PolicyError(problems + list(_explained(exc))) from None
    if problems:
        raise PolicyError(problems)
    return checked


def _document(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise PolicyError([f"cannot be read: {exc.strerror}; put it there, or name another"]) from None
    if len(content) > MAX_BYTES:
        raise PolicyError([f"is larger than {MAX_BYTES} bytes: no policy is"])
    try:
        document = yaml.load(content.decode(), Loader=_PolicyLoader)
    except UnicodeDecodeError:
        raise PolicyError(["is not UTF-8: save it as that"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # a date that is none; nested without end
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise PolicyError([f"{where}{getattr(exc, 'problem', None) or 'is not YAML'}"]) from None
    if not isinstance(document, dict):
        raise PolicyError(["must be a mapping of names, and begin with `flag: …`"])
    return document


def _with_environment(value: Any, path: str, problems: list[str]) -> Any:
    """`value` with each `${NAME}` replaced from the environment, as text and never as YAML."""
    if isinstance(value, dict):
        return {name: _with_environment(inner, f"{path}.{name}", problems) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_environment(inner, f"{path}[{i}]", problems) for i, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    absent = [name for name in _VARIABLE.findall(value) if name not in os.environ]
    problems += [f"{path.lstrip('.')}: the environment variable {name} is not set" for name in absent]
    return _VARIABLE.sub(lambda found: os.environ.get(found[1], found[0]), value)


def _explained(refused: ValidationError) -> Iterator[str]:
    """Each problem in one line: where, what, and the mend. Never the value, which may be a secret."""
    errors = refused.errors(include_url=False)
    outer = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    for error in errors:
        location = error["loc"]
        # Both follow from another problem: a default made from it, and a list without its refused entries.
        if error["type"] == "default_factory_not_called" or (
            error["type"] == "too_short" and location in outer
        ):
            continue
        path = "".join(f"[{part}]" if type(part) is int else f".{part}" for part in location).lstrip(".")
        problem = _problem(error["type"], location, error["msg"])
        yield f"{path}: {problem}" if path else problem


def _problem(kind: str, location: tuple[int | str, ...], message: str) -> str:
    match kind:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(location[-1]), _names_at(location[:-1]), n=1)
            return f"unknown name; {f'did you mean `{close[0]}`?' if close else 'take it out'}"
        case "missing":
            return "is needed"
        case "model_type":
            return "must be a block of names"
    message = message.removeprefix("Value error, ").replace("Input should", "must")
    return message[0].lower() + message[1:]


def _names_at(location: tuple[str | int, ...]) -> list[str]:
    """The names that are allowed at a place of the file."""
    model: type[BaseModel] = Policy
    for part in location:
        field = _fields(model).get(str(part))
        model = next(_blocks_in(field), model) if field is not None else model
    return list(_fields(model))


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _blocks_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _blocks_in(inner)
