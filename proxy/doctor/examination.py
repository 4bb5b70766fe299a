"""The checks in their order: first those that cost nothing, then those that the command line names."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flags.egress import Egress
from proxy.doctor import flag_server, prometheus, providers, store, upstream
from proxy.doctor.findings.diagnosis import Diagnosis, skipped
from proxy.doctor.one_request import buffering, tracing
from proxy.doctor.one_request.real_request import RealRequest
from proxy.outbound import egress, upstream_origin
from proxy.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class Wishes:
    """The checks that were asked for beside those that cost nothing."""

    models: Mapping[str, str] = field(default_factory=dict)
    """Models that are called, by the names of their providers."""
    model_key: str = field(default="", repr=False)
    """The credential for that."""
    prometheus: str = ""
    """Its address; "" for none."""
    requests: Sequence[RealRequest] = ()
    """Real requests, each of which is sent once, and once more if there are `addresses`."""
    addresses: Sequence[str] = ()
    """Origins under which Headgate is reached, the nearest first: a stream through each is compared."""
    wait_s: float = 180.0
    """The most seconds for the answer to such a request."""


async def examine(settings: Settings, wishes: Wishes, tell: Callable[[Diagnosis], None]) -> list[Diagnosis]:
    """Every finding, each told as soon as it is there."""
    found: list[Diagnosis] = []

    def note(findings: Sequence[Diagnosis]) -> None:
        for finding in findings:
            found.append(finding)
            tell(finding)

    strict = settings.tls.strict
    ways, to = egress(settings), upstream_origin(settings)
    findings, _ = await upstream.look(to.url, to)
    note(findings)
    note(await _flags(settings, ways))
    note(await _store(settings))
    for provider in settings.llm.providers if settings.llm else ():
        note([await providers.reach(provider, ways, strict=strict)])
        if provider.name in wishes.models:
            model = wishes.models[provider.name]
            note([await providers.compare(provider, ways, model, wishes.model_key, strict=strict)])
    note([await _prometheus(settings, ways, wishes)])
    for request in wishes.requests:
        note(await tracing.look(settings, request, to, ways, wishes.wait_s))
    if wishes.addresses:
        note(await _stream(settings, wishes))
    return found


async def _stream(settings: Settings, wishes: Wishes) -> list[Diagnosis]:
    if settings.tls.client_ca is not None:
        return [
            skipped(buffering.CHECK, "tls.client_ca is set: a client needs a certificate, and this has none")
        ]
    return await buffering.look(
        settings.listen,
        wishes.addresses,
        wishes.requests[0],
        strict=settings.tls.strict,
        wait_s=wishes.wait_s,
        speaks_tls=settings.tls.cert is not None,
    )


async def _flags(settings: Settings, ways: Egress) -> list[Diagnosis]:
    chosen = settings.flags
    wanted = {route.flag for route in settings.routes} | {chosen.kill_flag}
    if chosen.unleash is not None:
        return await flag_server.look_at_server(chosen.unleash, wanted, ways, strict=settings.tls.strict)
    assert chosen.file is not None  # the settings have one of them
    return [flag_server.look_at_file(chosen.file, wanted)]


async def _store(settings: Settings) -> list[Diagnosis]:
    chosen = settings.event_log.valkey
    if chosen is None:
        return [skipped(store.CHECK, "event_log.valkey is not set: each process knows its own runs alone")]
    looks = [
        store.look(
            place.url,
            strict=settings.tls.strict,
            ca_file=chosen.ca_file,
            prefix=place.prefix,
            shard=place.name,
            setting="url" if chosen.url is not None else f"shards.{place.name}",
        )
        for place in chosen.places
    ]
    return [found for each in await asyncio.gather(*looks) for found in each]


async def _prometheus(settings: Settings, ways: Egress, wishes: Wishes) -> Diagnosis:
    if not wishes.prometheus:
        return skipped(prometheus.CHECK, "not asked", "--prometheus URL asks whether it has the series.")
    names = [route.name for route in settings.routes]
    return await prometheus.look(wishes.prometheus, names, ways, settings.tls.ca_file)
