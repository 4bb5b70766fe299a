"""Mistral's own package for Python as a backend's client: through the model port a batch call gives the
object that it gives without it. Its `jsonpath` is another module than ours, so it runs in another venv.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llm import test_llm_clients as python
from tests.llm.test_llm_node_clients import (
    FAILING,
    PATIENCE_S,
    Case,
    NodeClient,
    direct,
    of_mistral,
    of_python,
    through,
)
from tests.stacks.backends import HERE, NOT_MADE, VENV, is_made

pytestmark = pytest.mark.skipif(not is_made(), reason=NOT_MADE)

CASES: dict[str, Case] = {
    "text": of_python("complete", f"openai, chat of {python.OFTEN_MET[0]}"),
    "reasoning": of_mistral("Mistral, thinking"),
    "tools": of_mistral("Mistral, tools without an index"),
    "structured output": of_python("parsed", "openai, structured output"),
}


@pytest.fixture(scope="module")
def package() -> Iterator["subprocess.Popen[str]"]:
    command = [str(VENV / "bin" / "python"), "mistral_client.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=HERE, **pipes) as process:  # type: ignore[call-overload]
        yield process
        assert process.stdin is not None
        process.stdin.close()  # it has read its last call


@pytest.mark.parametrize("case", CASES)
async def test_a_package_gets_the_object_that_it_gets_without_us(
    tmp_path: Path, package: "subprocess.Popen[str]", case: str
) -> None:
    api, call, provider = CASES[case]
    async with asyncio.timeout(PATIENCE_S):
        expected = await direct(provider(), package, call)
        came, results = await through(tmp_path, provider(), api, NodeClient(package, call))

    assert expected.keys() == {"came"}, expected
    assert came == expected
    assert results == {"tapped": 1}


async def test_a_package_raises_the_error_that_it_raises_without_us(
    tmp_path: Path, package: "subprocess.Popen[str]"
) -> None:
    api, _, provider = FAILING["mistral"]
    async with asyncio.timeout(PATIENCE_S):
        expected = await direct(provider(), package, "complete")
        came, results = await through(tmp_path, provider(), api, NodeClient(package, "complete"))

    assert isinstance(expected["failed"]["status"], int), expected
    assert came == expected
    assert results == {"failed": 1}
