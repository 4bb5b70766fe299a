"""The append-only log of one run's events, in memory; and how its readers wait for more of it."""

import asyncio
import logging
from array import array
from collections.abc import Callable, Iterable, Sequence, Set
from itertools import islice
from typing import Final, NamedTuple, Union

import orjson

from proxy.text.crowds import Crowd, with_one, without
from proxy.text.events import TERMINAL, Event, EventType
from proxy.text.sse import Long, encode, id_bytes, one_line, opening_of_chunk, payload_of
from proxy.timers.wheel import Timer, stop, wheel_of

logger = logging.getLogger("headgate.runs")

MAX_AT_ONCE: Final = 512
"""Entries that a reader takes at a time: a long log is not copied whole for each write."""

MAX_NEW_BYTES: Final = 64 * 1024
"""The largest event that is sent as it comes, whole."""

AT_A_TURN: Final = 64
"""Readers that are woken in one turn of the loop: each then has a piece of work to do."""

Reader = Union["LogReader", Callable[[], None]]  # a type of strings has no `|`
"""Is told when there is more of a log."""

Readers = Crowd[Reader]

_NOWHERE: Final[Set[int]] = frozenset()  # one for all: an empty one takes 200 bytes

_SIZE_LINES: Final = [b"%x\r\n" % size for size in range(2048)]
"""The first lines of chunks (RFC 9112 7.1), by their sizes: of nearly all events."""

_dumps: Final = orjson.dumps  # each look-up costs a fifth of what it does

CONTENT: Final = frozenset({EventType.CONTENT_CHUNK, EventType.CONTENT_REPLACE})


class LogEntry(NamedTuple):
    """One event, as it goes on the wire."""

    seq: int
    """From 1, without gaps."""
    wire: bytes
    known_at: float
    """The loop's time when the proxy had what this event says."""
    is_content: bool
    is_terminal: bool

    @property
    def id(self) -> str:
        """The id as it is on the wire."""
        return self.wire[len(b"id: ") : self.wire.index(b"\n")].decode()


def event_id(run_id: str, generation: int, seq: int) -> str:
    """The id of an event, which a client comes back with.

    A replica that dies, or is held up, may have shown its own viewers events that the others never saw. So a
    replica that takes a run over gives its events ids with another name. A cursor with the old name and a
    later number is then known not to be of this log, although the log has an event with that number.
    """
    return f"{run_id}.{generation}:{seq}" if generation else f"{run_id}:{seq}"


def _none() -> bool:
    """There is no doubt."""
    return False


_NO_DOUBT: Final = _none


def _nobody() -> None:
    """Nobody is to be told."""


class NewEvent:
    """The newest event of a log, for all who are sent it as it comes."""

    __slots__ = ("chunk", "has_text", "known_at", "now", "seq")

    def __init__(self, seq: int, chunk: bytes, has_text: bool, known_at: float, now: float) -> None:
        self.seq = seq
        self.chunk = chunk
        """Its bytes, as a chunk of a body (RFC 9112 7.1)."""
        self.has_text = has_text
        self.known_at = known_at
        self.now = now
        """The loop's time."""


class EventLog:
    """Events of one run. Each is encoded once, for all readers.

    Entries are kept as columns. With an object for each event, the garbage collector would look at every
    object again and again, and hold up the texts of a thousand runs for tens of milliseconds.
    """

    __slots__ = (
        "_content",
        "_first_readers",
        "_generation",
        "_id_line",
        "_is_more",
        "_known_at",
        "_loop",
        "_opening",
        "_panel",
        "_readers",
        "_retry_ms",
        "_stage",
        "_unwoken",
        "_wires",
        "doubt",
        "ended",
        "has_content",
        "newest",
        "on_readers_changed",
        "run_id",
        "size_bytes",
        "snapshots_from",
    )

    def __init__(self, run_id: str, retry_ms: int) -> None:
        self.run_id = run_id
        self.generation = 0
        self.doubt: Callable[[], bool] = _NO_DOUBT
        """Whether the last entries may be this process's alone, since another replica may have the run: do
        not show them yet."""
        self.on_readers_changed: Callable[[], None] = _nobody
        """Told of each reader that has come or gone."""
        self._retry_ms = retry_ms
        self._loop: asyncio.AbstractEventLoop | None = None
        """Once it is needed: a log may be made without one."""
        self._panel = self._stage = ""
        self._opening = b""
        """The beginning of each chunk's JSON of this panel and stage, which the last one had."""
        self._wires: list[bytes] = []
        self._known_at = array("d")
        self._content = bytearray()
        self.ended = False
        self.newest: NewEvent | None = None
        """What `newest_after` has returned while readers are woken: whoever is one event behind need not ask
        for it again."""
        self._first_readers: Readers = ()
        self._readers: Readers = ()
        self._unwoken: list[Reader] | None = None
        """Readers that are woken in the next turns, the last of them first; None: all were."""
        self._is_more = False
        """Whether there is more since these began to be woken: all readers are to look once more."""
        self.size_bytes = 0
        self.has_content = False
        self.snapshots_from: Set[int] = _NOWHERE
        """Places from which a viewer was begun to be sent a snapshot."""

    def __len__(self) -> int:
        return len(self._wires)

    @property
    def generation(self) -> int:
        """How often the run was taken over by another replica."""
        return self._generation

    @generation.setter
    def generation(self, number: int) -> None:
        self._generation = number
        self._id_line = b"id: " + id_bytes(event_id(self.run_id, number, 0)).removesuffix(b"0")

    def append(self, event: Event, known_at: float, long: Long | None = None) -> None:
        """Encode an event and add it; see `sse.encode`."""
        seq, kind = len(self._wires) + 1, event.type
        if seq > 1 and long is None:  # as nearly all: without what is the same for all of a log
            wire = b"%b%d\ndata: %b\n\n" % (self._id_line, seq, payload_of(event))
        else:
            name = event_id(self.run_id, self._generation, seq)
            wire = encode(event, name, self._retry_ms if seq == 1 else None, long)
        self._add(wire, known_at, kind in CONTENT, kind in TERMINAL)

    def append_chunk(self, panel: str, stage: str, content: str, index: int, known_at: float) -> None:
        """Add a `content_chunk`, as nearly all events are: the bytes that `append` would make of it.

        `content` must have a UTF-8, of which a transcript makes sure.
        """
        wires = self._wires
        if not wires:
            event = Event(EventType.CONTENT_CHUNK, panel, stage, content, {"chunk_index": index})
            self.append(event, known_at)
            return
        if stage != self._stage or panel != self._panel:
            self._opening = one_line(opening_of_chunk(panel, stage))
            self._panel, self._stage = panel, stage
        text = _dumps(content)
        if len(text) != len(content) + 2:  # it is not in ASCII, or something in it is escaped
            text = one_line(text)
        wire = b'%b%d\ndata: %b%b,"metadata":{"chunk_index":%d}}\n\n' % (
            self._id_line,
            len(wires) + 1,
            self._opening,
            text,
            index,
        )
        wires.append(wire)
        self._known_at.append(known_at)
        self._content += b"\1"
        self.ended = False
        self.size_bytes += len(wire)
        self.has_content = True
        self.wake()

    def take(self, entry: LogEntry) -> None:
        """Append an entry that is encoded already."""
        assert entry.seq == len(self._wires) + 1
        self._add(entry.wire, entry.known_at, entry.is_content, entry.is_terminal)

    def _add(self, wire: bytes, known_at: float, is_content: bool, is_terminal: bool) -> None:
        self._wires.append(wire)
        self._known_at.append(known_at)
        self._content.append(is_content)
        self.ended = is_terminal
        self.size_bytes += len(wire)
        if is_content:
            self.has_content = True
        self.wake()

    def after(self, seq: int) -> Sequence[LogEntry]:
        """The next entries beyond `seq`, at most `MAX_AT_ONCE` of them."""
        return self._between(seq, min(len(self), seq + MAX_AT_ONCE))

    def up_to(self, seq: int) -> Sequence[LogEntry]:
        """All entries from the first to `seq`."""
        return self._between(0, min(len(self), seq))

    def entry(self, seq: int) -> LogEntry:
        """The entry with this number, which must be one of the log's."""
        at = seq - 1
        is_last = seq == len(self._wires)
        return LogEntry(
            seq, self._wires[at], self._known_at[at], self._content[at] == 1, is_last and self.ended
        )

    def newest_after(self, seq: int) -> NewEvent | None:
        """The one event beyond `seq`, to be shown at once.

        None: there are more or none; or it is large, or the end, or in doubt, and not just to be sent.
        """
        if len(self._wires) != seq + 1 or self.ended or (self.doubt is not _NO_DOUBT and self.doubt()):
            return None
        wire = self._wires[seq]
        if len(wire) > MAX_NEW_BYTES:
            return None
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        size = len(wire)
        line = _SIZE_LINES[size] if size < len(_SIZE_LINES) else b"%x\r\n" % size
        chunk, has_text = b"%b%b\r\n" % (line, wire), self._content[seq] == 1
        self.newest = new = NewEvent(seq + 1, chunk, has_text, self._known_at[seq], self._loop.time())
        return new

    def _between(self, start: int, end: int) -> list[LogEntry]:
        return [self.entry(seq) for seq in range(start + 1, end + 1)]

    @property
    def is_read(self) -> bool:
        """True if it has readers."""
        return bool(self._readers or self._first_readers)

    def subscribe(self, reader: Reader, *, first: bool = False) -> None:
        """Tell `reader`, which must not wait, whenever there is more; before all viewers if it is `first`."""
        if first:
            self._first_readers = with_one(self._first_readers, reader)
        else:
            self._readers = with_one(self._readers, reader)
        self.on_readers_changed()

    def unsubscribe(self, reader: Reader) -> None:
        self._readers = without(self._readers, reader)
        self._first_readers = without(self._first_readers, reader)
        self.on_readers_changed()

    def wake(self) -> None:
        """Let all waiting readers look again; of many, some in each turn of the loop."""
        readers = self._readers
        if (
            self._unwoken is None and not self._first_readers and len(readers) <= AT_A_TURN
        ):  # as nearly always
            self._wake_each(tuple(readers))
            return
        # Before any is woken: who then leaves makes way for another, who would count as woken.
        rest = list(islice(self._first_readers, AT_A_TURN, None)) if self._unwoken is None else []
        if self._first_readers:
            self._wake_each(tuple(islice(self._first_readers, AT_A_TURN)))
        if self._unwoken is not None:  # or empty: the last of them are being woken now
            self._is_more = True
        elif len(self._readers) <= AT_A_TURN and not rest:
            self._wake_each(tuple(self._readers))
        else:
            self._unwoken = [*self._readers, *reversed(rest)]
            self._wake_some()

    def _wake_each(self, readers: Iterable[Reader]) -> None:
        self.newest = None  # one of them may have added an entry, and now waking is this call's
        for reader in readers:
            try:
                if isinstance(reader, LogReader):
                    reader.more()
                else:
                    reader()
            except Exception:  # a mistake of ours with one reader must not leave the others asleep
                logger.exception("reader not woken", extra={"run": self.run_id})
        self.newest = None  # later it may be in doubt

    def _wake_some(self) -> None:
        unwoken = self._unwoken or []
        some = [each for each in unwoken[-AT_A_TURN:] if each in self._readers or each in self._first_readers]
        del unwoken[-AT_A_TURN:]
        self._wake_each(some)
        if not unwoken:
            # All: those who were first when there was more may have left since.
            self._unwoken = [*self._readers, *reversed(self._first_readers)] if self._is_more else None
            self._is_more = False
        if self._unwoken:
            asyncio.get_running_loop().call_soon(self._wake_some)
        else:
            self._unwoken = None


class LogReader:
    """The place where one task waits: for more of a log, for a call of `wake`, or for a time.

    Args:
        log: is read.
        first: it is woken before all viewers, who may be thousands.
    """

    __slots__ = (
        "_called",
        "_has_more",
        "_log",
        "_loop",
        "_pausing",
        "_serve",
        "_waiter",
        "_wheel",
        "slot",
        "wake_at",
    )

    def __init__(self, log: EventLog, *, first: bool = False) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._has_more = False
        self._called = False
        self._pausing = False
        self._serve: Callable[[], bool] | None = None
        self._wheel = wheel_of(self._loop)
        self.slot: set[Timer] | None = None
        self.wake_at = 0.0
        log.subscribe(self, first=first)

    def close(self) -> None:
        self._log.unsubscribe(self)
        stop(self)

    def wake(self) -> None:
        """Somebody's word: whatever is waited for, look again."""
        self._called = True
        self._release()

    async def wait(self, until: float, serve: Callable[[], bool] | None = None) -> None:
        """Wait for more of the log, for `wake`, or for the loop's time `until` and as late as a wheel is. May
        return early: look, and wait again.

        What happened since the last wait counts. One timer serves all waits and is only moved on, so that an
        event costs none. With `serve` neither does it cost a turn of the task: that is called for each entry,
        and while it returns True the wait goes on.
        """
        if self.slot is None or until < self.wake_at:
            self._wheel.wake(self, until, self._loop.time())
        else:
            self.wake_at = until
        if not (self._has_more or self._called):
            self._serve = serve
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = self._serve = None
        self._has_more = self._called = False

    async def pause(self, until: float) -> None:
        """Wait for `wake` or `until` alone, which is short: the loop's own timer is exact.

        New entries do not end a pause, and cost nothing within it.
        """
        if not self._called:
            self._pausing = True
            self._waiter = self._loop.create_future()
            timer = self._loop.call_at(until, self._release)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._pausing, self._waiter = False, None
        self._has_more = self._called = False

    def more(self) -> None:
        """There is more of the log."""
        if self._serve is not None and not self._called:
            try:
                if self._serve():
                    return
            except Exception as exc:
                self._serve = None
                if self._waiter is None or self._waiter.done():
                    raise
                self._waiter.set_exception(exc)  # it is the reader's own, and is raised in its task
                return
        self._has_more = True
        self._serve = None  # what comes now is the task's, and in order
        if not self._pausing:
            self._release()

    def on_time(self, now: float) -> None:
        self.wake()

    def _release(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
