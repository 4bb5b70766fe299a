"""A stream that the caller itself asked for: it passes untouched, and a run shows its text."""

from collections.abc import Callable

from proxy.http.headers import Headers
from proxy.llm.assembly.dialect import Dialect, ProviderFailed, Unfaithful
from proxy.llm.stream_events import StreamEvents, is_stream
from proxy.llm.taps.tap import TappedCall
from proxy.relay.sinks import PassingSink, Sink


class Tee(PassingSink):
    """Shows the text of the stream that it passes on."""

    def __init__(self, call: TappedCall, dialect: Dialect, to: Sink, has_room: Callable[[int], bool]) -> None:
        super().__init__(to)
        self._call = call
        self._assembler = dialect.assembler()
        self._media_type = dialect.media_type
        self._has_room = has_room
        self._events: StreamEvents | None = None

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None:
        if status == 200 and is_stream(headers, self._media_type):
            self._events = StreamEvents(self._media_type)
            self._show(self._events, body)
        super().answer(status, reason, headers, body, last=last)

    def answer_more(self, body: bytes, *, last: bool) -> None:
        if self._events is not None:
            self._show(self._events, body)
        super().answer_more(body, last=last)

    def _show(self, events: StreamEvents, data: bytes) -> None:
        if not self._has_room(len(data)):
            self._events = None
            return
        try:
            for event in events.feed(data):
                self._call.add(self._assembler.feed(event))
                self._call.add_arguments(self._assembler.arguments)
        except (Unfaithful, ProviderFailed):
            self._events = None  # the caller's stream goes on, whether we can read it or not

    def batch_answer(self) -> bytes | None:
        """The batch answer that a stream whose whole text was shown stands for."""
        try:
            return self._assembler.answer()
        except Unfaithful:
            return None

    async def end(self) -> bool:
        """The stream has ended. Returns whether its whole text was shown."""
        is_whole = self._events is not None and self._assembler.is_complete
        if is_whole:
            await self._call.finish()
        else:
            await self._call.fail()
        return is_whole
