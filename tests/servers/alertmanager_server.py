"""A real Alertmanager on loopback, and the webhook that it tells."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.servers.client import eventually
from tests.servers.ports import free_port
from tests.servers.programs import says_200
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.with_parent import WITH_PARENT

STARTING_S = 180.0


@dataclass
class OnCall:
    """The person who is told. Each alert once, with when it first came (seconds, monotonic)."""

    told: dict[tuple[str, str], tuple[float, dict[str, Any]]] = field(default_factory=dict)

    async def __call__(self, asked: Asked) -> None:
        for alert in json.loads(await asked.read_body())["alerts"]:
            name = alert["labels"]["alertname"], alert["labels"]["severity"]
            if alert["status"] == "firing":
                self.told.setdefault(name, (time.monotonic(), alert))
        await asked.answer(b"{}")


@asynccontextmanager
async def alertmanager(directory: Path, on_call: OnCall) -> AsyncIterator[str]:
    """Its address, `host:port`. It tells at once."""
    address = f"127.0.0.1:{free_port()}"
    async with ScriptedUpstream(on_call).running() as webhook:
        receiver = {"name": "on-call", "webhook_configs": [{"url": f"{webhook.url}/alerts"}]}
        route = {"receiver": "on-call", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
        settings = directory / "alertmanager.yml"
        settings.write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
        with (directory / "alertmanager.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(*WITH_PARENT, "prometheus-alertmanager"),
                f"--config.file={settings}",
                f"--storage.path={directory / 'alerts'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
                stdout=log,
                stderr=log,
            )
        try:
            await eventually(lambda: says_200(f"http://{address}/-/ready"), STARTING_S)
            yield address
        finally:
            process.kill()
            await process.wait()


def is_installed() -> bool:
    return shutil.which("prometheus-alertmanager") is not None
