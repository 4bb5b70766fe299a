"""What an operator has on the day, and types: the docs' own commands, as they stand there."""

import asyncio
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.project.shell_blocks import commands
from tests.rollout.operating import ROOT, Ops
from tests.rollout.readers import Readers
from tests.servers.alertmanager_server import OnCall
from tests.servers.corporate_proxy import CorporateProxy
from tests.servers.otlp_receiver import OtlpReceiver
from tests.servers.with_parent import WITH_PARENT

if TYPE_CHECKING:
    from tests.monday.looks import OperatorsPages
    from tests.monday.morning import ProxyPlace

ALERT = "HeadgateAnswersFail"
"""The alert that must ring when the streams of one arm break off."""

HANDBOOK = ROOT / "docs" / "first-monday.md"
RUNBOOK = ROOT / "docs" / "runbooks" / f"{ALERT}.md"

DAY_S = 120.0
"""The longest wait for any one thing of the day."""


@dataclass
class Day:
    """The servers of the day, and what has happened."""

    ops: Ops
    readers: Readers
    on_call: OnCall
    environment: dict[str, str]
    say: Callable[[str], None]
    out: CorporateProxy
    """Between Headgate and all that is not in its own house."""
    collector: OtlpReceiver
    proxies: "list[ProxyPlace]"
    pages: "OperatorsPages"
    release: Path
    """A folder with today's Headgate."""
    cause: str = ""
    """The output of the runbook's commands."""
    began_s: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)
    """What `headgate --version` said, before the upgrade and after it."""
    shown: dict[str, float] = field(default_factory=dict)
    """Percent of users, at two moments of the drill."""
    typed: set[str] = field(default_factory=set)
    """Commands, as they stand in the docs."""

    def mark(self, what: str, said: str) -> None:
        """Note when it was, in seconds from the beginning, and say it."""
        self.marks[what] = time.monotonic() - self.began_s
        self.say(f"{self.marks[what]:6.1f} s  {said}")

    async def types(self, beginning: str) -> str:
        """The command of the docs that begins like this, as it stands there. Returns what it says."""
        running = await self._begins(beginning, PIPE)
        said, _ = await running.communicate()
        assert running.returncode in CODES.get(beginning, (0,)), f"{beginning}: {said.decode()}"
        return said.decode()

    async def looks(
        self, moment: str, *said: str, at: "ProxyPlace | None" = None, unlocked: bool = False
    ) -> str:
        """Open a proxy's page, the first one's if none is named, and wait until it says all of this.

        Returns its text, which has no secret.
        """
        token = self.environment["HEADGATE_ADMIN_TOKEN"] if unlocked else ""
        url = f"http://{(at or self.proxies[0]).address}"
        text = await self.pages.look(url, moment, *said, token=token)
        assert not [name for name in SECRETS if self.environment[name] in text]
        return text

    @asynccontextmanager
    async def runs(self, beginning: str) -> AsyncIterator[None]:
        """The command that goes on, in the background; ended as a terminal or Kubernetes ends it."""
        said = self.ops.policy.parent / "controller.log"
        with said.open("ab") as log:
            running = await self._begins(beginning, log)
        try:
            yield
        finally:
            assert running.returncode is None, f"it has ended: {said.read_text()[-2000:]}"
            running.terminate()
            await running.wait()

    async def _begins(self, beginning: str, output: Any) -> Process:
        command = documented(beginning)
        self.typed.add(command)
        return await asyncio.create_subprocess_exec(
            *(*WITH_PARENT, "bash", "-o", "pipefail", "-c"),
            f"exec {hurried(command)}" if "|" not in command else command,
            cwd=self.ops.policy.parent,
            env=self.environment,
            stdout=output,
            stderr=STDOUT,
        )


SECRETS = (
    "UNLEASH_ADMIN_TOKEN",
    "UNLEASH_CLIENT_TOKEN",
    "HEADGATE_VALKEY_KEY",
    "HEADGATE_ADMIN_TOKEN",
    "HTTPS_PROXY",
)
"""Variables of the environment that no page may show."""

CODES = {
    "headgate rollout status": (0, 3, 4),
    "headgate rollout plan": (0, 1),
    "headgate rollout resume": (0, 1),
    "headgate rollout approve": (0, 1),
}
"""Exit codes that are no mistake, where they are not only 0. A day of a minute is too short for plans, and a
controller that has just begun, or sees something new, must look first."""


def hurried(command: str) -> str:
    """Return a command with a shorter look at the traffic than ten minutes."""
    return command.replace("--seconds 600", "--seconds 5")


def documented(beginning: str) -> str:
    """The first command of the handbook, or of the alert's runbook, that begins so."""
    for command in commands(HANDBOOK, RUNBOOK):
        if command.startswith(beginning):
            return command
    raise LookupError(f"the docs have no command that begins with {beginning}")
