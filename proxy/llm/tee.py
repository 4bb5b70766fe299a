"""A stream that the caller itself asked for: it passes untouched, and a run shows its text."""

from collections.abc import Callable

from proxy.http.asgi import Message, Send
from proxy.llm.call import MAX_EVENT_BYTES, is_event_stream
from proxy.llm.dialects.dialect import Assembler, ProviderFailed, Unfaithful
from proxy.llm.tap import TappedCall
from proxy.text.sse import Decoder, EventTooLarge


class Tee:
    """A `send` that also shows the text of the stream that it sends."""

    def __init__(
        self, call: TappedCall, assembler: Assembler, send: Send, has_room: Callable[[int], bool]
    ) -> None:
        self._call = call
        self._assembler = assembler
        self._send = send
        self._has_room = has_room
        self._decoder: Decoder | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 200 and is_event_stream(message["headers"]):
                self._decoder = Decoder(max_event_bytes=MAX_EVENT_BYTES)
        elif self._decoder is not None:
            self._show(self._decoder, message["body"])
        await self._send(message)

    def _show(self, decoder: Decoder, data: bytes) -> None:
        if not self._has_room(len(data)):
            self._decoder = None
            return
        try:
            for event in decoder.feed(data):
                self._call.add(self._assembler.feed(event.data))
        except (EventTooLarge, Unfaithful, ProviderFailed):
            self._decoder = None  # the caller's stream goes on, whether we can read it or not

    async def end(self) -> bool:
        """The stream has ended. Returns whether its whole text was shown."""
        is_whole = self._decoder is not None and self._assembler.is_complete
        if is_whole:
            await self._call.finish()
        else:
            await self._call.fail()
        return is_whole
