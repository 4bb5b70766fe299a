"""What each backend answers, whatever its framework. Runs in the backends' venv, so without ours."""

import gzip
import hashlib
import json
from collections.abc import Iterable

HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
}

Answer = tuple[int, list[tuple[str, str]], list[bytes], bool]
"""Status, headers, pieces of the body, and whether these are streamed."""

TEXT = [("content-type", "text/plain; charset=utf-8")]


def answer(method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
    """By the path; /echo says what has come."""
    path = target.partition("?")[0]
    if path == "/echo":
        kept = sorted((name.lower(), value) for name, value in headers if name.lower() not in HOP_BY_HOP)
        said = [method, target, kept, len(body), hashlib.sha256(body).hexdigest()]
        return 200, [("content-type", "application/json")], [json.dumps(said).encode()], False
    if path == "/stream":
        return 200, [("content-type", "text/event-stream")], [b"data: %d\n\n" % n for n in range(5)], True
    if path == "/large":
        return 200, [("content-type", "application/octet-stream")], [bytes(range(256)) * 4096], False
    if path == "/gzip":
        return 200, [*TEXT, ("content-encoding", "gzip")], [gzip.compress(b"grau " * 999, mtime=0)], False
    if path == "/cookies":
        return 200, [*TEXT, ("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; HttpOnly")], [b"two"], False
    if path == "/moved":
        return 302, [*TEXT, ("location", "/echo?moved")], [b"there"], False
    statuses = {"/none": 204, "/unchanged": 304, "/missing": 404, "/busy": 503, "/broken": 500}
    status = statuses.get(path, 200)
    return (
        status,
        [*TEXT, ("x-own", "Ünï".encode().decode("latin-1")), ("etag", '"7"')],
        ([] if status in (204, 304) else [f"status {status}".encode()]),
        False,
    )
