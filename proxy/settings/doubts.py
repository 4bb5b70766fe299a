"""Warnings about valid settings that nobody means: routes that would never stream, ports that collide.
Pure."""

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping

from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.values import PARAMETER, unix_path
from proxy.settings.routes import PathTemplate
from proxy.settings.settings import Settings

ANYWHERE = frozenset({"0.0.0.0", "::", "[::]"})

ANY_VALUE = "~headgate~"
"""A parameter's value that stands in no template, so that only a parameter matches it."""

_FOREIGN = re.compile(r"(?<=/)(:\w+|\*+[^/]*|<[^/]*>|\[[^/]*\])(?=/|$)")
"""A path segment that is a parameter in other routers, and a literal here."""


def doubts(settings: Settings, unknown_flags: Collection[str]) -> Iterator[str]:
    """One sentence for each, with the name of its setting.

    Args:
        settings: the whole file.
        unknown_flags: flags of its routes that the flag source does not have.
    """
    yield from _addresses(settings)
    yield from _flags(settings, unknown_flags)
    yield from _nobody(settings)
    yield from harms(settings)
    yield from _foreign_parameters(settings)
    yield from _shadowed(settings)
    yield from _untapped(settings)


def harms(settings: Settings) -> Iterator[str]:
    """Those of them by which one client can pass for another: the log says so, too."""
    yield from _everybody(settings)
    yield from _anybody(settings)


def _addresses(settings: Settings) -> Iterator[str]:
    ports = {"listen": settings.listen, "admin": settings.admin}
    if settings.llm is not None:
        ports["llm.listen"] = settings.llm.listen
    names = list(ports)
    for index, name in enumerate(names):
        for other in names[:index]:
            if _collide(ports[name], ports[other]):
                yield f"{name}: is the address of {other}: only one of them can listen there"


def _collide(one: str, other: str) -> bool:
    if unix_path(one) or unix_path(other):
        return one == other
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    same_host = host == other_host or bool({host, other_host} & ANYWHERE)
    return same_host and int(port) == int(other_port) != 0


def _flags(settings: Settings, unknown: Collection[str]) -> Iterator[str]:
    for index, route in enumerate(settings.routes):
        if route.flag in unknown:
            yield f"routes[{index}].flag: the flags have no '{route.flag}': this route would never stream"
        if route.flag == settings.flags.kill_flag:
            yield f"routes[{index}].flag: is flags.kill_flag: on, it turns everybody's stream off"


def _nobody(settings: Settings) -> Iterator[str]:
    identity = settings.identity
    if identity.jwt is None and identity.header is None and identity.cookie is None:
        yield "identity: has no way to find out who asks: nobody would ever get a stream"


def _everybody(settings: Settings) -> Iterator[str]:
    for index, network in enumerate(settings.trusted_proxies or ()):
        if network.endswith("/0"):
            yield f"trusted_proxies[{index}]: {network} is everybody: whoever connects can claim any address"


def _anybody(settings: Settings) -> Iterator[str]:
    if settings.trusted_proxies is not None or _is_near(settings.listen):
        return
    identity = settings.identity
    tenant = None if identity.tenant is None else identity.tenant.header
    for name, header in {"identity.header": identity.header, "identity.tenant.header": tenant}.items():
        if header is not None:
            yield (
                f"{name}: whoever reaches {settings.listen} is believed what it says in '{header}', and gets "
                "that user's texts: list the proxies in front in trusted_proxies"
            )


def _is_near(address: str) -> bool:
    """True if nobody can connect but processes of this machine."""
    if unix_path(address) is not None:
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _foreign_parameters(settings: Settings) -> Iterator[str]:
    for index, route in enumerate(settings.routes):
        for where, template in _templates(route).items():
            for found in _FOREIGN.findall(template):
                yield (
                    f"routes[{index}].{where}: '{found}' stands for itself alone: a parameter is written "
                    "{name}, and stands for one segment"
                )


def _templates(route: RouteSettings) -> Mapping[str, str]:
    """A route's path templates, by the names of their settings."""
    found = {"match": route.match, "stream_path": route.stream_path}
    found["poll.path"] = route.poll.path if route.poll else None
    found["native.request"] = route.native.request if route.native else None
    found["job.path"] = route.job.path if route.job else None
    found["job.result_path"] = route.job.result_path if route.job else None
    for index, call in enumerate(route.stages.calls if route.stages else ()):
        found[f"stages.calls[{index}].request"] = call.request
    return {where: template for where, template in found.items() if template is not None}


def _shadowed(settings: Settings) -> Iterator[str]:
    """Templates that are never reached, because an earlier one matches all of their requests."""
    earlier: list[tuple[str, str, str]] = []
    for index, route in enumerate(settings.routes):
        method, _, path = route.match.partition(" ")
        own = [(f"routes[{index}].match", method, path)]
        if route.stream_path is not None:
            own.append((f"routes[{index}].stream_path", "GET", route.stream_path))
        for where, method, path in own:
            if shadow := next((w for w, m, p in earlier if m == method and _covers(p, path)), None):
                yield f"{where}: is never reached: {shadow} stands earlier and fits all that it does"
            earlier.append((where, method, path))


def _covers(template: str, other: str) -> bool:
    return re.fullmatch(PathTemplate(template).pattern(), PARAMETER.sub(ANY_VALUE, other)) is not None


def _untapped(settings: Settings) -> Iterator[str]:
    if settings.llm is None or any(route.tap is not None for route in settings.routes):
        return
    for index, provider in enumerate(settings.llm.providers):
        yield f"llm.providers[{index}]: no route taps '{provider.name}': its calls would show nobody anything"
