"""Calls to Amazon Bedrock are signed anew: a signature covers the host that was called, and that is Headgate.

A call that came signed goes on with the signature of Headgate's own role. One with a bearer key goes on as it
came, and so does one with neither. Credentials are found as every AWS SDK finds them: environment, profile,
web identity, container, instance.
"""

import asyncio
import hashlib
import logging
import re
from functools import partial
from time import monotonic
from typing import Any

from proxy.errors import RequestRefused

logger = logging.getLogger("headgate.llm")

Headers = list[tuple[bytes, bytes]]

SERVICE = "bedrock"
"""The name of the service in a signature."""

CREDENTIALS_S = 10.0
"""The longest that a call waits for credentials."""

KEPT_S = 30.0
"""Seconds that credentials are used before they are asked for anew. botocore itself renews them long before
they expire."""

SIGNED_BYTES = 32 * 1024 * 1024
"""The longest body that is signed. Amazon itself takes no longer one than 25,000,000 bytes."""

LONG_BYTES = 256 * 1024
"""A body that takes so long to be hashed that the loop should be free meanwhile."""

SIGNED_HERE = frozenset({b"authorization", b"x-amz-date", b"x-amz-security-token", b"x-amz-content-sha256"})
"""Headers of the caller's signature."""

_REGION_OF_HOST = re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")
_SIGNATURE = re.compile(rb"AWS4-HMAC-SHA256 Credential=[^/,]+/\d{8}/([a-z0-9-]+)/bedrock/aws4_request,")


class Signer:
    """Signs the calls to one provider.

    Args:
        host: the provider's.
        authority: the value of `Host` in a call.
    """

    def __init__(self, host: str, authority: bytes) -> None:
        # An extra, which settings without Amazon Bedrock do without.
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session

        self._auth, self._request = SigV4Auth, AWSRequest
        found = _REGION_OF_HOST.search(host)
        self._region = found[1] if found else None
        self._authority = authority
        self._session = Session()
        self._errors = (BotoCoreError, ClientError, OSError)
        self._credentials: Any = None
        self._kept_until = 0.0
        self._finding: asyncio.Task[Any] | None = None
        """One at a time: it may wait for a network, in a thread."""

    async def signed(self, method: str, target: bytes, headers: Headers, body: bytes | None) -> Headers:
        """The headers with which a call may go out.

        Args:
            target: path and query, as they go out.
            body: None: it was too long to be read.

        Raises:
            RequestRefused: the call cannot be signed.
        """
        came = _SIGNATURE.match(dict(headers).get(b"authorization", b""))
        if came is None:
            return headers
        if body is None:
            raise RequestRefused(503, "There is no room to sign the request anew, or its body is too long.")
        hashing = partial(hashlib.sha256, body)
        digest = (hashing() if len(body) < LONG_BYTES else await asyncio.to_thread(hashing)).hexdigest()
        kept = [pair for pair in headers if pair[0] not in SIGNED_HERE]
        region = self._region or came[1].decode()
        return kept + self._signature(await self._found(), region, method, target, kept, digest)

    async def _found(self) -> Any:
        """Credentials, as they are at one moment."""
        if self._credentials is None or monotonic() > self._kept_until:
            if self._finding is None or self._finding.done():
                self._finding = asyncio.create_task(asyncio.to_thread(self._find))
            await asyncio.wait({self._finding}, timeout=CREDENTIALS_S)
            if not self._finding.done():
                raise RequestRefused(503, "Headgate's credentials for AWS take too long to come.")
            if self._finding.result() is None:
                raise RequestRefused(503, "Headgate has no credentials for AWS.")
            self._credentials = self._finding.result()
            self._kept_until = monotonic() + KEPT_S
        return self._credentials

    def _find(self) -> Any:
        try:
            found = self._session.get_credentials()
            return None if found is None else found.get_frozen_credentials()
        except self._errors as why:
            logger.warning("no credentials for AWS", extra={"why": type(why).__name__})
            return None

    def _signature(
        self, credentials: Any, region: str, method: str, target: bytes, headers: Headers, digest: str
    ) -> Headers:
        # What a proxy on the way may change is not signed; Amazon asks for its own headers, and the host.
        signed = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name.startswith(b"x-amz-") or name == b"content-type"
        }
        signed |= {"host": self._authority.decode("latin-1"), "x-amz-content-sha256": digest}
        url = f"https://{signed['host']}{target.decode('latin-1')}"
        request = self._request(method=method, url=url, headers=signed)
        self._auth(credentials, SERVICE, region).add_auth(request)
        added = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
        return [pair for pair in added if pair[0] in SIGNED_HERE]
