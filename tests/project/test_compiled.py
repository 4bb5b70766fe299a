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


TAKES_ALL = {"all", "any", "frozenset", "join", "min", "next", "sum", "tuple", "update"}
"""Functions that take all of what they are given, or stop at the first that fits: they wait for nothing."""

SUSPENDING = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)


def compiled_files() -> list[str]:
    """The modules that `setup.py` compiles."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (listed,) = [
        each.value
        for each in tree.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "COMPILED"
    ]
    return list(ast.literal_eval(listed))


def compiled() -> list[str]:
    """Their names."""
    return [path.removesuffix(".py").replace("/", ".") for path in compiled_files()]


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


@pytest.mark.parametrize("path", compiled_files())
def test_nothing_compiled_waits_while_it_handles_an_error(path: str) -> None:
    """Meanwhile all others would handle it, too: only a coroutine of Python's own has its error to itself.
    With two at a time the loop would keep it for good, as the context of each error to come."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    tries = [each for each in ast.walk(tree) if isinstance(each, ast.Try)]
    handling = [
        line for each in tries for block in (*each.handlers, *each.finalbody) for line in ast.walk(block)
    ]

    assert [ast.unparse(line) for line in handling if isinstance(line, SUSPENDING)] == []


@pytest.mark.parametrize("path", compiled_files())
def test_no_generator_expression_is_to_be_taken_in_turns(path: str) -> None:
    """The compiler makes a list of it, at once: of a long log that would hold the loop up."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    taken = {
        given
        for each in ast.walk(tree)
        for given in (each.args if isinstance(each, ast.Call) and _name(each.func) in TAKES_ALL else [])
    }
    expressions = {each for each in ast.walk(tree) if isinstance(each, ast.GeneratorExp)}

    assert [ast.unparse(each) for each in expressions - taken] == []


def _name(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]
