"""`python -m tests.stacks`: each stack's backend makes a model call; is it found to be its run's?

Prints a line for each endpoint, and ends with 1 if one is not as expected.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import click

from tests.stacks.backends import NOT_MADE, STACKS, is_made, results


async def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.stacks", description=__doc__)
    parser.add_argument("--only", default="", help="stacks whose name begins so")
    only = parser.parse_args().only
    stacks = [stack for stack in STACKS if stack.name.startswith(only)]
    with tempfile.TemporaryDirectory(prefix="stacks-") as directory:
        found = await results(stacks, Path(directory))
    for stack in stacks:
        for how, expected in stack.expected.items():
            result = found[stack.name, how]
            click.echo(f"{'ok  ' if result == expected else 'FAIL'} {stack.name:<52} /ask/{how:<16} {result}")
    wanted = {(stack.name, how): result for stack in stacks for how, result in stack.expected.items()}
    return 0 if found == wanted else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()) if is_made() else NOT_MADE)
