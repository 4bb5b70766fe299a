"""The modules that only some settings need, imported before a process forks."""

from collections.abc import Callable
from importlib import import_module

from proxy.settings.settings import Settings

OPTIONAL: dict[str, Callable[[Settings], object]] = {
    "flags.sources.unleash": lambda settings: settings.flags.unleash,
    "httpx": lambda settings: settings.identity.jwt is not None and settings.identity.jwt.jwks_url,
    "jwt": lambda settings: settings.identity.jwt is not None and settings.identity.jwt.verifies,
    "proxy.observe.page.rollout": lambda settings: settings.controller,
    "proxy.observe.spans.otlp": lambda settings: settings.traces,
    "proxy.replicas.histories.shared_histories": lambda settings: settings.event_log.valkey,
    "proxy.replicas.sharded_runs": lambda settings: settings.event_log.valkey,
}
"""Modules that only some settings need, and what needs them. What they bring along would be most of what a
process loads."""


def load_optional(settings: Settings) -> None:
    """Import what these settings need, before the process forks: the memory is then its workers' as well."""
    for module, needs in OPTIONAL.items():
        if needs(settings):
            import_module(module)
