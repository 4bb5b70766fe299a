"""The denylist of workers on one host that share no Valkey: files in a directory."""

import logging
import secrets
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("headgate.llm")


class FileDenylistStore:
    """A `DenylistStore`. It lasts as long as the directory: until `headgate serve` ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put_denylist_entry(self, name: str, value: bytes, ttl_s: float) -> None:
        """Write the whole file at once: another worker may read it at any time."""
        new = self._directory / f".{secrets.token_hex(8)}"
        try:
            self._directory.mkdir(exist_ok=True)
            new.write_bytes(value)
            new.replace(self._directory / name)
        except OSError as exc:
            logger.warning("what was learned cannot be kept", extra={"why": type(exc).__name__})

    async def find_denylist_entry(self, name: str) -> bytes | None:
        try:
            return (self._directory / name).read_bytes()
        except OSError:
            return None

    async def drop_denylist_entry(self, name: str) -> None:
        with suppress(OSError):
            (self._directory / name).unlink()

    async def denylist_entries(self) -> dict[str, bytes]:
        found = {}
        for path in self._directory.glob("[0-9a-f]*"):
            with suppress(OSError):
                found[path.name] = path.read_bytes()
        return found
