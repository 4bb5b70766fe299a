"""Changing a flag: the port. `unleash_admin` is the real server behind it, `file_admin` the flag file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ManagedFlag:
    """The flag whose share is moved, and what its strategy must have for the arms to be comparable."""

    name: str
    kill_flag: str = "headgate.kill"
    stickiness: str = "userId"
    group_id: str = ""
    """Salt of the users' order; "" is the flag's name. `<group_id>~<anything>` is one of its rotations."""

    def allows_group(self, group_id: str) -> bool:
        salt = self.group_id or self.name
        return group_id == salt or group_id.startswith(f"{salt}~")


@dataclass(frozen=True, slots=True)
class Strategy:
    """A gradual rollout. It is always written whole, since Unleash fills in what an update leaves out."""

    id: str
    share: int
    stickiness: str
    group_id: str
    constraints: Sequence[Mapping[str, Any]] = ()
    segments: Sequence[int] = ()
    variants: Sequence[Mapping[str, Any]] = ()
    disabled: bool = False
    title: str | None = None
    """None: leave it as it is."""
    sort_order: int = 0
    kind: str = "flexibleRollout"
    """Unleash's name of its kind. Strategies beside ours may be of another kind; then their share is 100."""

    @property
    def digest(self) -> str:
        """Equal for strategies that enable the same users in the same way: SHA-256, in hexadecimal."""
        fields = asdict(self)
        for cosmetic in ("id", "title", "sort_order"):
            del fields[cosmetic]
        return hashlib.sha256(json.dumps(fields, sort_keys=True, default=dict).encode()).hexdigest()


class Kill(StrEnum):
    """The states of the kill flag."""

    OFF = "off"
    ON = "on"
    SOME = "some"
    """On, but its strategies ask who the user is, so that it stops only some."""
    ABSENT = "absent"
    """There is none, or it is archived: proxies that it has killed stay killed."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One read of the flag in one environment, with its last change."""

    strategy: Strategy
    others: Sequence[Strategy]
    """Strategies beside ours, which are OR-ed to it: there should be none."""
    enabled: bool
    """True if the environment is on."""
    event_id: int
    """The id of this flag's last event; it grows with each change."""
    event_by: str
    """The author of that event, as Unleash names them."""
    killed: bool
    """True if the kill flag is on."""
    kill: Kill = Kill.OFF
    around: str = ""
    """Digest of what decides beside the strategies: variants, parents, segments. "": it is not known."""
    expected: float | None = None
    """Percent of users who are shown something, by the flag's own evaluation; None: only requests tell."""


class FlagAdmin(Protocol):
    """One writer's view of one flag. Raises FlagAdminError, which names what failed and never a token."""

    async def problems(self) -> list[str]:
        """Problems that keep a rollout from starting here, each with what to do, as a second strategy."""

    async def read(self) -> Flag:
        """The flag as it is now, past every cache."""

    async def write(self, strategy: Strategy, expected: Flag) -> Flag:
        """Write it whole if the flag is still as `expected` (event id and digest); then what a new read says.

        A strategy that enables the same users as before, and has the same mark, is not written: no event.

        Raises FlagChanged if somebody else was there first: nothing is written then. It is raised, too, if
        somebody came in the very moment between; then something was written, and its `wrote` is true.
        """

    async def kill(self, on: bool) -> None:
        """Turn the kill flag on or off in this environment."""
