"""The port to a source of a run's text."""

from collections.abc import Awaitable
from typing import Protocol

from proxy.runs.run import Run
from proxy.upstream.client import Answer


class Source(Protocol):
    """Executes a run's call, shows text as it becomes known, and returns the batch answer."""

    def answer(self, run: Run) -> Awaitable[Answer]:
        """The upstream's whole answer, which is the authority on what was shown.

        Raises:
            UpstreamError: there is none.
        """
        ...
