"""The texts of an answer, also of one with so many values that reading it would hold up everybody.

A JSON library reads a document in one go and lets nobody else work meanwhile, in no thread either: 15 MB of
`[]` take up to two seconds. So a crowded document is read by a process of its own, one at a time, which says
what the texts are. What is not crowded costs a count of characters more, made a little at a time.
"""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import orjson

from proxy.text.sections import MalformedBody, Section, extract, parse
from proxy.turns import STEP_BYTES, Turns

FEW_BYTES: Final = 256 * 1024
"""Of a body that cannot hold enough values, whatever they are: 6 ms."""

MAX_COST: Final = 200_000
"""A comma is one, a bracket two: 5 to 15 ms of reading. In prose one character in fifty is a comma."""

READ_CPU_S: Final = 20
"""Work on one document, of which 15 MB of values take two seconds."""

READ_S: Final = 120.0
"""The same by the clock, on a machine that is busy: it has a lower priority than those who wait for less."""

NICE: Final = 5
"""A quarter of a core where another one wants it whole. With 19 it would be a hundredth."""

MAX_READ_BYTES: Final = 2 * 1024**3
"""Memory of the process that reads. 15 MB of values take a quarter of it."""

_ONE: Final = ThreadPoolExecutor(1, "crowded")


def _cost(part: bytes) -> int:
    return part.count(b",") + 2 * (part.count(b"[") + part.count(b"{"))


async def is_crowded(body: bytes) -> bool:
    """Whether it may have so many values that reading it takes too long for one turn."""
    if len(body) <= FEW_BYTES:
        return False
    cost, turns = 0, Turns()
    for at in range(0, len(body), STEP_BYTES):
        cost += _cost(body[at : at + STEP_BYTES])
        if cost > MAX_COST:
            return True
        await turns.breathe()
    return False


async def texts_of(body: bytes, sections: Sequence[Section]) -> dict[str, str]:
    """As `extract` has them. Raises `MalformedBody`, also if it takes over `READ_S` or `MAX_READ_BYTES`."""
    if not await is_crowded(body):
        return extract(parse(body), sections)
    wanted = {section.stage: str(section.path) for section in sections if section.path is not None}
    said = await asyncio.get_running_loop().run_in_executor(_ONE, _read_apart, wanted, body)
    if said is None:
        raise MalformedBody("the body is not JSON, or there is too much of it to read")
    texts = orjson.loads(said)
    return {section.stage: texts[section.stage] for section in sections if section.stage in texts}


def _read_apart(wanted: dict[str, str], body: bytes) -> bytes | None:
    command = [sys.executable, "-P", "-m", "proxy.text.crowded"]
    try:
        done = subprocess.run(
            command,
            input=orjson.dumps(wanted) + b"\n" + body,
            capture_output=True,
            timeout=READ_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def main() -> None:
    """The process that reads: paths by stage in one line, then the body; texts by stage come out."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CPU, (READ_CPU_S, READ_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_READ_BYTES, MAX_READ_BYTES))
    wanted, body = orjson.loads(sys.stdin.buffer.readline()), sys.stdin.buffer.read()
    sections = [Section.compile(stage, "", at) for stage, at in wanted.items()]
    try:
        texts = extract(parse(body), sections)
    except (MalformedBody, MemoryError):
        os._exit(1)
    sys.stdout.buffer.write(orjson.dumps(texts))
    sys.stdout.buffer.flush()
    os._exit(0)  # to let go of millions of values one by one takes as long again


if __name__ == "__main__":
    main()
