"""A page's Content Security Policy: does it let a script of its own origin run, and by what? Pure.

Source: Content Security Policy Level 3, https://www.w3.org/TR/CSP3/
"""

import re
from collections.abc import Iterable

NONCE = re.compile(r"'nonce-([A-Za-z0-9+/_-]+={0,2})'", re.IGNORECASE)

SANDBOX = "sandbox"
SELF = "'self'"
STRICT_DYNAMIC = "'strict-dynamic'"


class Forbidden(Exception):
    """A policy does not let the script run, or not for certain."""


def nonce_for(policies: Iterable[str]) -> str:
    """Return the nonce that a script element needs to run under all of these policies; "" where it needs
    none.

    Args:
        policies: values of `Content-Security-Policy`, each of which may hold several, separated by commas.

    Raises:
        Forbidden: one of them names neither a nonce nor `'self'` for scripts, or forbids what they do.
    """
    nonces = {
        nonce
        for value in policies
        for policy in value.split(",")
        if (nonce := _nonce_of(_directives(policy))) is not None
    }
    needed = nonces - {""}
    if len(needed) > 1:
        raise Forbidden
    return needed.pop() if needed else ""


def _directives(policy: str) -> dict[str, list[str]]:
    """Directives by name; if one is there twice, the first counts (2.2.1)."""
    found: dict[str, list[str]] = {}
    for part in policy.split(";"):
        name, *values = part.split() or [""]
        if name:
            found.setdefault(name.lower(), values)
    return found


def _nonce_of(directives: dict[str, list[str]]) -> str | None:
    """None: it says nothing about scripts."""
    if SANDBOX in directives:
        raise Forbidden
    connections = _sources(directives, "connect-src", "default-src")
    if connections is not None and not {SELF, "*"} & set(_lower(connections)):
        raise Forbidden  # the script could read nothing
    scripts = _sources(directives, "script-src-elem", "script-src", "default-src")
    if scripts is None:
        return None
    for source in scripts:
        if found := NONCE.fullmatch(source):
            return found[1]
    if SELF not in _lower(scripts) or STRICT_DYNAMIC in _lower(scripts):
        raise Forbidden
    return ""


def _sources(directives: dict[str, list[str]], *names: str) -> list[str] | None:
    """The sources of the first of these directives that is there: each stands for those before it."""
    return next((directives[name] for name in names if name in directives), None)


def _lower(sources: list[str]) -> list[str]:
    return [source.lower() for source in sources]
