"""Where a relayed answer goes: to the client's request, or to what looks at the answer on its way there."""

from typing import Protocol

from proxy.http.headers import Headers


class Sink(Protocol):
    """Takes an answer. `ClientRequest` is one; where a type names it, too, it is called directly."""

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None:
        """The answer's head, and the first bytes of its body, of any number. `last`: these are all."""

    def answer_more(self, body: bytes, *, last: bool) -> None: ...

    def refuse(self, status: int, detail: str, *, close: bool = False) -> None:
        """A problem instead of an answer; `close` also ends the connection."""

    def cut(self) -> None:
        """No more of the answer will come: it must not look complete."""

    def fail(self) -> None:
        """Something failed here. An answer that is whole stays as it is."""


class PassingSink:
    """Passes everything on to another sink; for those that change or copy some of it."""

    def __init__(self, to: Sink) -> None:
        self._to = to

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None:
        self._to.answer(status, reason, headers, body, last=last)

    def answer_more(self, body: bytes, *, last: bool) -> None:
        self._to.answer_more(body, last=last)

    def refuse(self, status: int, detail: str, *, close: bool = False) -> None:
        self._to.refuse(status, detail, close=close)

    def cut(self) -> None:
        self._to.cut()

    def fail(self) -> None:
        self._to.fail()
