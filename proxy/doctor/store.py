"""The store of runs: is it there, does it take the login and writes, does it evict? Reads only."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from proxy.doctor.findings.diagnosis import Diagnosis, fail, ok, skipped, warn
from proxy.errors import StoreDown
from proxy.replicas.store.valkey import Health, Link
from proxy.settings.blocks.store_address import is_cluster, key_prefix

CHECK = "store"
EVICTION = "store eviction"

WITHIN_S = 5.0
OLDEST = (6, 2)

_REASONS = {
    "AuthenticationError": (
        "does not take the login, or wants one",
        "Mend USER:PASSWORD@ in event_log.valkey.url.",
    ),
    "NoPermissionError": (
        "does not let this user ask",
        "Let the user of event_log.valkey.url read and write the keys of event_log.valkey.prefix.",
    ),
    "NoPrimary": (
        "has no primary that a Sentinel, or a node of its cluster, knows",
        "Start these, or mend their addresses, and the Sentinels' service, in event_log.valkey.url.",
    ),
    "NotLetIn": (
        "is behind Sentinels, or nodes of a cluster, that do not take the login, or want one",
        "In event_log.valkey.url mend sentinel_username and sentinel_password; of a cluster, USER:PASSWORD@.",
    ),
    "BusyLoadingError": ("is still loading its data", "Wait, and look again."),
}
"""By the class of the client's error."""
_AWAY = (
    "does not answer: {why}",
    "Start it, or mend event_log.valkey.url: until it answers, each process knows its own runs alone.",
)


async def look(
    url: str,
    *,
    strict: bool,
    ca_file: Path | None = None,
    prefix: str = "",
    shard: str = "",
    setting: str = "url",
) -> list[Diagnosis]:
    """Ask the store what it is, and what it does when its memory is full.

    Args:
        url: may hold a password, which no finding has.
        strict: see `tls.strict`.
        ca_file: see `event_log.valkey.ca_file`.
        prefix: start of the keys' names, whose node is asked in a cluster; as by default, if empty.
        shard: its name, if the store has several.
        setting: of `event_log.valkey`, where the address is.
    """
    found = await _found(url, strict, ca_file, prefix or key_prefix(url, "headgate"))
    return [
        replace(
            each,
            check=each.check.replace(CHECK, f"{CHECK} {shard}", 1) if shard else each.check,
            advice=each.advice.replace("valkey.url", f"valkey.{setting}"),
        )
        for each in found
    ]


async def _found(url: str, strict: bool, ca_file: Path | None, prefix: str) -> list[Diagnosis]:
    link = Link(url, Health(), (), WITHIN_S, strict_tls=strict, ca_file=ca_file, prefix=prefix)
    try:
        [_, about] = await link.call(("PING",), ("INFO",), probe=True)
        found = _info(about)
        policy = await _policy(link)
    except StoreDown as exc:
        seen, advice = _REASONS.get(str(exc), _AWAY)
        return [fail(CHECK, seen.format(why=exc), advice), skipped(EVICTION, "no answer")]
    finally:
        await link.aclose()
    return [
        served(found, in_cluster=is_cluster(url)),
        evicting(policy or found.get("maxmemory_policy"), found.get("maxmemory")),
    ]


async def _policy(link: Link) -> str | None:
    """None: the store does not say; managed ones often forbid to ask."""
    try:
        async with asyncio.timeout(WITHIN_S):
            [said] = await link.call(("CONFIG", "GET", "maxmemory-policy"), probe=True)
    except (StoreDown, TimeoutError):
        return None
    return said[1].decode() if isinstance(said, list) and len(said) == 2 else None


def _info(said: object) -> Mapping[str, str]:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else ""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


def served(found: Mapping[str, str], *, in_cluster: bool = False) -> Diagnosis:
    """By what `INFO` says; `in_cluster`, if the settings say that it is one's node."""
    version = found.get("valkey_version") or found.get("redis_version", "")
    if found.get("role") == "slave":
        return fail(CHECK, "is a replica, which takes no writes", "Set event_log.valkey.url to the primary.")
    if found.get("cluster_enabled") == "1" and not in_cluster:
        return fail(CHECK, "is a cluster", "Say so: event_log.valkey.url is redis+cluster://HOST:PORT then.")
    numbers = found.get("redis_version", "").split(".")
    is_known = len(numbers) > 1 and all(part.isdigit() for part in numbers[:2])
    if is_known and tuple(map(int, numbers[:2])) < OLDEST:
        return fail(CHECK, f"has the version {version}", "Use Valkey, or Redis 6.2 or later.")
    return ok(CHECK, f"answers, and takes the login{f'; version {version}' if version else ''}")


def evicting(policy: str | None, maxmemory: str | None) -> Diagnosis:
    if policy is None:
        return skipped(EVICTION, "the store does not say", "See that its maxmemory-policy is noeviction.")
    if policy == "noeviction":
        return ok(EVICTION, "noeviction")
    if maxmemory == "0":
        return ok(EVICTION, f"{policy}, and no limit of memory that it would keep")
    return warn(
        EVICTION,
        f"maxmemory-policy is {policy}: when memory is short, runs in flight go",
        "Set maxmemory-policy noeviction: Headgate's keys expire by themselves.",
    )
