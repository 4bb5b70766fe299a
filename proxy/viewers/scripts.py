"""The modules of `browser/` as browsers get them: by name, and in a folder whose content never changes.

/_headgate/client.js                the module as it is now; a browser asks each time whether it still is
/_headgate/0123456789ab/client.js   the same for ever, with the modules that it imports
"""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Self

from proxy.http.accept import takes_gzip
from proxy.http.asgi import Send
from proxy.http.headers import Headers

FOREVER = b"public, max-age=31536000, immutable"
ASKED_EACH_TIME = b"no-cache"


@dataclass(frozen=True, slots=True)
class ServedScript:
    """One module."""

    plain: bytes
    compressed: bytes
    etag: bytes
    """Weak, since it stands for both of them (RFC 9110 8.8.3.3)."""


@dataclass(frozen=True, slots=True)
class Scripts:
    """All modules. `folder` is a digest of their names and bytes."""

    folder: str
    by_path: Mapping[bytes, tuple[ServedScript, bytes]]
    """With what caches may do: the value of `cache-control`."""

    @classmethod
    def load(cls) -> Self:
        """Load the scripts of this release."""
        modules = [file for file in files("browser").iterdir() if file.name.endswith(".js")]
        return cls.of({file.name: file.read_bytes() for file in sorted(modules, key=lambda file: file.name)})

    @classmethod
    def of(cls, modules: Mapping[str, bytes]) -> Self:
        digest = sha256()
        for name, data in modules.items():
            digest.update(b"%b %d\n%b" % (name.encode(), len(data), data))
        folder = digest.hexdigest()[:12]
        by_path = {}
        for name, data in modules.items():
            etag = b'W/"%b"' % sha256(data).hexdigest()[:16].encode()
            script = ServedScript(data, gzip.compress(data, mtime=0), etag)
            by_path[f"/_headgate/{name}".encode()] = script, ASKED_EACH_TIME
            by_path[f"/_headgate/{folder}/{name}".encode()] = script, FOREVER
        return cls(folder, by_path)

    async def answer(self, path: bytes, method: str, headers: Headers, send: Send) -> None:
        """Answer a GET or HEAD of a path in `by_path`."""
        script, caching = self.by_path[path]
        known = [
            tag.strip() for name, value in headers if name == b"if-none-match" for tag in value.split(b",")
        ]
        is_known = script.etag in known or b"*" in known
        is_compressed = takes_gzip(headers)
        body = script.compressed if is_compressed else script.plain
        answer: Headers = [
            (b"cache-control", caching),
            (b"etag", script.etag),
            (b"vary", b"accept-encoding"),
            (b"content-location", f"/_headgate/{self.folder}/".encode() + path.rpartition(b"/")[2]),
        ]
        if is_known:
            body = b""
        else:
            answer += [
                (b"content-type", b"text/javascript; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
                (b"x-content-type-options", b"nosniff"),
                *([(b"content-encoding", b"gzip")] if is_compressed else []),
            ]
        await send({"type": "http.response.start", "status": 304 if is_known else 200, "headers": answer})
        await send(
            {"type": "http.response.body", "body": b"" if method == "HEAD" else body, "more_body": False}
        )
