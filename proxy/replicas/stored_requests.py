"""Orders: what the store keeps of a request, so that another replica can ask the upstream again. No I/O.

Only of a route that says `replay: safe`, and only until its run ends: an order has the client's credentials.
"""

from dataclasses import dataclass

import orjson

from flags.decision import Arm, Decision, Mode, Reason
from proxy.http.headers import Headers
from proxy.replicas.sealing import Box, Unsealable
from proxy.runs.run import Run

MAX_ORDER_BYTES = 256 * 1024
"""A longer one would hold up the loop and the store. A run of one is not taken over."""


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request, what was decided about it, and how often it was sent. The rest is in the run's meta."""

    method: str
    headers: Headers
    body: bytes
    parameters: dict[str, str]
    decision: Decision
    user: str | None
    """`userId` of who asked; None: nobody in particular."""
    times_asked: int

    @classmethod
    def of(cls, run: Run) -> "StoredRequest | None":
        """The order of a run in flight, if it may be sent again."""
        if run.route.settings.replay != "safe":
            return None
        call, identity = run.call, run.identity
        user = None if identity is None else identity.user
        request = call.request
        return cls(
            request.method,
            request.headers,
            request.body,
            call.parameters,
            run.decision,
            user,
            run.times_asked,
        )

    def sealed(self, box: Box) -> bytes | None:
        """None if it is too long to be kept."""
        decision = self.decision
        head = {
            "method": self.method,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "parameters": self.parameters,
            "decision": [decision.mode, decision.arm, decision.source, decision.reason, decision.variant],
            "chunk_chars": decision.chunk_chars,
            "user": self.user,
            "times_asked": self.times_asked,
        }
        plain = orjson.dumps(head) + b"\n" + self.body
        return box.seal("order", 0, plain) if len(plain) <= MAX_ORDER_BYTES else None

    @classmethod
    def opened(cls, box: Box, value: bytes) -> "StoredRequest":
        """Raises `Unsealable`."""
        line, _, body = box.open("order", 0, value).partition(b"\n")
        head = orjson.loads(line)
        mode, arm, source, reason, variant = head["decision"]
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
        except ValueError:  # of a version with more of them
            raise Unsealable("the order's decision is not known here") from None
        headers = [(name.encode("latin-1"), content.encode("latin-1")) for name, content in head["headers"]]
        return cls(
            head["method"], headers, body, head["parameters"], decision, head["user"], head["times_asked"]
        )
