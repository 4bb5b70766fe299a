"""What is stored of a run: the names of its keys, its values sealed, and the scripts for both. No I/O.

    PREFIX:run:ID              what the run is; there from the claim on
    PREFIX:run:ID:order        what to ask the upstream, while the run may be taken over; see `orders.py`
    PREFIX:run:ID:log          stream; entry N has the id N-0, so the store refuses what is doubled or late
    PREFIX:run:ID:end          the answer or the failure; set together with the terminal entry
    PREFIX:run:ID:part:N:I     part I of entry N, or of the answer if N is 0, where these are large
    PREFIX:same:DIGEST         the id of the run that requests for the same join, or that goes by an
                               id which a client chose; "-" where none does
    PREFIX:replica:REPLICA     there as long as the replica is
    PREFIX:inbox:REPLICA       stream of messages for it
    PREFIX:ticket:DIGEST
    PREFIX:tap:DIGEST          the replica and the route of the run that a model call's token stands for
    PREFIX:learned             hash; by the digest of a provider and a model, why it is asked for no streams

Every key is created with a time to live, in the same command or script. Every value but run ids is sealed.

Who executes a run is in its meta. One that is taken over gets a new meta, and what the replica before still
has to write is refused: each write names the meta that it goes by (`StoredMeta.fence`), and the store looks.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.replicas.sealing import NONCE_BYTES, VERSION, Box
from proxy.replicas.valkey import Command, Script
from proxy.runs.run import Failure
from proxy.text.event_log import LogEntry
from proxy.upstream.client import Answer

PART_BYTES = 256 * 1024
"""Larger values are stored in parts of this size, so that none holds up the loop or the store."""

INBOX_TTL_S = 60.0
MAX_INBOX = 10_000
"""Messages that wait for a replica that does not listen; the oldest go first."""

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONTENT, _TERMINAL, _PARTS = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys."""

    prefix: str

    def run(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}"

    def order(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}:order"

    def log(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}:log"

    def end(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}:end"

    def part(self, run_id: str, seq: int, index: int) -> str:
        return f"{self.prefix}:run:{run_id}:part:{seq}:{index}"

    def same(self, digest: str) -> str:
        return f"{self.prefix}:same:{digest}"

    def replica(self, replica: str) -> str:
        return f"{self.prefix}:replica:{replica}"

    def inbox(self, replica: str) -> str:
        return f"{self.prefix}:inbox:{replica}"

    def tap(self, digest: str) -> str:
        return f"{self.prefix}:tap:{digest}"

    def tap_calls(self, digest: str) -> str:
        return f"{self.prefix}:tap-calls:{digest}"

    @property
    def learned(self) -> str:
        return f"{self.prefix}:learned"

    def ticket(self, digest: str) -> str:
        return f"{self.prefix}:ticket:{digest}"


def is_run_id(value: str) -> bool:
    """Whether it can be part of a key without being taken for another key."""
    return _RUN_ID.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class RunMeta:
    """What a run is, for those who do not execute it."""

    owner: str
    """The replica that executes it."""
    route: str
    target: str
    principal: str | None
    fingerprint: str
    told: str
    source: str
    started_at: float
    """Seconds since the epoch."""
    same: list[str]
    """The keys it is joined by; the first only while it runs."""
    generation: int = 0
    """How often it was taken over."""
    has_order: bool = False
    """Whether it may be, as long as the order is there."""

    def sealed(self, box: Box) -> bytes:
        return box.seal("meta", 0, orjson.dumps(self))

    @classmethod
    def opened(cls, box: Box, value: bytes) -> "RunMeta":
        return cls(**orjson.loads(box.open("meta", 0, value)))


@dataclass(frozen=True, slots=True)
class StoredMeta:
    """A meta, and its value in the store."""

    meta: RunMeta
    value: bytes

    @classmethod
    def seal(cls, meta: RunMeta, box: Box) -> "StoredMeta":
        return cls(meta, meta.sealed(box))

    @classmethod
    def open(cls, box: Box, value: bytes) -> "StoredMeta":
        """Raises `Unsealable`."""
        return cls(RunMeta.opened(box, value), value)

    @property
    def fence(self) -> bytes:
        """Enough of it to know it by: no other value begins with this nonce."""
        return self.value[: len(VERSION) + NONCE_BYTES]


# Entries. One flag byte, then the wire; or, where that is large, of how many parts it is made.


def part_count(value: bytes) -> int:
    return -(-len(value) // PART_BYTES)


def entry_plain(entry: LogEntry) -> bytes:
    """What is sealed of an entry; equal for equal entries."""
    flags = _CONTENT * entry.is_content | _TERMINAL * entry.is_terminal
    if len(entry.wire) <= PART_BYTES:
        return bytes((flags,)) + entry.wire
    digest = hashlib.sha256(entry.wire).digest()
    return bytes((flags | _PARTS,)) + part_count(entry.wire).to_bytes(4) + digest


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as it was stored; `parts` of it are elsewhere, or none and it is whole."""

    entry: LogEntry
    parts: int

    @classmethod
    def read(cls, seq: int, plain: bytes, known_at: float) -> "StoredEntry":
        flags = plain[0]
        parts = int.from_bytes(plain[1:5]) if flags & _PARTS else 0
        wire = b"" if parts else plain[1:]
        return cls(LogEntry(seq, wire, known_at, bool(flags & _CONTENT), bool(flags & _TERMINAL)), parts)

    def with_parts(self, wire: bytes) -> LogEntry:
        return self.entry._replace(wire=wire)


@dataclass(frozen=True, slots=True)
class StoredEnd:
    """What became of a run, but for the answer's body where that is large: then it is in `parts`."""

    failure: Failure | None
    answer: Answer | None
    parts: int

    @classmethod
    def of(cls, failure: Failure | None, answer: Answer | None) -> "StoredEnd":
        large = answer is not None and len(answer.body) > PART_BYTES
        return cls(failure, answer, part_count(answer.body) if answer is not None and large else 0)

    def sealed(self, box: Box) -> bytes:
        head: dict[str, Any] = {"parts": self.parts}
        if self.failure is not None:
            head["failure"] = [str(self.failure.code), self.failure.status, self.failure.detail]
        body = b""
        if self.answer is not None:
            fields = [
                [name.decode("latin-1"), value.decode("latin-1")] for name, value in self.answer.headers
            ]
            head |= {"status": self.answer.status, "headers": fields}
            body = b"" if self.parts else self.answer.body
        return box.seal("end", 0, orjson.dumps(head) + b"\n" + body)

    @classmethod
    def opened(cls, box: Box, value: bytes) -> "StoredEnd":
        line, _, body = box.open("end", 0, value).partition(b"\n")
        head = orjson.loads(line)
        failure = Failure(*head["failure"]) if "failure" in head else None
        answer = None
        if "status" in head:
            fields = [
                (name.encode("latin-1"), content.encode("latin-1")) for name, content in head["headers"]
            ]
            answer = Answer(head["status"], fields, body)
        return cls(failure, answer, head["parts"])


# Scripts. Each may be executed twice with the same effect. What keeps one from its work is said in a list of
# what it is, the number of the last entry, and a value.

GONE, ELSEWHERE, DONE, FENCED, WITHDRAWN = -1, 0, 1, -2, -3
"""What they say: there is no such run; its log is longer or shorter than was thought, and what its last entry
is; it is done; the run has another meta, and which; its order is not there, and what its meta is."""


def said(reply: Any) -> tuple[int, int, bytes]:
    """What a script says, the number of the last entry, and a value."""
    if isinstance(reply, list):
        what, at, value = reply
        return what, at, value
    return reply, 0, b""


CLAIM = Script("""
-- KEYS: run, order, same...; ARGV: ttl, meta, order or '', run id, for each same an id that may be replaced
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[2] then return ARGV[4] end
for i = 3, #KEYS do
  local id = redis.call('GET', KEYS[i])
  if id and id ~= ARGV[4] and id ~= ARGV[2 + i] then return id end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[1]) end
for i = 3, #KEYS do redis.call('SET', KEYS[i], ARGV[4], 'PX', ARGV[1]) end
return false
""")

RESTORE = Script("""
-- As CLAIM, of a run that is executed already: what others have claimed meanwhile is theirs.
-- KEYS: run, order, same...; ARGV: ttl, meta, order or '', run id
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[2] then return {-2, 0, known} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[1]) end
for i = 3, #KEYS do redis.call('SET', KEYS[i], ARGV[4], 'NX', 'PX', ARGV[1]) end
return 1
""")

ABANDON = Script("""
-- KEYS: run, order, same...; ARGV: meta, run id
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
for i = 3, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[2] then redis.call('DEL', KEYS[i]) end
end
return 1
""")

PUT_PART = Script("""
-- KEYS: run, part; ARGV: fence, ttl, value
local known = redis.call('GET', KEYS[1])
if not known then return -1 end
if string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then return {-2, 0, known} end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
return 1
""")

APPEND = Script("""
-- KEYS: run, log, end, order, same that go with the end..., same that stay..., parts...
-- ARGV: fence, number of the last entry, ttl, ttl after the end, end or '', order or '', how many same go,
--       how many stay, run id, entries...
local known = redis.call('GET', KEYS[1])
if not known then return -1 end
if string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then return {-2, 0, known} end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local at = 0
if last then at = tonumber(string.match(last[1], '^%d+')) end
local after = tonumber(ARGV[2])
if at ~= after then return {0, at, last and last[2][2] or ''} end
for i = 10, #ARGV do
  redis.call('XADD', KEYS[2], string.format('%d-0', after + i - 9), 'e', ARGV[i])
end
-- Not if it was withdrawn meanwhile: who does that wants it done only once.
if ARGV[6] ~= '' then redis.call('SET', KEYS[4], ARGV[6], 'XX', 'PX', ARGV[3]) end
if ARGV[5] == '' then
  if after == 0 and #ARGV > 9 then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
  return 1
end
redis.call('SET', KEYS[3], ARGV[5], 'PX', ARGV[4])
redis.call('DEL', KEYS[4])
local going, staying = tonumber(ARGV[7]), tonumber(ARGV[8])
for i = 1, #KEYS do
  if i <= 4 or i > 4 + going + staying then
    redis.call('PEXPIRE', KEYS[i], ARGV[4])
  elseif redis.call('GET', KEYS[i]) == ARGV[9] then
    if i <= 4 + going then redis.call('DEL', KEYS[i]) else redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
  end
end
return 1
""")

TAKE_OVER = Script("""
-- KEYS: run, order, log, same...; ARGV: fence, number of the last entry, ttl, meta, order, run id
local known = redis.call('GET', KEYS[1])
if not known then return -1 end
if known ~= ARGV[4] and string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then return {-2, 0, known} end
if redis.call('EXISTS', KEYS[2]) == 0 then return {-3, 0, known} end
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
local at = 0
if last then at = tonumber(string.match(last[1], '^%d+')) end
if at ~= tonumber(ARGV[2]) then return {0, at, ''} end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
for i = 4, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[6] then redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
end
return 1
""")

CANCEL = Script("""
-- KEYS: run, order, inbox of the replica that executes it; ARGV: fence, ttl, at most so many, message
local known = redis.call('GET', KEYS[1])
if not known then return -1 end
if string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then return {-2, 0, known} end
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return 1
""")

REFRESH = Script("""
-- KEYS: all of a run, of which same...; ARGV: ttl, how many are same, run id
for i = 1, #KEYS do
  if i > tonumber(ARGV[2]) or redis.call('GET', KEYS[i]) == ARGV[3] then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
end
return 1
""")

SEND = Script("""
-- KEYS: inbox; ARGV: ttl, at most so many, message
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
""")

COUNT = Script("""
-- KEYS: a count that was begun; else nothing is
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
return redis.call('INCR', KEYS[1])
""")

SHELVE = Script("""
-- KEYS: all that is learned   ARGV: a name, its value, how long all of them are kept, in milliseconds
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")

SCRIPTS: Sequence[Script] = (
    CLAIM,
    RESTORE,
    ABANDON,
    PUT_PART,
    APPEND,
    TAKE_OVER,
    CANCEL,
    REFRESH,
    SEND,
    COUNT,
    SHELVE,
)


def send(keys: Keys, replica: str, message: bytes) -> Command:
    """A message to a replica; an empty one only wakes it."""
    return SEND([keys.inbox(replica)], int(INBOX_TTL_S * 1000), MAX_INBOX, message)


def cancel(keys: Keys, run_id: str, stored: StoredMeta, message: bytes) -> Command:
    """A message to the replica that executes a run, which nobody takes over from then on."""
    names = [keys.run(run_id), keys.order(run_id), keys.inbox(stored.meta.owner)]
    return CANCEL(names, stored.fence, int(INBOX_TTL_S * 1000), MAX_INBOX, message)
