"""Settings models as tables: each name with its type, default and docstring."""

import enum
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.docstrings import docstrings


def blocks(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Each block with its path, outer blocks first."""
    yield path, model
    for name, field in model.model_fields.items():
        inner, each = _model_in(field.annotation)
        if inner is not None:
            yield from blocks(f"{path}.{field.alias or name}{each}".lstrip("."), inner)


_EACH = {list: "[]", tuple: "[]", dict: ".NAME"}


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The block in a field's type, and the suffix of its path where the field has several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    for inner in get_args(annotation):
        found, inner_each = _model_in(inner)
        if found is not None:
            return found, _EACH.get(get_origin(annotation), "") + inner_each
    return None, ""


def table(path: str, model: type[BaseModel]) -> list[str]:
    title = f"## `{path}`" if path else "## The file"
    about = " ".join((model.__doc__ or "").split())
    texts = docstrings(model)
    rows = [
        f"| `{field.alias or name}` | {_kind(field)} | {_default(field)} | {_text(texts.get(name, ''))} |"
        for name, field in model.model_fields.items()
    ]
    return [title, "", about, "", "| name | what | default | |", "| --- | --- | --- | --- |", *rows, ""]


def _kind(field: FieldInfo) -> str:
    return ", ".join([_extra(field, "kind") or _type(field.annotation), *_bounds(field.metadata)])


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    """The bounds of a type, in words; those of an inner type stand in a `Field`."""
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            yield from _bounds(entry.metadata)
            continue
        for word, attribute in (("over", "gt"), ("at least", "ge"), ("at most", "le"), ("under", "lt")):
            if (value := getattr(entry, attribute, None)) is not None:
                yield f"{word} {value}"


def _extra(field: FieldInfo, name: str) -> str:
    """A property of a field that its type does not show."""
    extra = field.json_schema_extra
    return str(extra.get(name, "")) if isinstance(extra, dict) else ""


def _type(annotation: Any) -> str:
    inner, each = _model_in(annotation)
    if inner is not None:
        return {"": "block", "[]": "list of blocks"}.get(each, "blocks by name")
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        origin, arguments = Literal, tuple(member.value for member in annotation)
    if origin is Annotated:
        return ", ".join([_type(arguments[0]), *_bounds(arguments[1:])])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(_type(argument) for argument in arguments)
    if origin in {list, tuple}:
        return f"list of {_type(arguments[0])}"
    if origin in {dict, Mapping}:
        return "object" if arguments[1] is Any else f"{_type(arguments[1])} by name"
    names = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "`true` or `false`",
        Path: "path",
        timedelta: "duration",
        date: "date",
        SecretStr: "secret",
    }
    if annotation is type(None):
        return "`null`"
    return names.get(annotation, "size" if "ByteSize" in str(annotation) else "any JSON")


def _default(field: FieldInfo) -> str:
    if default := _extra(field, "default"):
        return default
    if "ByteSize" in str(field.annotation):
        return f"`{field.default // 2**20}MiB`"
    match field.default:
        case value if value is PydanticUndefined:
            return "**needed**"
        case BaseModel():
            return "see its block"
        case None | "":
            return ""
        case list() | tuple() as several:
            return f"`[{', '.join(map(str, several))}]`"
        case bool() | dict() as value:
            return f"`{json.dumps(value)}`"
        case value:
            return f"`{value}`"


def _text(docstring: str) -> str:
    return " ".join(docstring.split()).replace("|", "\\|")
