"""The state that all processes of a replica share: flags, kill switch, what was learned of models."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from time import time
from typing import Any, Protocol

from flags.sources.kill_switch import KillSwitch
from flags.sources.source import FlagSource


class ShownEntry(Protocol):
    """A model that is asked for no streams."""

    def shown(self, now: float) -> dict[str, Any]: ...


class ModelDenylist(Protocol):
    """The models that are asked for no streams."""

    async def active(self) -> Iterable[ShownEntry]: ...


class ModelFields(Protocol):
    """Fields of providers' answers that no table has."""

    def shown(self) -> list[dict[str, Any]]: ...


class LearningPort(Protocol):
    """The model port, as far as it has learned something."""

    @property
    def denylist(self) -> ModelDenylist: ...

    @property
    def kept(self) -> ModelFields: ...

    @property
    def ended(self) -> Mapping[tuple[str, str], int]:
        """Calls, by provider and by `answered`, `failed` or `left`."""


class RunStore(Protocol):
    """The store that replicas share."""

    @property
    def is_up(self) -> bool: ...
    @property
    def up(self) -> Mapping[str, bool]: ...


@dataclass(frozen=True, slots=True)
class PageState:
    """The places from which that state is read."""

    flag_source: FlagSource
    switch: KillSwitch
    port: LearningPort | None
    """None: there is no model port."""
    store: RunStore | None
    """None: runs are in this process alone."""

    def stores(self) -> dict[str, Any]:
        """Return whether the store answers, and the names of its shards that do not."""
        if self.store is None:
            return {"event_log_up": None, "event_log_shards_down": []}
        down = [shard for shard, is_up in self.store.up.items() if not is_up]
        return {"event_log_up": self.store.is_up, "event_log_shards_down": down}

    def killing(self) -> dict[str, Any]:
        """Return whether streaming is off for everybody, who said so, and how old the flags are."""
        return {
            "killed": self.flag_source.killed or self.switch.engaged,
            "kill_flag": self.flag_source.killed,
            "kill_switch": None if self.switch.order is None else self.switch.order.shown(),
            "flag_age_s": _finite(self.flag_source.age_s),
            "flags_stale": self.flag_source.stale,
            "flags_problem": self.flag_source.problem,
        }

    async def learned(self) -> list[dict[str, Any]]:
        """The denylist of all processes."""
        entries = [] if self.port is None else await self.port.denylist.active()
        return [entry.shown(time()) for entry in entries]

    def kept(self) -> list[dict[str, Any]]:
        """Fields that this process has met, and no table names."""
        return [] if self.port is None else self.port.kept.shown()

    def flag(self, name: str) -> dict[str, Any]:
        """A flag as it is now, whoever asks."""
        return {"flag": {"name": name, **asdict(self.flag_source.found(name))}}

    async def shown(self) -> dict[str, Any]:
        """All of it, but for the flags' shares."""
        return {
            **self.killing(),
            **self.stores(),
            "learned": await self.learned(),
            "kept_fields": self.kept(),
        }


def _finite(age_s: float) -> float | None:
    """Seconds, or None for infinity, which JSON does not have: flags that never came have no age."""
    return round(age_s, 1) if math.isfinite(age_s) else None
