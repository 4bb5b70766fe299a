"""The most requests that a proxy can take: wrk, one thread, closed loop."""

import json
import subprocess
from pathlib import Path

from tests.bench.cores import LOAD_CORE
from tests.bench.results import Measured

SCRIPT = Path(__file__).with_name("wrk.lua")


def post(port: int, path: str, *, connections: int, run_s: int) -> Measured:
    """Requests a second over `connections` keep-alive connections for `run_s` whole seconds."""
    argv = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{run_s}s"]
    done = subprocess.run(
        [*argv, "-s", str(SCRIPT), f"http://127.0.0.1:{port}{path}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=run_s + 20,
    )
    summary = json.loads(done.stderr.splitlines()[-1])
    return Measured(
        figures={"rate": summary["requests"] / summary["seconds"]},
        operations=summary["requests"],
        errors=summary["errors"],
    )
