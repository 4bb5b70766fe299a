"""The reasons why no rollout can start on a flag of an Unleash server, read from its Admin API. Pure.

Release plans, milestones and change requests are Unleash Enterprise's; the open-source server knows none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flags.rollout.writing.flag_admin import ManagedFlag
from flags.rollout.writing.strategies import hides, problems_of, problems_of_kill_flag

NEEDED = ("UPDATE_FEATURE_STRATEGY", "CREATE_FEATURE_STRATEGY", "UPDATE_FEATURE_ENVIRONMENT")
"""Rights: to move the share, and to turn the kill flag on and off."""

Feature = Mapping[str, Any]

_OF_FLAG: tuple[tuple[Callable[[Feature], Any], str], ...] = (
    (lambda flag: flag.get("archived"), "is archived: revive it"),
    (lambda flag: flag.get("stale"), "is marked as stale: take the mark away, or use another flag"),
    (
        lambda flag: flag.get("dependencies"),
        "depends on another flag, which hides it from some users: remove its parent",
    ),
)
_OF_PLACE: tuple[tuple[Callable[[Feature], Any], str], ...] = (
    (lambda place: not place.get("enabled"), "is off: give it a share of 0 %, and turn it on"),
    (
        lambda place: (
            place.get("releasePlans")
            or place.get("milestoneName")
            or any(strategy.get("milestoneId") for strategy in place.get("strategies", ()))
        ),
        "has a release plan, which moves the share as well: remove the plan",
    ),
    (
        lambda place: place.get("safeguards"),
        "has safeguards of Unleash's, which turn it off as well: remove them",
    ),
    (
        lambda place: hides(place.get("variants") or ()),
        "has a variant named dark beside others, which hides some of the arm: remove it",
    ),
)


def place_of(feature: Feature, environment: str) -> Feature | None:
    """The flag in one environment."""
    places = (place for place in feature.get("environments", ()) if place.get("name") == environment)
    return next(places, None)


def problems_of_flag(feature: Feature, environment: str, flag: ManagedFlag) -> Iterator[str]:
    """Problems of the flag itself."""
    yield from (f"{flag.name} {say}" for applies, say in _OF_FLAG if applies(feature))
    place = place_of(feature, environment)
    if place is None:
        yield f"{flag.name} has no environment {environment}: add that to the project"
        return
    yield from (f"{flag.name} in {environment} {say}" for applies, say in _OF_PLACE if applies(place))
    yield from problems_of(place.get("strategies", ()), flag)


def problems_of_kill(feature: Feature | None, environment: str, flag: ManagedFlag) -> Iterator[str]:
    """Problems of the kill flag. `feature` is None where there is no such flag."""
    place = None if feature is None or feature.get("archived") else place_of(feature, environment)
    if place is None:
        say = "make it in the same project, turned off"
        yield f"there is no kill flag {flag.kill_flag} in {environment}: {say}"
    else:
        yield from problems_of_kill_flag(place.get("strategies", ()), flag)


def problems_of_project(overview: Mapping[str, Any], environment: str) -> Iterator[str]:
    """Warn of what the project does on its own when a flag without strategies is turned on."""
    for place in overview.get("environments", ()):
        strategy = place.get("defaultStrategy") if place.get("environment") == environment else None
        if strategy and str(strategy.get("parameters", {}).get("rollout", "100")) != "0":
            yield (
                f"the project's default strategy in {environment} is above 0 %, and would be given to a flag "
                "that loses its own: set it to 0 %"
            )


def problems_of_changes(config: Sequence[Mapping[str, Any]] | None, environment: str) -> Iterator[str]:
    """Warn of changes that wait for somebody's approval; None: the server has no change requests."""
    for place in config or ():
        if place.get("environment") == environment and place.get("changeRequestEnabled"):
            yield (
                f"change requests are on in {environment}, and no rollback may wait for approval: "
                "turn them off there for this project"
            )


def problems_of_rights(
    permissions: Sequence[Mapping[str, Any]], project: str, environment: str
) -> Iterator[str]:
    """Rights that the token lacks."""
    missing = [right for right in NEEDED if not _has(permissions, right, project, environment)]
    if missing:
        yield f"the token lacks {', '.join(missing)} for project {project} and environment {environment}"


def _has(permissions: Sequence[Mapping[str, Any]], right: str, project: str, environment: str) -> bool:
    return any(
        each.get("permission") in ("ADMIN", right)
        and each.get("project") in (None, "", "*", project)
        and each.get("environment") in (None, "", "*", environment)
        for each in permissions
    )
