"""The records of a run in the store: the names of their keys, and their values, sealed. No I/O.

    PREFIX:run:ID              the run's meta; from the claim on
    PREFIX:run:ID:order        the request, while the run may be taken over
    PREFIX:run:ID:log          stream; entry N has the id N-0, so the store refuses a duplicate or late entry
    PREFIX:run:ID:span         the context of the run's span; only where it has one
    PREFIX:run:ID:end          the answer or the failure; set together with the terminal entry
    PREFIX:run:ID:part:N:I     part I of entry N, or of the answer if N is 0, where these are large
    PREFIX:same:DIGEST         the id of the run that equal requests join, or of the run that has this
                               alias; "-" where there is none
    PREFIX:live:DIGEST         sorted set; a principal's newest runs, by when they began
    PREFIX:kept:DIGEST         sorted set; a principal's runs that have ended, by when
    PREFIX:kept:DIGEST:sizes   hash; the size of each and its keys, and the sum
    PREFIX:replica:REPLICA     the replica's lease
    PREFIX:inbox:REPLICA       stream of messages to the replica
    PREFIX:ticket:DIGEST
    PREFIX:tap:DIGEST          the replica and the route of the run that a token belongs to
    PREFIX:tap-calls:DIGEST    how many model calls have come with the token
    PREFIX:learned             hash; by the digest of a provider and a model, an entry of the denylist
    PREFIX:histories:DIGEST    stream; what processes have learned of a route's users: a process (r), the
                               number of its batch (n), the batch (e)
    PREFIX:histories:DIGEST:sum       hash; what batches add up to (value), up to which entry (upto), and a
                               number by chance of when the store was given it anew (restored)
    PREFIX:histories:DIGEST:folding   the process that is about to add them up
    PREFIX:watched:DIGEST, …:sum, …:folding   the same of what users' requests say in their order

Every key is created with a time to live, in the same command or script. Every value but run ids, names of
processes, and counts of calls and batches is sealed.

A run's meta names the replica that executes the run. A takeover writes a new meta. Each write names the meta
that it goes by (`StoredMeta.fence`), so the store refuses what the replica before may still send.
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from flags.decision import Arm, Decision, Mode, Reason
from proxy.http.headers import Headers
from proxy.replicas.store.sealing import NONCE_BYTES, VERSION, Box, Unsealable
from proxy.runs.call import JOB, AcceptedJob
from proxy.runs.ending import Failure
from proxy.runs.run import Run
from proxy.text.event_log import LogEntry
from proxy.upstream.client import Answer

PART_BYTES = 256 * 1024
"""Larger values are stored in parts of this size, so that none holds up the loop or the store."""

MAX_REQUEST_BYTES = 256 * 1024
"""A longer request would hold up the loop and the store, and is not stored: its run is not taken over."""

LIVE_TTL_S = 90.0
"""Seconds that the records of a run in flight outlive the last write of the replica that executes it."""

LIVE_TTL_MS = int(LIVE_TTL_S * 1000)

SPAN_TTL_MS = 3_600_000
"""Milliseconds for which viewers at other replicas find a run's span."""

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONTENT, _TERMINAL, _PARTS = 1, 2, 4
_STORED_NAMES = {"decision_header": "told", "join_keys": "same", "has_request": "has_order"}
"""Names that fields of a meta have in the store, where replicas of other releases read them."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys."""

    prefix: str

    def run(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}"

    def request(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}:order"

    def log(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}:log"

    def span(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}:span"

    def end(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}:end"

    def part(self, run_id: str, seq: int, index: int) -> str:
        return f"{self.prefix}:run:{run_id}:part:{seq}:{index}"

    def join(self, digest: str) -> str:
        return f"{self.prefix}:same:{digest}"

    def live(self, digest: str) -> str:
        return f"{self.prefix}:live:{digest}"

    def kept(self, digest: str) -> list[str]:
        return [f"{self.prefix}:kept:{digest}", f"{self.prefix}:kept:{digest}:sizes"]

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

    def histories(self, digest: str, kind: str) -> list[str]:
        name = f"{self.prefix}:{kind}:{digest}"
        return [name, f"{name}:sum", f"{name}:folding"]

    def ticket(self, digest: str) -> str:
        return f"{self.prefix}:ticket:{digest}"


def is_run_id(value: str) -> bool:
    """True if a value can be part of a key, and the key is no other record's."""
    return _RUN_ID.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class RunMeta:
    """The facts about a run that other replicas need."""

    owner: str
    """The replica that executes it."""
    route: str
    target: str
    principal: str | None
    fingerprint: str
    decision_header: str
    """The value of `headgate-decision`."""
    source: str
    started_at: float
    """Seconds since the epoch."""
    join_keys: list[str]
    """The run is joined by these keys; by the first only while it is in flight."""
    generation: int = 0
    """The number of times that the run was taken over."""
    has_request: bool = False
    """True if the request was stored, so that the run may be taken over."""

    def sealed(self, box: Box) -> bytes:
        fields = {_STORED_NAMES.get(name, name): value for name, value in asdict(self).items()}
        return box.seal("meta", 0, orjson.dumps(fields))

    @classmethod
    def opened(cls, box: Box, value: bytes) -> "RunMeta":
        """Fields that a newer release has added are left out. Raises `Unsealable`."""
        fields = orjson.loads(box.open("meta", 0, value))
        names = {stored: name for name, stored in _STORED_NAMES.items()}
        known = {names.get(name, name): field for name, field in fields.items()}
        try:
            return cls(**{name: field for name, field in known.items() if name in cls.__slots__})
        except TypeError:  # of a release without a field that is needed here
            raise Unsealable("the run's meta lacks a field") from None


@dataclass(frozen=True, slots=True)
class StoredMeta:
    """A run's meta, and its value in the store."""

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
        """The beginning of the value, with its nonce: no other value begins so."""
        return self.value[: len(VERSION) + NONCE_BYTES]


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request, its decision and how often its call was sent; the rest is in the run's meta.

    Stored only for a route that says `replay: safe`, and for jobs, whose status is asked for with it; and
    only until its run ends: the request has the client's credentials.
    """

    method: str
    headers: Headers
    body: bytes
    """Empty where it may not be sent again."""
    parameters: dict[str, str]
    decision: Decision
    user: str | None
    """`userId` of the client; None: it is not known."""
    times_asked: int
    job: AcceptedJob | None = None
    """The job that the upstream has accepted: the call is not sent again."""

    @classmethod
    def of(cls, run: Run) -> "StoredRequest | None":
        """The request of a run in flight; None if no other replica can go on with the run."""
        is_safe = run.route.settings.replay == "safe"
        if not is_safe and run.source != JOB:
            return None
        call, identity = run.call, run.identity
        user = None if identity is None else identity.user
        request = call.request
        return cls(
            request.method,
            request.headers,
            request.body if is_safe else b"",
            dict(call.parameters),
            run.decision,
            user,
            run.times_asked,
            run.job,
        )

    def sealed(self, box: Box) -> bytes | None:
        """The sealed request; None if it is longer than `MAX_REQUEST_BYTES`."""
        decision = self.decision
        head: dict[str, Any] = {
            "method": self.method,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "parameters": self.parameters,
            "decision": [decision.mode, decision.arm, decision.source, decision.reason, decision.variant],
            "chunk_chars": decision.chunk_chars,
            "user": self.user,
            "times_asked": self.times_asked,
        }
        if self.job is not None:
            head["job"] = [self.job.target.decode("latin-1"), self.job.id, self.job.after_s]
        plain = orjson.dumps(head) + b"\n" + self.body
        return box.seal("order", 0, plain) if len(plain) <= MAX_REQUEST_BYTES else None

    @classmethod
    def opened(cls, box: Box, value: bytes) -> "StoredRequest":
        """Raises `Unsealable`."""
        line, _, body = box.open("order", 0, value).partition(b"\n")
        head = orjson.loads(line)
        mode, arm, source, reason, variant = head["decision"][:5]
        chunk_chars = head["chunk_chars"]
        try:
            decision = Decision(
                Mode(mode),
                Arm(arm),
                source,
                Reason(reason),
                variant,
                tuple(chunk_chars) if chunk_chars is not None else None,
            )
        except ValueError:  # of a release with other decisions
            raise Unsealable("the order's decision is not known here") from None
        headers = [(name.encode("latin-1"), content.encode("latin-1")) for name, content in head["headers"]]
        job = None
        if "job" in head:
            target, job_id, after_s = head["job"]
            job = AcceptedJob(target.encode("latin-1"), job_id, after_s)
        return cls(
            head["method"],
            headers,
            body,
            head["parameters"],
            decision,
            head["user"],
            head["times_asked"],
            job,
        )


# An entry is stored as one flag byte and its wire; a large one as the flag byte, the number of its parts and
# a digest.


def part_count(value: bytes) -> int:
    return -(-len(value) // PART_BYTES)


def entry_plain(entry: LogEntry) -> bytes:
    """The plain bytes of an entry, before it is sealed. Equal entries have equal bytes."""
    flags = _CONTENT * entry.is_content | _TERMINAL * entry.is_terminal
    if len(entry.wire) <= PART_BYTES:
        return bytes((flags,)) + entry.wire
    digest = hashlib.sha256(entry.wire).digest()
    return bytes((flags | _PARTS,)) + part_count(entry.wire).to_bytes(4) + digest


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as it was stored. If `parts` is not 0, its wire bytes are in that many values of their own."""

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
    """A run's failure or answer. If `parts` is not 0, the answer's body is in that many values of their
    own."""

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
        failure = Failure(*head["failure"][:3]) if "failure" in head else None
        answer = None
        if "status" in head:
            fields = [
                (name.encode("latin-1"), content.encode("latin-1")) for name, content in head["headers"]
            ]
            answer = Answer(head["status"], fields, body)
        return cls(failure, answer, head["parts"])
