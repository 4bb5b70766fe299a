"""The model port while nobody serves: each call is passed on as it came, and its context is noted."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

from flags.egress import Egress
from proxy.doctor.findings.asking import MAX_BYTES
from proxy.doctor.one_request.model_calls import Context, context_of
from proxy.downstream.admission import Connections
from proxy.downstream.certificate import PortTls
from proxy.downstream.handshake import secured
from proxy.downstream.server import MakePort, uncounted
from proxy.errors import RequestRefused
from proxy.http.asgi import Receive, Scope, Send, send_problem
from proxy.http.framing import request_target
from proxy.http.headers import HOP_BY_HOP
from proxy.http.tracing import Fields, without_token
from proxy.llm.aws.signing import Signer
from proxy.outbound import origin
from proxy.settings.blocks.upstream import LlmSettings, ProviderSettings
from proxy.workers.servers import server
from proxy.workers.sockets import CannotListen, listening_at

GRACE_S = 1.0

MAX_CONNECTIONS = 64
"""Handshakes at a time, of the calls of one request."""


class ModelListener:
    """An ASGI app. `calls` is what came."""

    def __init__(
        self,
        providers: Sequence[ProviderSettings],
        token: str,
        trace_id: str,
        ways: Egress,
        *,
        strict: bool,
    ) -> None:
        self._ways = ways
        self.calls: list[Context] = []
        self._providers = providers
        self._token = token
        self._trace_id = trace_id
        self._strict = strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = request_target(scope)
        provider = next((p for p in self._providers if target.startswith(p.mount.encode() + b"/")), None)
        if provider is None:
            await send_problem(send, 404, "No provider of llm.providers has this path.")
            return
        self.calls.append(context_of(scope["headers"], self._token, self._trace_id))
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > MAX_BYTES or message["type"] == "http.disconnect":
                await send_problem(send, 413, "The call is too long for this check.", close=True)
                return
            if not message.get("more_body"):
                break
        try:
            await self._pass_on(
                provider, scope["method"], target[len(provider.mount) :], scope["headers"], body, send
            )
        except (httpx.HTTPError, RequestRefused):
            with contextlib.suppress(Exception):  # the answer may have begun
                await send_problem(send, 502, "The provider does not answer.")

    async def _pass_on(
        self, provider: ProviderSettings, method: str, target: bytes, headers: Fields, body: bytes, send: Send
    ) -> None:
        to = origin(provider, strict_tls=self._strict, ways=self._ways)
        dropped = {*HOP_BY_HOP, b"host", b"content-length", b"expect"}
        sent = [pair for pair in without_token(headers, self._token) if pair[0] not in dropped]
        if provider.api == "bedrock":
            sent = await Signer(to.host, to.authority).signed(method, target, sent, body)
        async with (
            httpx.AsyncClient(
                verify=to.tls or False,
                trust_env=False,
                proxy=None if to.via is None else to.via.for_httpx(),
                timeout=provider.timeouts.total_s,
            ) as client,
            client.stream(
                method, (provider.url.encode() + target).decode("latin-1"), headers=sent, content=body
            ) as answer,
        ):
            kept = [(n.lower(), v) for n, v in answer.headers.raw if n.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for piece in answer.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def listening(
    settings: LlmSettings, token: str, trace_id: str, ways: Egress, *, strict: bool
) -> AsyncIterator[ModelListener | None]:
    """A listener at `llm.listen` until the block is left. None: somebody else listens there."""
    listener = ModelListener(settings.providers, token, trace_id, ways, strict=strict)
    try:
        opened: socket.socket = listening_at(settings.listen)
    except CannotListen:
        yield None
        return
    make_port: MakePort = uncounted
    if settings.tls is not None:
        tls = PortTls(settings.tls.cert, settings.tls.key, settings.tls.client_ca)
        budget = Connections(MAX_CONNECTIONS, MAX_CONNECTIONS, on_refused=lambda _: None)
        make_port = secured(make_port, tls, budget)
    serving = server(listener, opened, make_port, keep_alive_s=5, grace_s=GRACE_S)
    task = asyncio.create_task(serving.serve_here())
    try:
        await serving.is_open.wait()
        yield listener
    finally:
        serving.should_exit = True
        await asyncio.wait([task])
        opened.close()
