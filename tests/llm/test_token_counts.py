"""Tokens of the model calls of runs, and what they cost: by route, provider and model, each call once."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from proxy.llm.assembly.dialect import Dialect
from proxy.llm.dialects.anthropic import Anthropic
from proxy.llm.dialects.bedrock import Converse, InvokeModel
from proxy.llm.dialects.cohere import Cohere
from proxy.llm.dialects.gemini.calls import Gemini
from proxy.llm.dialects.ollama import Ollama
from proxy.llm.dialects.openai.calls import OpenAI
from proxy.llm.dialects.openai.responses import Responses
from proxy.observe.metrics import Metrics
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.upstream import ProviderSettings
from tests.llm.test_model_port import cutting
from tests.servers.client import EITHER, browser, eventually, read, scrape, signed
from tests.servers.serving import Serving, flag_document
from tests.servers.streaming import START, route
from tests.servers.tapping import USAGE, Backend, Provider, tapped, tapped_route

READ, WRITTEN = USAGE["prompt_tokens"], USAGE["completion_tokens"]
PRICED = {"models": [{"name": "m", "price": {"input": 3, "output": 10}}]}
COST = (READ * 3 + WRITTEN * 10) / 1_000_000


@pytest.mark.parametrize(
    ("dialect", "answer", "expected"),
    [
        (OpenAI(), {"usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}, (5, 7)),
        (Responses(), {"usage": {"input_tokens": 5, "output_tokens": 7}}, (5, 7)),
        (Anthropic(), {"usage": {"input_tokens": 5, "output_tokens": 7}}, (5, 7)),
        (
            Anthropic(),
            {"usage": {"input_tokens": 1, "cache_creation_input_tokens": 3, "cache_read_input_tokens": None}}
            | {"stop_reason": "end_turn"},
            (4, None),
        ),
        (
            Cohere(),
            {"usage": {"billed_units": {}, "tokens": {"input_tokens": 5, "output_tokens": 7}}},
            (5, 7),
        ),
        (
            Converse(),
            {"usage": {"inputTokens": 2, "outputTokens": 7, "totalTokens": 9, "cacheReadInputTokens": 3}},
            (5, 7),
        ),
        (InvokeModel(), {"usage": {"input_tokens": 5, "output_tokens": 7}}, (5, 7)),
        (Ollama(), {"prompt_eval_count": 5, "eval_count": 7}, (5, 7)),
        (Ollama(), {"eval_count": 7}, (None, 7)),
        (
            Gemini(),
            {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 4}},
            (5, 7),
        ),
        (OpenAI(), {"usage": {"prompt_tokens": "5", "completion_tokens": True}}, (None, None)),
        (OpenAI(), {"usage": None}, (None, None)),
        (OpenAI(), {"usage": {"prompt_tokens": -1, "completion_tokens": 2.5}}, (None, None)),
        (OpenAI(), {"usage": {"prompt_tokens": 10**400, "completion_tokens": 2 * 10**9}}, (None, None)),
        (OpenAI(), [], (None, None)),
    ],
)
def test_each_dialect_says_what_was_used(dialect: Dialect, answer: Any, expected: tuple[Any, Any]) -> None:
    """Tokens from a cache count as read, and tokens of thinking as written."""
    assert dialect.usage.read(answer) == expected


async def used(client: Any, serving: Serving, **labels: str) -> dict[str, float]:
    """Calls, tokens of both types and cost, of the samples with these labels."""
    samples = await scrape(client, serving.admin_url)
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    found = {name: value for name, value in samples.items() if all(label in name for label in wanted)}

    def total(begin: str, label: str = "") -> float:
        return sum(value for name, value in found.items() if name.startswith(begin) and label in name)

    return {
        "calls": total("headgate_tap_tokens_count", 'type="output"'),
        "read": total("headgate_tap_tokens_sum", 'type="input"'),
        "written": total("headgate_tap_tokens_sum", 'type="output"'),
        "cost": round(total("headgate_tap_cost_total"), 12),
    }


def calls(number: int, priced: bool = True) -> dict[str, float]:
    cost = round(number * COST, 12) if priced else 0
    return {"calls": number, "read": number * READ, "written": number * WRITTEN, "cost": cost}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"backend": Backend(more={"store": True})},
        {"backend": Backend(stream=True)},
        {"stream": cutting(5)},
        {"flags": flag_document(variants=[{"name": "dark", "weight": 1000}])},
    ],
    ids=["streamed", "relayed as batch", "the backend's own stream", "asked again", "in the dark"],
)
async def test_each_answered_call_counts_once(tmp_path: Path, more: dict[str, Any]) -> None:
    """The answer that its backend got is what counts."""
    more = dict(more)
    backend, provider = more.pop("backend", None), Provider(stream=more.pop("stream", None))
    async with tapped(tmp_path, provider, backend, llm={"provider": PRICED}, **more) as (serving, _, client):
        assert await used(client, serving) == calls(0)
        await read(client, START, signed(accept=EITHER))

        async def both_are_counted() -> bool:
            return await used(client, serving, route="start", provider="models", model="m") == calls(2)

        await eventually(both_are_counted)
        assert await used(client, serving, model="other") == calls(0)


async def test_a_model_that_is_not_in_the_list_is_another(tmp_path: Path) -> None:
    """So a client cannot make labels. Without a price there is no cost."""
    backend = Backend(more={"model": "m-of-my-own"})
    async with tapped(tmp_path, Provider(), backend, llm={"provider": PRICED}) as (serving, _, client):
        await read(client, START, signed())

        async def both_are_counted() -> bool:
            return await used(client, serving, model="other") == calls(2, priced=False)

        await eventually(both_are_counted)
        samples = await scrape(client, serving.admin_url)

    assert not [name for name in samples if "of-my-own" in name]


async def test_calls_of_no_run_are_not_counted(tmp_path: Path) -> None:
    """They pass untouched, and are not read."""
    async with tapped(tmp_path, Provider(), llm={"provider": PRICED}) as (serving, _, client):
        async with browser(serving.model_url) as direct:
            body = {"model": "m", "messages": [{"role": "user", "content": "summary"}]}
            (await direct.post("/models/v1/chat/completions", json=body)).raise_for_status()
        assert await used(client, serving) == calls(0)


def test_the_settings_bound_the_labels() -> None:
    """Of each route that taps: the models of each provider, and one for all others."""
    registry = CollectorRegistry()
    routes = [RouteSettings.model_validate(made) for made in (tapped_route(), route(name="batch"))]
    providers = [
        ProviderSettings.model_validate({"name": "a", "url": "http://a", **PRICED}),
        ProviderSettings.model_validate({"name": "b", "url": "http://b"}),
    ]
    metrics = Metrics(registry, routes, 0.0, providers)
    metrics.tokens.count("start", "a", "x", 1, 2)
    metrics.tokens.count("batch", "a", "m", 1, 2)
    metrics.tokens.count("start", "none", "m", 1, 2)
    samples = [sample for family in registry.collect() for sample in family.samples]

    tokens = {tuple(s.labels.values()) for s in samples if s.name == "headgate_tap_tokens_count"}
    models = [("a", "other"), ("a", "m"), ("b", "other")]
    assert tokens == {("start", *each, kind) for each in models for kind in ("input", "output")}
    assert [s.labels for s in samples if s.name == "headgate_tap_cost_total"] == [
        {"route": "start", "provider": "a", "model": "m"}
    ]


@pytest.mark.parametrize("names", [["m", "m"], ["other"]])
def test_models_have_names_of_their_own(names: list[str]) -> None:
    """Two that share a label would be one."""
    with pytest.raises(ValueError, match="two have the same name, or one has the name 'other'"):
        ProviderSettings.model_validate(
            {"name": "a", "url": "http://a", "models": [{"name": name} for name in names]}
        )
