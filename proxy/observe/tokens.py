"""Tokens of the model calls of runs, and their cost by the settings' prices. A list there bounds the
labels."""

from collections.abc import Iterable

from prometheus_client import Counter, Histogram

from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.upstream import OTHER_MODEL, ProviderSettings

TOKENS = tuple(4**exponent for exponent in range(14))
"""Buckets: those that OpenTelemetry recommends for `gen_ai.client.token.usage`."""

MILLION = 1_000_000


class TokenCounts:
    """The children of both metrics: of each route that taps, and each model of each provider."""

    def __init__(
        self,
        tokens: Histogram,
        cost: Counter,
        routes: Iterable[RouteSettings],
        providers: Iterable[ProviderSettings],
    ) -> None:
        self._tokens = {
            (route.name, provider.name, model, kind): tokens.labels(route.name, provider.name, model, kind)
            for route in routes
            if route.tap is not None
            for provider in providers
            for model in (OTHER_MODEL, *(each.name for each in provider.models))
            for kind in ("input", "output")
        }
        self._prices = {
            (provider.name, model.name): model.price
            for provider in providers
            for model in provider.models
            if model.price is not None
        }
        self._cost = {
            (route, provider, model): cost.labels(route, provider, model)
            for route, provider, model, kind in self._tokens
            if kind == "input" and (provider, model) in self._prices
        }

    def count(self, route: str, provider: str, model: str, read: int | None, written: int | None) -> None:
        """Count one answered call.

        Args:
            model: as the call names it.
            read: tokens of its input; None: not known.
            written: tokens of its output.
        """
        if (route, provider, model, "input") not in self._tokens:
            model = OTHER_MODEL
        for kind, number in (("input", read), ("output", written)):
            child = self._tokens.get((route, provider, model, kind))
            if child is not None and number is not None:
                child.observe(number)
        cost = self._cost.get((route, provider, model))
        if cost is not None and read is not None and written is not None:
            price = self._prices[provider, model]
            cost.inc((read * price.input + written * price.output) / MILLION)
