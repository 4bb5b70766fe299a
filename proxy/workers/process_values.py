"""One number of a metric, kept in a file of its process: prometheus-client's own, made for the relay.

A relayed request of a route counts five of them. The package's asks each time for a lock, and for the
process's id in case it was forked, which takes longer than to count. Here neither is needed: metrics are made
after the fork, and counted by the thread of the loop.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Any

from prometheus_client.mmap_dict import MmapedDict, mmap_key

_pack = Struct("dd").pack_into
"""Value and timestamp, as the package reads them."""

_pack_value = Struct("d").pack_into


def process_values(directory: Path, opened: Callable[[str], MmapedDict] = MmapedDict) -> type:
    """The class of this process's numbers, whose files are in a directory. See `prometheus_client.values`.

    The files stay open until the process ends.
    """

    @cache
    def file_of(kind: str) -> MmapedDict:
        return opened(str(directory / f"{kind}_{os.getpid()}.db"))

    class ProcessValue:
        """A number: its value here, and the same in the file."""

        __slots__ = ("_at", "_exemplar", "_file", "_value")
        _multiprocess = True

        def __init__(
            self,
            typ: str,
            metric_name: str,
            name: str,
            labelnames: Any,
            labelvalues: Any,
            help_text: str,
            multiprocess_mode: str = "",
            **_: Any,
        ) -> None:
            self._exemplar: object = None
            self._file = file_of(f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ)
            key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)
            self._value: float = self._file.read_value(key)[0]  # type: ignore[no-untyped-call]
            self._at: int = self._file._positions[key]

        def inc(self, amount: float) -> None:
            self._value = value = self._value + amount
            _pack_value(self._file._m, self._at, value)  # not kept here: a file that grows is mapped anew

        def set(self, value: float, timestamp: float | None = None) -> None:
            self._value = value
            _pack(self._file._m, self._at, value, timestamp or 0.0)

        def get(self) -> float:
            return self._value

        def set_exemplar(self, exemplar: object) -> None:
            """Keep it here: a page has those of the process that answers."""
            self._exemplar = exemplar

        def get_exemplar(self) -> object:
            return self._exemplar

    return ProcessValue
