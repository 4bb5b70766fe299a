"""What is stored of a run: the names of its keys, its values sealed, and the scripts for both. No I/O.

    PREFIX:run:ID              what the run is; there from the claim on
    PREFIX:run:ID:log          stream; entry N has the id N-0, so the store refuses what is doubled or late
    PREFIX:run:ID:end          the answer or the failure; set together with the terminal entry
    PREFIX:run:ID:part:N:I     part I of entry N, or of the answer if N is 0, where these are large
    PREFIX:same:DIGEST         the id of the run that requests for the same join
    PREFIX:replica:REPLICA     there as long as the replica is
    PREFIX:inbox:REPLICA       stream of messages for it
    PREFIX:ticket:DIGEST
    PREFIX:tap:DIGEST          the replica and the route of the run that a model call's token stands for

Every key is created with a time to live, in the same command or script. Every value but run ids is sealed.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.event_log import Entry
from proxy.run import Failure
from proxy.sealing import Box
from proxy.upstream import Answer
from proxy.valkey import Command, Script

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

    def ticket(self, digest: str) -> str:
        return f"{self.prefix}:ticket:{digest}"


def is_run_id(value: str) -> bool:
    """Whether it can be part of a key without being taken for another key."""
    return _RUN_ID.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Meta:
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
    """The keys it is joined by."""

    def sealed(self, box: Box) -> bytes:
        return box.seal("meta", 0, orjson.dumps(self))

    @classmethod
    def opened(cls, box: Box, value: bytes) -> "Meta":
        return cls(**orjson.loads(box.open("meta", 0, value)))


# Entries. One flag byte, then the wire; or, where that is large, of how many parts it is made.


def part_count(value: bytes) -> int:
    return -(-len(value) // PART_BYTES)


def entry_plain(entry: Entry) -> bytes:
    """What is sealed of an entry; equal for equal entries."""
    flags = _CONTENT * entry.is_content | _TERMINAL * entry.is_terminal
    if len(entry.wire) <= PART_BYTES:
        return bytes((flags,)) + entry.wire
    digest = hashlib.sha256(entry.wire).digest()
    return bytes((flags | _PARTS,)) + part_count(entry.wire).to_bytes(4) + digest


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as it was stored; `parts` of it are elsewhere, or none and it is whole."""

    entry: Entry
    parts: int

    @classmethod
    def read(cls, seq: int, plain: bytes, known_at: float) -> "StoredEntry":
        flags = plain[0]
        parts = int.from_bytes(plain[1:5]) if flags & _PARTS else 0
        wire = b"" if parts else plain[1:]
        return cls(Entry(seq, wire, known_at, bool(flags & _CONTENT), bool(flags & _TERMINAL)), parts)

    def with_parts(self, wire: bytes) -> Entry:
        return self.entry._replace(wire=wire)


@dataclass(frozen=True, slots=True)
class End:
    """What became of a run, but for the answer's body where that is large: then it is in `parts`."""

    failure: Failure | None
    answer: Answer | None
    parts: int

    @classmethod
    def of(cls, failure: Failure | None, answer: Answer | None) -> "End":
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
    def opened(cls, box: Box, value: bytes) -> "End":
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


# Scripts. Each may be executed twice with the same effect.

CLAIM = Script("""
-- KEYS: run, same...; ARGV: ttl, meta, run id, for each same an id that may be replaced
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[2] then return ARGV[3] end
for i = 2, #KEYS do
  local id = redis.call('GET', KEYS[i])
  if id and id ~= ARGV[3] and id ~= ARGV[2 + i] then return id end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[1]) end
return false
""")

RESTORE = Script("""
-- As CLAIM, of a run that is executed already: what others have claimed meanwhile is theirs.
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[3], 'NX', 'PX', ARGV[1]) end
return 1
""")

ABANDON = Script("""
-- KEYS: run, same...; ARGV: meta, run id
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
for i = 2, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[2] then redis.call('DEL', KEYS[i]) end
end
return 1
""")

GONE, ELSEWHERE, APPENDED = -1, 0, 1
"""What `APPEND` says. `ELSEWHERE` is a list with the last entry's number and its value."""

APPEND = Script("""
-- KEYS: run, log, end, same that go with the end..., same that stay..., parts...
-- ARGV: number of the last entry, ttl, ttl after the end, end or '', how many same go, how many stay,
--       run id, entries...
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local at = 0
if last then at = tonumber(string.match(last[1], '^%d+')) end
local after = tonumber(ARGV[1])
if at ~= after then return {0, at, last and last[2][2] or ''} end
for i = 8, #ARGV do
  redis.call('XADD', KEYS[2], string.format('%d-0', after + i - 7), 'e', ARGV[i])
end
if ARGV[4] == '' then
  if after == 0 and #ARGV > 7 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
  return 1
end
redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[3])
local going, staying = tonumber(ARGV[5]), tonumber(ARGV[6])
for i = 1, #KEYS do
  if i <= 3 or i > 3 + going + staying then
    redis.call('PEXPIRE', KEYS[i], ARGV[3])
  elseif redis.call('GET', KEYS[i]) == ARGV[7] then
    if i <= 3 + going then redis.call('DEL', KEYS[i]) else redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
  end
end
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

SCRIPTS: Sequence[Script] = (CLAIM, RESTORE, ABANDON, APPEND, REFRESH, SEND)


def send(keys: Keys, replica: str, message: bytes) -> Command:
    """A message to a replica; an empty one only wakes it."""
    return SEND([keys.inbox(replica)], int(INBOX_TTL_S * 1000), MAX_INBOX, message)
