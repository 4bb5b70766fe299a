"""A provider of language models: its place behind the port, its dialects, and how its calls are relayed."""

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.downstream.bodies import MAX_REQUEST_BYTES
from proxy.downstream.client_request import ClientRequest
from proxy.llm.assembly.dialect import Dialect
from proxy.llm.aws.signing import SIGNED_BYTES, Signer
from proxy.relay.relay import Relay
from proxy.relay.result import RelayResult
from proxy.relay.sinks import Sink
from proxy.upstream.client import Upstream


@dataclass(frozen=True, slots=True)
class Provider:
    """One language model API behind the port."""

    name: str
    mount: bytes
    """The beginning of its calls' paths, without a slash at the end."""
    dialects: Sequence[Dialect]
    """Told apart by a call's path."""
    upstream: Upstream
    relay: Relay
    signer: Signer | None = None

    @property
    def most_bytes(self) -> int:
        """The longest body of a call that is read before the call goes out."""
        return MAX_REQUEST_BYTES if self.signer is None else SIGNED_BYTES

    async def relayed(
        self, client: ClientRequest, body: bytes | None, sink: Sink | None = None, *, fresh: bool = False
    ) -> RelayResult:
        """Relay a call as it came, but signed anew if it must be.

        Args:
            body: of the call, which is still to be read; None: it was not read, or is too long.
        """
        if self.signer is not None:
            signed = self.signer.signed(client.method, client.target, client.headers, body)
            client.headers = await signed
        return await self.relay(client, sink, fresh=fresh)

    def dialect(self, method: str, target: bytes) -> Dialect | None:
        """The dialect of a call for text; None: the request is no such call, as far as that shows without its
        body."""
        return next((each for each in self.dialects if each.is_call(method, target)), None)
