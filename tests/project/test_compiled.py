"""What may be compiled: classes without a base or a subclass among those that are not."""

import abc
import ast
import enum
import importlib
import os
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import flags
import proxy

ROOT = Path(__file__).parents[2]

FREE_BASES = {
    object,
    abc.ABC,
    enum.Enum,
    enum.StrEnum,
    str,
    enum.ReprEnum,
    typing.Protocol,
    typing.Generic,
    tuple,
}
"""The compiler knows how classes of these are made. An instance of any other base, compiled, has a part that
neither side clears: a weak reference to it would lead nowhere, and end the process."""


def compiled() -> list[str]:
    """The names of the modules that `setup.py` compiles."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (listed,) = [
        each.value
        for each in tree.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "COMPILED"
    ]
    return [path.removesuffix(".py").replace("/", ".") for path in ast.literal_eval(listed)]


def classes(module: str) -> Iterator[type]:
    for each in vars(importlib.import_module(module)).values():
        if isinstance(each, type) and each.__module__ == module:
            yield each


@pytest.mark.parametrize("module", compiled())
def test_what_stands_first_on_the_path_is_what_runs(module: str) -> None:
    """With `build/compiled` on the path each of its modules is compiled, and else none is."""
    is_compiled = str(ROOT / "build/compiled") in os.environ.get("PYTHONPATH", "").split(os.pathsep)
    file = importlib.import_module(module).__file__

    assert file is not None
    assert file.endswith(".py") is not is_compiled


def test_a_compiled_class_has_no_base_and_no_subclass_that_is_not() -> None:
    """The compiler takes both; the second fails when it is made, the first may at any time."""
    for package in (proxy, flags):
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not each.name.endswith("__main__"):
                importlib.import_module(each.name)
    modules = set(compiled())
    found = [each for module in modules for each in classes(module)]

    assert found
    for each in found:
        bases = [
            base for base in each.__mro__[1:] if base not in FREE_BASES and base.__module__ not in modules
        ]
        heirs = [
            heir for heir in each.__subclasses__() if heir.__module__.partition(".")[0] in {"proxy", "flags"}
        ]
        assert bases == [], each
        assert [heir for heir in heirs if heir.__module__ not in modules] == [], each
