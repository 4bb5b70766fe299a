"""The source of flags: is it there, does it take the token, has it the routes' flags? Registers nothing."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flags.egress import Egress
from proxy.doctor.findings.asking import NoAnswer, Reply, ask, client, trusting
from proxy.doctor.findings.clock import clock
from proxy.doctor.findings.diagnosis import Diagnosis, fail, ok, skipped, warn
from proxy.settings.blocks.flags import UnleashSettings

CHECK = "flags"
CLOCK = "flag server clock"

MAX_SCOPE_CHARS = 100


async def look_at_server(
    settings: UnleashSettings, wanted: Collection[str], ways: Egress, *, strict: bool
) -> list[Diagnosis]:
    """Ask the server once for its flags.

    Args:
        wanted: the flags of the routes, and the kill flag.
        ways: to it, straight or through a proxy.
        strict: see `tls.strict`.
    """
    token = settings.token.get_secret_value()
    tls = trusting(settings.ca_file, strict=strict) if settings.url.startswith("https:") else None
    try:
        async with client(tls, ways.proxy_for(settings.url)) as asking:
            url = f"{settings.url}/api/client/features"
            headers = (("authorization", token), ("unleash-appname", f"{settings.app_name}-doctor"))
            reply = await ask(asking, url, headers=headers, within_s=settings.timeout_s)
    except NoAnswer as exc:
        advice = "Mend flags.unleash.url or the way there: until it answers, everybody gets batch."
        return [
            fail(CHECK, f"Unleash does not answer{ways.through(settings.url)}: {exc}", advice),
            skipped(CLOCK, "no answer"),
        ]
    return [served(reply, scope(token), wanted), clock(CLOCK, reply)]


def scope(token: str) -> str:
    """A token's scope, which is its part before the secret; "" if it names none."""
    before, dot, _ = token.rpartition(".")
    project, colon, environment = before.partition(":")
    if not (dot and colon) or len(before) > MAX_SCOPE_CHARS:
        return ""
    return f"project {'any' if project in {'*', '[]'} else project}, environment {environment}"


def served(reply: Reply, for_what: str, wanted: Collection[str]) -> Diagnosis:
    of_token = f" (token: {for_what})" if for_what else ""
    if reply.status in {401, 403}:
        return fail(
            CHECK,
            f"Unleash refuses the token: {reply.status}{of_token}",
            "Set flags.unleash.token to a backend (client) token of this environment; a frontend or personal "
            "token is refused.",
        )
    names = _names(reply.body) if reply.status == 200 else None
    if names is None:
        return fail(
            CHECK,
            f"the server answers {reply.status}, and no flags",
            "Set flags.unleash.url to the address that Unleash's own page has, without /api.",
        )
    make = "Make the flag, or use a token of its project and environment"
    return _found(names, wanted, f"Unleash serves {len(names)} flags{of_token}", make)


def look_at_file(path: Path, wanted: Collection[str]) -> Diagnosis:
    try:
        names = _names(path.read_bytes())
    except OSError as exc:
        names, why = None, f"cannot be read: {exc.strerror}"
    else:
        why = "is no client-features JSON of Unleash's"
    if names is None:
        return fail(
            CHECK, f"flags.file {why}", "`headgate check` says where; a broken file streams to nobody."
        )
    return _found(names, wanted, f"the file has {len(names)} flags", "Add the flag to the file")


def _found(names: Collection[str], wanted: Collection[str], seen: str, make: str) -> Diagnosis:
    missing = sorted(set(wanted) - set(names))
    if not missing:
        return ok(CHECK, seen)
    advice = f"{make}: a flag that is missing is off."
    return warn(CHECK, f"{seen}; it has no {', '.join(missing)}", advice)


def _names(body: bytes) -> set[str] | None:
    try:
        document: Any = json.loads(body)
        return {str(feature["name"]) for feature in document["features"]}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
