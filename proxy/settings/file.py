"""`headgate.yaml`: read once, at start. Every problem is reported at once, with its path."""

import difflib
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from proxy.errors import SettingsError
from proxy.settings.settings import Settings

_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _SettingsLoader(yaml.SafeLoader):
    """YAML in which a duplicate key is an error; in plain YAML the last one wins."""


def _mapping(loader: _SettingsLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: list[Any] = []
    for node_key, _ in node.value:
        if node_key.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(node_key, deep=True)
        if key in seen:
            raise SettingsError([f"line {node_key.start_mark.line + 1}: '{key}' stands there twice"])
        seen.append(key)
    return loader.construct_mapping(node, deep=True)


_SettingsLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


NOT_A_NUMBER = frozenset({"float_parsing", "float_type", "int_parsing", "int_type"})
"""Pydantic's names for a value that is none."""


def load(path: Path) -> Settings:
    """Read and validate a settings file.

    Raises:
        SettingsError: with every problem that was found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise SettingsError([f"cannot be read: {reason}"]) from None
    try:
        document = yaml.load(text, Loader=_SettingsLoader)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise SettingsError([f"{where}not YAML: {getattr(exc, 'problem', exc)}"]) from None
    if not isinstance(document, dict):
        raise SettingsError(["must be a mapping of settings"])
    problems: list[str] = []
    document = _with_environment(document, "", problems)
    try:
        settings = Settings.model_validate(document, context={"base": path.parent})
    except ValidationError as exc:
        unset = {_place(problem) for problem in problems}  # and so of no good value either
        problems += [found for error in exc.errors() if _place(found := _explain(error)) not in unset]
        raise SettingsError(problems) from None
    try:
        settings.proxy.way(os.environ, strict=settings.tls.strict)
    except ValueError as exc:
        problems.append(f"proxy: {exc}")
    if problems:
        raise SettingsError(problems)
    return settings


def _with_environment(value: Any, path: str, problems: list[str]) -> Any:
    """`value` with each `${NAME}` replaced; a name that is not set is a problem."""
    if isinstance(value, dict):
        return {k: _with_environment(v, f"{path}.{k}".lstrip("."), problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_environment(v, f"{path}[{i}]", problems) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            problems.append(f"{path}: the environment variable {match[1]} is not set")
        return os.environ.get(match[1], match[0])

    return _ENV.sub(replace, value)


def _place(problem: str) -> str:
    return problem.partition(": ")[0]


def _explain(error: Any) -> str:
    """One line: where, what, and a suggestion if there is one. Never the value: it may be a secret; nor a
    name that is an address, which may have one."""
    location = tuple("…" if isinstance(part, str) and "://" in part else part for part in error["loc"])
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(location[-1]), _names_at(location[:-1]), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"{path}: unknown setting{hint}"
    if error["type"] == "missing":
        return f"{path}: is needed"
    if error["type"] in NOT_A_NUMBER and str(location[-1]).endswith("_s"):
        return f"{path}: must be a number of seconds, without a unit"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{path}: {message[0].lower()}{message[1:]}" if path else message


def _names_at(location: tuple[str | int, ...]) -> list[str]:
    """The names that a block of the file may have."""
    model: Any = Settings
    for part in location:
        if isinstance(part, int) or not isinstance(model, type) or not issubclass(model, BaseModel):
            continue
        field = model.model_fields.get(str(part))
        model = _block_in(field.annotation) if field else None
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _block_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (found for inner in getattr(annotation, "__args__", ()) if (found := _block_in(inner)) is not None),
        None,
    )
