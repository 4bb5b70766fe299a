"""The denylist while its store is late: nothing waits for it, and nothing grows without a bound."""

import pytest

from proxy.llm.denylist import StreamDefect, StreamDenylist
from proxy.replicas import shared_values
from tests.replicas.sharing import replica
from tests.servers.client import eventually
from tests.servers.valkey_server import ValkeyServer


async def test_a_late_store_takes_no_more_entries_and_holds_no_more_commands(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can count its entries, so it does by itself. One that it has already may be written anew."""
    monkeypatch.setattr(shared_values, "MAX_ENTRIES", 3)
    monkeypatch.setattr(shared_values, "MAX_LATE", 7)
    async with replica(server) as one, server.client() as client:
        shared = one.runs.denylist
        denylist = StreamDenylist(600.0, shared)
        await shared.put_denylist_entry("a" * 64, b"old", 60)
        monkeypatch.setattr(shared_values, "SOON_S", 0.05)
        server.freeze()
        try:
            await shared.put_denylist_entry("a" * 64, b"new", 60)
            for number in range(20):
                await denylist.note_defect("openai", f"model-{number}", StreamDefect.REFUSED)
            waiting = len(shared._asking)
        finally:
            server.thaw()
        await eventually(lambda: not shared._asking)
        for number in range(20):
            await shared.put_denylist_entry(f"{number:064x}", b"more", 60)
        await eventually(lambda: not shared._asking)
        names = set(await client.hkeys("headgate:learned"))
        await eventually(lambda: shared.find_denylist_entry("a" * 64))

    assert waiting == 7
    assert len(names) == 3
    assert b"a" * 64 in names
