"""The modules of `browser/` as browsers get them: by name, and in a folder whose content never changes.

/_headgate/client.js                the module as it is now; a browser asks each time whether it still is
/_headgate/0123456789ab/client.js   the same for ever, with the modules that it imports

Parts of a module are in a folder beside it: /_headgate/attach/live.js.
"""

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
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
    kept_at: bytes
    """The path under which caches may keep it for ever."""


@dataclass(frozen=True, slots=True)
class Scripts:
    """All modules. `folder` is a digest of their names and bytes."""

    folder: str
    by_path: Mapping[bytes, tuple[ServedScript, bytes]]
    """With what caches may do: the value of `cache-control`."""

    @classmethod
    def load(cls) -> Self:
        """Load the scripts of this release."""
        return cls.of(dict(sorted(_modules(files("browser"), ""))))

    @classmethod
    def of(cls, modules: Mapping[str, bytes]) -> Self:
        digest = sha256()
        for name, data in modules.items():
            digest.update(b"%b %d\n%b" % (name.encode(), len(data), data))
        folder = digest.hexdigest()[:12]
        by_path = {}
        for name, data in modules.items():
            etag = b'W/"%b"' % sha256(data).hexdigest()[:16].encode()
            kept = f"/_headgate/{folder}/{name}".encode()
            script = ServedScript(data, gzip.compress(data, mtime=0), etag, kept)
            by_path[f"/_headgate/{name}".encode()] = script, ASKED_EACH_TIME
            by_path[kept] = script, FOREVER
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
            (b"content-location", script.kept_at),
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


def _modules(folder: Traversable, under: str) -> Iterator[tuple[str, bytes]]:
    """Names, with the folders they are in, and bytes."""
    for file in folder.iterdir():
        if file.is_dir():
            yield from _modules(file, f"{under}{file.name}/")
        elif file.name.endswith(".js"):
            yield under + file.name, file.read_bytes()
