"""A viewer's client that leaves: the viewer is told so by the client's request, without a task that waits."""

from proxy.text.event_log import LogReader
from proxy.viewers.clients import ViewerClient


class LeavingViewer:
    """A viewer that looks again when its client has left; a `ClientWatcher` while it serves."""

    __slots__ = ("_client", "_left", "_reader")

    def __init__(self, client: ViewerClient, reader: LogReader) -> None:
        self._client = client
        self._left = client.disconnected
        self._reader = reader

    def _begin_to_watch(self) -> None:
        self._client.watcher = self
        self._client.ask_for_body()
        self.client_changed()

    def _end_watch(self) -> None:
        self._reader.close()
        self._client.watcher = None  # it holds the run

    def client_changed(self) -> None:
        """The client has left; or it has sent more, which is dropped: it would stop the reading."""
        if self._client.disconnected:
            self._left = True
            self._reader.wake()
        elif self._client.body:
            self._client.take_body()

    def cut(self) -> None:
        """The process ends: a viewer goes when its run says so."""
