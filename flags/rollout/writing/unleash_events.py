"""The events of a flag on an Unleash server: who changed it, and what each change replaced."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flags.errors import FlagAdminError
from flags.rollout.writing.admin_api import AdminApi
from flags.rollout.writing.flag_admin import Strategy
from flags.rollout.writing.strategies import read_strategy

EVENTS_PAGE = 100
EVENT_PAGES = 10
"""The most pages of events to read for the last change in this environment: they have those of all
environments."""


@dataclass(frozen=True, slots=True)
class FlagEvent:
    """One change, as the server logged it."""

    id: int
    by: str
    type: str
    group: str | None
    """The transaction, if the server says so."""
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def wrote(self, stored: Strategy) -> bool:
        """True if this is the write of `stored`."""
        return (
            self.type == "feature-strategy-update"
            and self.after.get("id") == stored.id
            and not differs(self.after, stored)
        )

    def is_of_transaction(self, other: "FlagEvent | None") -> bool:
        return other is not None and other.group is not None and self.group == other.group


class FlagEvents:
    """The events of one flag in one environment. The caller owns the API."""

    def __init__(self, api: AdminApi, flag: str, environment: str) -> None:
        self._api = api
        self._flag = flag
        self._environment = environment

    async def last(self) -> FlagEvent:
        events = await self.after(0, all_of_them=False)
        return events[0] if events else FlagEvent(0, "", "", None, {}, {})

    async def after(self, after_id: int, *, all_of_them: bool = True) -> list[FlagEvent]:
        """Events of this flag and environment, latest first; on request only those of one page."""
        events: list[FlagEvent] = []
        for page in range(EVENT_PAGES):
            params = {
                "feature": f"IS:{self._flag}",
                "limit": str(EVENTS_PAGE),
                "offset": str(page * EVENTS_PAGE),
            }
            raws = (await self._api.get("/search/events", params))["events"]
            events += (event for event in _read_events(raws, self._environment) if event.id > after_id)
            if len(raws) < EVENTS_PAGE or min(raw["id"] for raw in raws) <= after_id:
                break
            if events and not all_of_them:
                break
        return events


def _read_events(raws: list[Mapping[str, Any]], environment: str) -> Iterator[FlagEvent]:
    # The server sorts by the time a change began; ids are in the order in which they were made.
    for raw in sorted(raws, key=lambda raw: raw["id"], reverse=True):
        if raw.get("environment") in (None, environment):
            yield FlagEvent(
                id=raw["id"],
                by=str(raw.get("createdBy")),
                type=raw["type"],
                group=raw.get("groupId"),
                before=raw.get("preData") or {},
                after=raw.get("data") or {},
            )


def differs(raw: Mapping[str, Any], strategy: Strategy) -> bool:
    """True if a strategy in an event enables other users than `strategy`, or cannot be read."""
    try:
        return read_strategy(raw).digest != strategy.digest
    except FlagAdminError:
        return True
