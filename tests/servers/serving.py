"""A whole Headgate inside the test's own loop, on free loopback ports."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from proxy.app import running
from proxy.serving import App, listening
from proxy.settings.settings import Settings
from proxy.workers.sockets import Sockets
from tests.servers.ports import free_socket
from tests.servers.scripted import Script, ScriptedUpstream

STREAMING = "headgate.streaming"
ADMIN_TOKEN = "a token for tests alone"


@dataclass
class Serving:
    """A running Headgate."""

    app: App
    url: str
    admin_url: str
    flag_file: Path
    model_url: str = ""
    """Of the model port, if there is one."""


def flag_document(rollout: int = 100, kill: bool = False, **feature: Any) -> dict[str, Any]:
    """Client features with `headgate.streaming` at a share of users."""
    parameters = {"rollout": str(rollout), "stickiness": "userId", "groupId": STREAMING}
    streaming = {
        "name": STREAMING,
        "enabled": True,
        "strategies": [{"name": "flexibleRollout", "parameters": parameters}],
        "variants": [],
        **feature,
    }
    killing = {
        "name": "headgate.kill",
        "enabled": kill,
        "strategies": [{"name": "default", "parameters": {}}],
    }
    return {"version": 2, "features": [streaming, killing]}


def token(user: str = "ann") -> str:
    """A bearer token; Headgate reads it without verifying unless told how."""
    return jwt.encode(
        {"sub": user, "iss": "tests"}, "a secret that is long enough for HS256", algorithm="HS256"
    )


@asynccontextmanager
async def headgate(
    upstream_url: str,
    directory: Path,
    *,
    routes: list[dict[str, Any]] | None = None,
    flags: Mapping[str, Any] | None = None,
    flag_settings: Mapping[str, Any] | None = None,
    upstream: Mapping[str, Any] | None = None,
    drain_s: float = 0.5,
    settle_s: float = 0.0,
    **settings: Any,
) -> AsyncIterator[Serving]:
    """Serve until the block is left. `flags` is what the flag file has, unless `flag_settings` name another
    source; those, `upstream` and `settings` are blocks of the settings file."""
    flag_file = directory / "flags.json"
    flag_file.write_text(json.dumps(flags or flag_document()))
    parsed = Settings.model_validate(
        {
            "admin_token": ADMIN_TOKEN,
            "upstream": {"url": upstream_url, "breaker": {"failures": 1000}, **(upstream or {})},
            "flags": {**(flag_settings or {"file": str(flag_file)}), "settle_s": settle_s},
            "routes": routes or [],
            **settings,
        }
    )
    public, admin = free_socket(), free_socket()
    url = f"http://127.0.0.1:{public.getsockname()[1]}"
    admin_url = f"http://127.0.0.1:{admin.getsockname()[1]}"
    model = free_socket() if parsed.llm is not None else None
    model_url = f"http://127.0.0.1:{model.getsockname()[1]}" if model is not None else ""
    sockets = Sockets(public, admin, model)
    async with running(parsed, directory) as app, listening(app, parsed, sockets, drain_s=drain_s):
        yield Serving(app, url, admin_url, flag_file, model_url)


@asynccontextmanager
async def gated(
    script: Script, directory: Path, **settings: Any
) -> AsyncIterator[tuple[ScriptedUpstream, Serving]]:
    """An upstream that plays a script, and a Headgate in front of it."""
    async with (
        ScriptedUpstream(script).running() as upstream,
        headgate(upstream.url, directory, **settings) as serving,
    ):
        yield upstream, serving
