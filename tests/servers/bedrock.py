"""A fake Amazon Bedrock: it holds calls to their signatures, and frames its streams as Amazon does."""

import hashlib
import hmac
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote
from zlib import crc32

from tests.servers.scripted import Asked, ScriptedUpstream

EVENT_STREAM = b"application/vnd.amazon.eventstream"
ROLE = {"AWS_ACCESS_KEY_ID": "AKIDROLE", "AWS_SECRET_ACCESS_KEY": "role's", "AWS_SESSION_TOKEN": "session"}
"""Whom the fake knows, beside whoever has `BEARER`."""
BEARER = "a bearer key"
REGION = "eu-central-1"

Json = dict[str, Any]


def frame(payload: bytes, **headers: str) -> bytes:
    """One event, with headers whose names begin with a colon."""
    packed = b"".join(
        struct.pack("!B", len(name) + 1) + b":" + name.replace("_", "-").encode()
        + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in headers.items()
    )  # fmt: skip
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    body = prelude + struct.pack("!I", crc32(prelude)) + packed + payload
    return body + struct.pack("!I", crc32(body))


def framed(event: Json) -> bytes:
    """An event, or an exception, by its kind."""
    ((kind, said),) = event.items()
    if kind == "error":
        return frame(b"", message_type="error", error_code=said["code"], error_message=said["message"])
    is_exception = kind.endswith("Exception")
    kinds = {"exception_type": kind} if is_exception else {"event_type": kind}
    message_type = "exception" if is_exception else "event"
    return frame(
        json.dumps(said).encode(), message_type=message_type, content_type="application/json", **kinds
    )


def stream_head(more: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n"
        b"x-amzn-requestid: 7\r\n%b\r\n" % (EVENT_STREAM, more)
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def is_signed(asked: Asked, body: bytes) -> bool:
    """True if a request has the role's signature: AWS Signature Version 4, for any service but S3."""
    given = (asked.header(b"authorization") or b"").decode()
    if given == f"Bearer {BEARER}":
        return True
    kind, _, rest = given.partition(" ")
    fields = dict(each.strip().partition("=")[::2] for each in rest.split(","))
    if kind != "AWS4-HMAC-SHA256":
        return False
    key_id, *scope = fields["Credential"].split("/")
    date, region, service, _ = scope
    names = fields["SignedHeaders"].split(";")
    needed = {name.decode().lower() for name, _ in asked.headers() if name.lower().startswith(b"x-amz-")}
    path, _, query = asked.target.decode().partition("?")
    signed = "".join(f"{name}:{(asked.header(name.encode()) or b'').decode()}\n" for name in names)
    digest = hashlib.sha256(body).hexdigest()
    canonical = "\n".join(["POST", quote(path, safe="/~"), query, signed, fields["SignedHeaders"], digest])
    told = (asked.header(b"x-amz-date") or b"").decode()
    text = "\n".join([kind, told, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    signing = _hmac(f"AWS4{ROLE['AWS_SECRET_ACCESS_KEY']}".encode(), date)
    for part in (region, service, "aws4_request"):
        signing = _hmac(signing, part)
    return (
        key_id == ROLE["AWS_ACCESS_KEY_ID"]
        and (asked.header(b"x-amz-security-token") or b"").decode() == ROLE["AWS_SESSION_TOKEN"]
        and {"host", *needed} <= set(names)
        and (region, service) == (REGION, "bedrock")
        and hmac.compare_digest(fields["Signature"], _hmac(signing, text).hex())
    )


class Bedrock:
    """A model with one answer.

    Args:
        stream: the events of its stream.
        batch: its batch answer.
        status: of the batch answer, with the kind of error.
        stream_status: of the stream, the same.
        headers: of the batch answer.
        broken: whether a byte of the stream's last event is another one.
    """

    def __init__(
        self,
        stream: Sequence[Json],
        batch: Json,
        *,
        status: tuple[int, str] = (200, ""),
        stream_status: tuple[int, str] = (200, ""),
        headers: Mapping[str, str] | None = None,
        broken: bool = False,
    ) -> None:
        self.stream, self.batch, self.broken = stream, batch, broken
        self.status, self.stream_status, self.headers = status, stream_status, headers or {}
        self.upstream = ScriptedUpstream(self._answer)
        self.paths: list[bytes] = []

    async def _answer(self, asked: Asked) -> None:
        body = await asked.read_body()
        action = asked.target.rpartition(b"/")[2]
        self.paths.append(action)
        if not is_signed(asked, body):
            await self._fail(asked, (403, "InvalidSignatureException"))
        elif action in (b"converse-stream", b"invoke-with-response-stream"):
            await self._say(asked)
        elif self.status[0] != 200:
            await self._fail(asked, self.status)
        else:
            lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items()).encode()
            await asked.answer(json.dumps(self.batch).encode(), extra=lines)

    async def _fail(self, asked: Asked, failure: tuple[int, str]) -> None:
        status, kind = failure
        said = json.dumps({"message": f"it is {kind}"}).encode()
        await asked.answer(said, b"%d Said" % status, f"x-amzn-errortype: {kind}\r\n".encode())

    async def _say(self, asked: Asked) -> None:
        if self.stream_status[0] != 200:
            await self._fail(asked, self.stream_status)
            return
        events = [framed(event) for event in self.stream]
        if self.broken:
            events[-1] = events[-1][:-6] + b"!" + events[-1][-5:]
        await asked.send(stream_head() + b"".join(map(chunk, events)) + b"0\r\n\r\n")
