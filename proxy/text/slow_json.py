"""JSON documents with so many values that reading one would hold up the loop.

A JSON library reads a document in one go, and no other thread can work meanwhile: 15 MB of `[]` take up to
two seconds. So a process of its own reads such a document, one at a time, and returns what is at the given
paths. To tell a slow document from others, its commas and brackets are counted, in turns.
"""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar, TypeVarTuple

import orjson
from jsonpath import JSONPathError

from proxy.text.sections import MalformedBody, Section, compile_path, extract, keys_of, parse, parse_deep
from proxy.text.templates import Excerpt, find_all
from proxy.turns import STEP_BYTES, Turns

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

FEW_BYTES: Final = 256 * 1024
"""A body of this size is never slow, whatever its values are: 6 ms."""

MAX_COST: Final = 150_000
"""A comma or a colon is one, a bracket two: 1 to 15 ms of reading, the most of it for long names that all
differ. In prose one character in fifty is a comma."""

READ_CPU_S: Final = 20
"""CPU time for one document; 15 MB of values take two seconds."""

READ_S: Final = 120.0
"""Elapsed time for one document: on a busy machine, other processes go first (`NICE`)."""

NICE: Final = 5
"""Priority of the process that reads: a quarter of a core that another process wants. 19 is a hundredth."""

MAX_READ_BYTES: Final = 2 * 1024**3
"""Memory of the process that reads; 15 MB of values take a quarter of it."""

SEARCH_BYTES: Final = 4 * 1024
"""In a body of this size a JSONPath of any kind is looked up at once: 10 ms."""

SWITCH_S: Final = 0.0005
"""Seconds for which a search keeps the interpreter from the loop. The loop asks for it anew for every socket,
so with Python's own 5 ms a turn with few sockets takes 20 ms and more."""

_ONE: Final = ThreadPoolExecutor(1, "slow-json")
_SEARCH: Final = ThreadPoolExecutor(1, "jsonpath", sys.setswitchinterval, (SWITCH_S,))


def _cost(part: bytes) -> int:
    return part.count(b",") + part.count(b":") + 2 * (part.count(b"[") + part.count(b"{"))


async def is_slow(body: bytes) -> bool:
    """True if a document may have so many values that reading it takes too long for one turn."""
    if len(body) <= FEW_BYTES:
        return False
    cost, turns = 0, Turns()
    for at in range(0, len(body), STEP_BYTES):
        cost += _cost(body[at : at + STEP_BYTES])
        if cost > MAX_COST:
            return True
        await turns.breathe()
    await asyncio.sleep(0)  # who reads it now has a turn of its own
    return False


async def texts_of(body: bytes, sections: Sequence[Section]) -> dict[str, str]:
    """Stage to text, as `extract` gives them.

    Raises:
        MalformedBody: also if it takes over `READ_S` or `MAX_READ_BYTES`.
    """
    if not await is_slow(body):
        document = parse_deep(body)
        if all(section.path is None or section.keys is not None for section in sections):
            return extract(document, sections)
        return await searched(len(body), extract, document, sections)
    paths = {section.stage: str(section.path) for section in sections if section.path is not None}
    excerpt = await _excerpt(body, set(paths.values()))
    found = {stage: excerpt.at[path] for stage, path in paths.items()}
    return {stage: text for stage, (count, text) in found.items() if count == 1 and isinstance(text, str)}


def short_texts(body: bytes, sections: Sequence[Section]) -> dict[str, str] | None:
    """The same of a short body, at once. None: its paths take too long. Raises `MalformedBody`."""
    if len(body) > SEARCH_BYTES and not all(each.path is None or each.keys is not None for each in sections):
        return None
    return extract(parse_deep(body), sections)


async def document_of(body: bytes, paths: Collection[str]) -> Any:
    """The document, as `parse` has it; of a slow one, or if looking up the paths may be slow, an `Excerpt`,
    which has what is at `paths`.

    Raises `MalformedBody` as `texts_of` does.
    """
    if await is_slow(body):
        return await _excerpt(body, paths)
    document = parse(body)
    if len(body) <= SEARCH_BYTES or all(keys_of(compile_path(path)) is not None for path in paths):
        return document
    return await searched(len(body), _found_at, document, paths)


async def searched(size: int, look_up: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """The result of `look_up`, which looks up any JSONPath in a body of this size.

    One with `..`, `*` or a filter takes 3 to 10 µs for each value that it passes, all of it in Python: so
    another thread does it, from which the loop takes over after `SWITCH_S`.
    """
    if size <= SEARCH_BYTES:
        return look_up(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_SEARCH, look_up, *arguments)


def _found_at(document: Any, paths: Collection[str]) -> Excerpt:
    found: dict[str, tuple[int, Any]] = {}
    for path in paths:
        try:
            matches = find_all(document, path)
        except JSONPathError:  # too deep, or a filter that cannot be applied
            matches = []
        found[path] = len(matches), matches[0] if len(matches) == 1 else None
    return Excerpt(found)


async def _excerpt(body: bytes, paths: Collection[str]) -> Excerpt:
    output = await asyncio.get_running_loop().run_in_executor(_ONE, _read_apart, sorted(paths), body)
    if output is None:
        raise MalformedBody("the body is not JSON, or there is too much of it to read")
    begin = output.index(b"\n") + 1
    found: dict[str, tuple[int, Any]] = {}
    for path, count, is_text, size in orjson.loads(output[:begin]):
        value, begin = output[begin : begin + size], begin + size
        found[path] = count, (value.decode() if is_text else await _value(value)) if count == 1 else None
    return Excerpt(found)


async def _value(json: bytes) -> Any:
    """A slow value is not read here: it goes on as JSON, as it is."""
    return orjson.Fragment(json) if await is_slow(json) else orjson.loads(json)


def _read_apart(paths: list[str], body: bytes) -> bytes | None:
    command = [sys.executable, "-P", "-m", "proxy.text.slow_json"]
    try:
        done = subprocess.run(
            command,
            input=orjson.dumps(paths) + b"\n" + body,
            capture_output=True,
            timeout=READ_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def main() -> None:
    """The process that reads: paths in one line, then the body.

    Out come, in one line, each path with the number of its matches, whether the only one is a text, and its
    size in bytes; then these matches, texts in UTF-8 and all else in JSON.
    """
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CPU, (READ_CPU_S, READ_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_READ_BYTES, MAX_READ_BYTES))
    paths, body = orjson.loads(sys.stdin.buffer.readline()), sys.stdin.buffer.read()
    try:
        document = parse(body)
        found = [(path, *_looked_up(document, path)) for path in paths]
    except (MalformedBody, MemoryError):
        os._exit(1)
    head = [(path, count, is_text, len(value)) for path, count, is_text, value in found]
    sys.stdout.buffer.write(orjson.dumps(head) + b"\n")
    for _, _, _, value in found:
        sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()
    os._exit(0)  # to let go of millions of values one by one takes as long again


def _looked_up(document: Any, path: str) -> tuple[int, bool, bytes]:
    try:
        matches = find_all(document, path)
        if len(matches) != 1:
            return len(matches), False, b""
        value = matches[0]
        return 1, isinstance(value, str), value.encode() if isinstance(value, str) else orjson.dumps(value)
    except (JSONPathError, UnicodeEncodeError, TypeError):  # too deep, or half a character: it cannot be sent
        return 0, False, b""


if __name__ == "__main__":
    main()
