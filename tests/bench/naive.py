"""The proxy that everyone writes, to compare with: Starlette route, httpx client, StreamingResponse."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

NOT_FORWARDED = {"host", "connection", "keep-alive", "transfer-encoding"}


def application(upstream: str, connections: int) -> Starlette:
    """Pass everything to `upstream` over at most `connections` connections; httpx's own limit is 100."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=20)
    client = httpx.AsyncClient(base_url=upstream, timeout=None, limits=limits)

    async def forward(request: Request) -> StreamingResponse:
        headers = {name: value for name, value in request.headers.items() if name not in NOT_FORWARDED}
        outgoing = client.build_request(
            request.method, request.url.path, headers=headers, content=await request.body()
        )
        answer = await client.send(outgoing, stream=True)
        kept = {name: value for name, value in answer.headers.items() if name not in NOT_FORWARDED}
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose)
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])], lifespan=lifespan)


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--upstream", required=True, help="Origin to pass requests to.")
@click.option("--connections", type=int, default=100)
def main(port: int, upstream: str, connections: int) -> None:
    """Run the naive proxy on a loopback port."""
    uvicorn.run(
        application(upstream, connections),
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
