"""Eight client libraries read our wire over HTTP: `tests/clients/parse.mjs` runs them, one process each."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.text.event_log import EventLog
from proxy.text.events import Event
from proxy.text.sse import Decoder, decode
from proxy.viewers.catch_up import snapshot
from tests.golden import OURS, payload, wire

HERE = Path(__file__).parents[1] / "clients"

# The versions this was written against stand in package.json; the test reads what is installed.
CLIENTS = [
    "undici",
    "eventsource",
    "eventsource-parser",
    "ai",
    "openai",
    "@langchain/langgraph-sdk",
    "@microsoft/fetch-event-source",
    "@ag-ui/client",
]
DEADLINE_S = 120


def _streams() -> dict[str, tuple[bytes, Sequence[Event]]]:
    """Bytes and what they say: the golden ones, and what only some viewers get."""
    streams: dict[str, tuple[bytes, Sequence[Event]]] = {
        name: (wire(events), events) for name, events in OURS.items()
    }
    events = OURS["two-panels"]
    log = EventLog("run", 1000)
    for event in events:
        log.append(event, 0.0)
    caught_up = b"".join(snapshot(log.up_to(len(log)), 0))
    said = Decoder(max_event_bytes=1 << 20).feed(caught_up)
    streams["snapshot"] = caught_up, [decode(b"data: " + block.data.encode()) for block in said]
    streams["sent-away"] = wire(events[:-1]) + b"retry: 4711\n", events[:-1]
    return streams


STREAMS = _streams()

NODE = Path(sys.executable).with_name("node")
"""Of the locked dependencies: the libraries want a newer one than Debian has."""


def _missing() -> str | None:
    absent = [client for client in CLIENTS if not (HERE / "node_modules" / client).is_dir()]
    return f"npm ci --prefix tests/clients ({', '.join(absent)})" if absent else None


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Give what each client delivered of each stream. All of them run at once, and are gone afterwards."""
    if missing := _missing():
        pytest.skip(f"the client libraries are not here: {missing}")
    folder = tmp_path_factory.mktemp("streams")
    for name, (stream, _) in STREAMS.items():
        (folder / f"{name}.sse").write_bytes(stream)
    running = {client: _start(client, folder) for client in ["reads", *CLIENTS]}
    try:
        yield {client: _report(client, process) for client, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _start(client: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(NODE), "parse.mjs", client, str(folder)],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def _report(client: str, process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, f"{client}: {err}"
    return json.loads(out)


@pytest.mark.parametrize("cut", ["whole", "bytes"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_delivers_our_events_and_nothing_else(
    reports: dict[str, Any], client: str, cut: str
) -> None:
    """Every event of every stream, in order, as the JSON we meant; no empty message for a heartbeat."""
    streams = reports[client]["streams"]

    delivered = {name: stream[cut]["delivered"] for name, stream in streams.items()}
    assert delivered == {name: [payload(event) for event in events] for name, (_, events) in STREAMS.items()}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_asks_once(reports: dict[str, Any], client: str) -> None:
    """No heartbeat and no event makes a client throw away the stream and send its POST again."""
    streams = reports[client]["streams"]

    assert {stream[cut]["requests"] for stream in streams.values() for cut in ("whole", "bytes")} == {1}


@pytest.mark.parametrize("client", CLIENTS)
def test_the_client_is_the_one_we_pinned(reports: dict[str, Any], client: str) -> None:
    """The tests use the version that the lock names, not one that lay about."""
    pinned = json.loads((HERE / "package.json").read_text())["dependencies"]

    assert reports[client]["version"] == pinned[client]


def test_single_bytes_reach_the_client_singly(reports: dict[str, Any]) -> None:
    """The other tests mean what they say: a reader over the same server gets its bytes one by one."""
    reads = [size for stream in reports["reads"]["streams"].values() for size in stream["bytes"]["delivered"]]

    assert reads.count(1) > 0.95 * len(reads)


def test_the_lock_names_no_registry() -> None:
    """The packages come from wherever npm is told to look, and are known by their digests alone."""
    lock = json.loads((HERE / "package-lock.json").read_text())

    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert not [name for name, package in packages.items() if "integrity" not in package]
