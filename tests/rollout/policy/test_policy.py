"""`rollout.yaml`, as somebody who writes one meets it."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from flags.errors import PolicyError
from flags.rollout.evidence.readings import LABELS, Wanted
from flags.rollout.policy.file import MAX_BYTES, load
from flags.rollout.policy.guardrail_settings import FIRST_CONTENT_S, REQUEST_S
from flags.rollout.policy.guardrails import (
    Action,
    Ceiling,
    EarlyGuard,
    ErrorBudget,
    Exposure,
    RateRatio,
    SampleRatio,
    UsualTime,
    ZeroTolerance,
)
from flags.rollout.policy.policy import Policy
from proxy.observe import metrics
from proxy.text.sections import Parity

SECRET = "s3cr3t-value"
DIGEST_BEFORE = "351ae3ae6ae32fbcfb71f92b49f88cbcf91188a7750f0fd0eaf13a815c9b8e9f"
"""Of the minimal policy, by a release that did not know the guardrail `usual`."""
STEPS = [
    {"share": 0, "at_least": "1h"},
    {"share": 1, "at_least": "24h", "prove": False, "approve": True},
    {"share": 5, "at_least": "24h", "at_most": "7d"},
    {"share": 95, "at_least": "10m"},
]


def minimal(**more: Any) -> dict[str, Any]:
    return {
        "flag": "headgate.streaming",
        "routes": ["workflow-start"],
        "where": {"file": "flags.json"},
        "evidence": {"prometheus": {"url": "http://prometheus:9090", "selector": 'job="headgate"'}},
        "journal": "rollout.sqlite",
        "lease": {"file": "rollout.lock"},
        "steps": STEPS,
        **more,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollout.yaml"


def loaded(path: Path, document: Any) -> Policy:
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return load(path)


def problems(path: Path, document: Any) -> list[str]:
    with pytest.raises(PolicyError) as refused:
        loaded(path, document)
    return refused.value.problems


def test_the_minimal_policy_works(path: Path) -> None:
    """The flag, its routes, where things are, and the steps: all else has a default."""
    policy = loaded(path, minimal())

    assert (policy.kill_flag, policy.project, policy.environment) == (
        "headgate.kill",
        "default",
        "production",
    )
    assert (policy.group_id, policy.stickiness, policy.mode) == ("headgate.streaming", "userId", "auto")
    assert policy.where.file == path.parent / "flags.json"
    assert policy.journal == path.parent / "rollout.sqlite"
    assert (policy.tick_s, policy.stale_after_s, policy.page_after_s) == (60, 180, 900)
    assert policy.wanted() == Wanted(frozenset({"workflow-start"}), frozenset({120.0}), frozenset({5.0}))


def test_steps_become_exposures(path: Path) -> None:
    """The verdict reads them so; durations are durations."""
    policy = loaded(path, minimal(steps=[{"share": 5, "at_least": "90s", "min_users": 3, "min_samples": 9}]))

    assert policy.exposures() == (Exposure(5, 3, 9, at_least_s=90.0),)
    assert policy.steps[0].at_least == timedelta(seconds=90)


def test_the_dark_step_is_written_with_the_next_share(path: Path) -> None:
    """Its users are those who will be first to see the stream; what nobody sees need not be proved."""
    policy = loaded(path, minimal())

    assert [step.share_written(policy) for step in policy.steps] == [1, 1, 5, 95]
    assert [step.prove for step in policy.steps] == [False, False, True, True]
    assert [step.approve for step in policy.steps] == [False, True, False, False]


def test_a_default_set_of_guardrails_is_in_force(path: Path) -> None:
    """A policy that names no guardrails has all of them."""
    policy = loaded(path, minimal())

    assert policy.guardrail_values() == (
        RateRatio("errors", 0.5),
        RateRatio("slow", 0.2, limit_s=120),
        Ceiling("first_content", 0.1, "first_content", at=0.05, harm=0.15, limit_s=5),
        Ceiling("fallback", 0.1, "fallback", at=0.02, harm=0.06),
        Ceiling("recovery", 0.1, "unrecovered", at=0.05, harm=0.2),
        ZeroTolerance("parity", frozenset({"missing"})),
        EarlyGuard("early", min_users=3),
        SampleRatio("sample_ratio"),
    )
    assert policy.budget_value() == ErrorBudget()


def test_each_guardrail_may_be_changed(path: Path) -> None:
    """By name, and only in what is named."""
    changed = {
        "errors": {"margin": 1.1, "harm": 3, "action": "hold"},
        "slow": {"limit_s": 60},
        "parity": {"results": ["missing", "replaced"]},
        "early": {"rate": 0.01, "of": 50},
    }
    policy = loaded(path, minimal(guardrails=changed, budget={"missed": 0.01}))

    by_name = {guardrail.name: guardrail for guardrail in policy.guardrail_values()}
    assert by_name["errors"] == RateRatio("errors", 0.5, margin=1.1, harm=3, action=Action.HOLD)
    assert by_name["slow"] == RateRatio("slow", 0.2, limit_s=60)
    assert by_name["parity"] == ZeroTolerance("parity", frozenset({"missing", "replaced"}))
    assert by_name["early"] == EarlyGuard("early", 0.01, 50, min_users=3)
    assert policy.budget_value() == replace(ErrorBudget(), missed=0.01)


def test_the_usual_time_is_a_guardrail_where_the_policy_names_it(path: Path) -> None:
    """It takes its part of the error budget from the others."""
    policy = loaded(path, minimal(guardrails={"usual": {}}))

    by_name = {guardrail.name: guardrail for guardrail in policy.guardrail_values()}
    assert by_name["usual"] == UsualTime("usual", pytest.approx(10 / 110))  # type: ignore[arg-type]
    assert sum(policy.guardrails.weights().values()) == pytest.approx(1)
    assert "usual" not in loaded(path, minimal()).guardrails.weights()


def test_a_guardrail_is_turned_off_with_a_reason_only(path: Path) -> None:
    """Its part of the error budget goes to the others."""
    policy = loaded(path, minimal(guardrails={"errors": {"weight": 0.8}, "fallback": {"disabled": "known"}}))

    weights = policy.guardrails.weights()
    assert weights == pytest.approx({"errors": 0.8, "slow": 0.1, "first_content": 0.05, "recovery": 0.05})
    assert "fallback" not in {guardrail.name for guardrail in policy.guardrail_values()}
    assert problems(path, minimal(guardrails={"fallback": {"disabled": ""}})) == [
        "guardrails.fallback.disabled: string should have at least 1 character"
    ]


@pytest.mark.parametrize(
    ("guardrails", "said"),
    [
        ({"errors": {"weight": 0.9}, "slow": {"weight": 0.1}}, "leaves nothing for `first_content`"),
        (
            {name: {"weight": 0.3} for name in ("errors", "slow", "first_content", "fallback", "recovery")},
            "add up to 1.5: make it 1",
        ),
        ({"errors": {"disabled": "x"}, "slow": {"disabled": "x"}}, "leave `errors` or `slow` in force"),
    ],
)
def test_weights_that_cannot_be_are_refused(path: Path, guardrails: dict[str, Any], said: str) -> None:
    """They are parts of one budget; and without a comparison of the arms nothing is proved."""
    [problem] = problems(path, minimal(guardrails=guardrails))

    assert problem.startswith("guardrails: ")
    assert said in problem


def test_every_problem_is_told_at_once(path: Path) -> None:
    """Each with its place and the mend, also those of parts that depend on each other."""
    document = minimal(
        kill_flag="headgate.streaming",
        stickiness="sessionId",
        routes=["start", "start"],
        where={"file": "f", "unleash": {"url": "unleash", "token": "${NOT_SET}"}},
        evidence={},
        page_after_s=60,
        hold_back=10,
        guardrails={"slow": {"limit_s": 100, "margin": 3}, "paritty": {}},
        budget={"roll_back": 0.2},
        freeze={"zone": "Berlin", "windows": [{"from": 900}, {"dates": ["2026-02-30"]}, {}]},
        notify={"webhook": f"no url {SECRET}"},
    )
    del document["journal"]

    found = problems(path, document)

    assert found == [
        "where.unleash.token: the environment variable NOT_SET is not set",
        "kill_flag: must not be `flag` itself: on, it turns everybody's stream off",
        "stickiness: must be userId: by anything else the same person would change arms between requests",
        "where.unleash.url: must be a URL with http or https, for example http://prometheus:9090",
        "journal: is needed",
        "routes: names start twice",
        "evidence: must have exactly one of `prometheus`, `pages`",
        "page_after_s: must be at least `stale_after_s`: before that nothing is known to be missing",
        "hold_back: must leave so many: end the steps at 90, and not at 95",
        "guardrails.slow.harm: must be over `margin`: between the two nothing is claimed",
        "guardrails.slow.limit_s: must be an edge of the histogram: "
        "0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90, 120, 300",
        "guardrails.paritty: unknown name; did you mean `parity`?",
        "budget.hold: must be at least `roll_back`: holding is the milder of the two and comes first",
        "freeze.zone: must be an IANA time zone, for example Europe/Berlin or UTC",
        'freeze.windows[0].from: must be a time of day in quotes, "00:00" to "24:00"',
        "freeze.windows[1].dates[0]: must be a date, for example 2026-12-20",
        "freeze.windows[2]: must say when: `days`, `dates`, or `from` and `to`",
        "notify.webhook: must be a URL with http or https",
    ]
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "steps: tuple should have at least 1 item"),
        ([{"share": 0, "at_least": "1h"}], "steps: must have a step after the dark one"),
        ([STEPS[2], STEPS[0]], "steps: must have shares that grow, and are 5, 0"),
        ([STEPS[2], dict(STEPS[2])], "steps: must have shares that grow, and are 5, 5"),
        ([{"share": 12.5, "at_least": "1h"}], "steps[0].share: must be a valid integer"),
        ([{"share": True, "at_least": "1h"}], "steps[0].share: must be a valid integer"),
        ([{"share": 101, "at_least": "1h"}], "steps[0].share: must be less than or equal to 100"),
        ([{"share": 5, "at_least": 60}], "steps[0].at_least: must be a whole number with its unit"),
        ([{"share": 5, "at_least": "0s"}], "steps[0].at_least: must be a whole number with its unit"),
        ([{"share": 5, "at_least": "400d"}], "steps[0].at_least: must be at most 366d"),
        ([{"share": 5, "at_least": "1h", "at_most": "60m"}], "steps[0].at_most: must be longer"),
        ([{"share": 5, "at_least": "1h", "prove": False}], "steps[0].approve: must be true where"),
        ([{"share": 5}], "steps[0].at_least: is needed"),
        ([5], "steps[0]: must be a block of names"),
    ],
)
def test_steps_that_cannot_be_are_refused(path: Path, steps: Any, said: str) -> None:
    """Shares are whole, since Unleash enables nobody for others; and nobody is exposed by time alone."""
    [problem] = problems(path, minimal(steps=steps))

    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"selector": "{job='headgate'}"}, "evidence.prometheus.selector: must be label matchers"),
        ({"selector": 'job="a"} or vector(0'}, "evidence.prometheus.selector: must be label matchers"),
        ({"url": "http://user:pw@prometheus"}, "evidence.prometheus.url: must not carry credentials"),
        ({"url": "http://prometheus/?x=1"}, "evidence.prometheus.url: must have no query"),
        ({"timeout_s": True}, "evidence.prometheus.timeout_s: must be a valid number"),
        ({"timeout_s": float("nan")}, "evidence.prometheus.timeout_s: must be a finite number"),
        ({"token": f"{SECRET}\nX: y"}, "evidence.prometheus.token: must be printable ASCII in one line"),
    ],
)
def test_places_that_cannot_be_are_refused(path: Path, settings: dict[str, Any], said: str) -> None:
    """Text for a query or a header is checked here; no error repeats a secret."""
    prometheus = {"url": "http://prometheus:9090", "selector": 'job="headgate"', **settings}

    [problem] = problems(path, minimal(evidence={"prometheus": prometheus}))

    assert problem.startswith(said)
    assert SECRET not in problem


NIGHT = {"days": ["mon"]}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"flag": "a flag"}, "flag: must be 1 to 100 of letters"),
        ({"routes": ["Start it"]}, "routes[0]: must be a route's name in headgate.yaml"),
        ({"guardrails": {"fallback": {"at": 0.1}}}, "guardrails.fallback.harm: must be over `at`"),
        ({"notify": {"webhook": f"http://[{SECRET}"}}, "notify.webhook: must be a URL"),
        ({"notify": {"webhook": "http://h", "headers": {"a b": "c"}}}, "notify.headers: must have names of"),
        ({"evidence": {"pages": ["http://a", "http://a/"]}}, "evidence.pages: names http://a twice"),
        (
            {"lease": {"kubernetes": {"nam": "a", "namespace": "b", "name": "c"}}},
            "lease.kubernetes.nam: unknown",
        ),
        (
            {"freeze": {"zone": "UTC", "window": [], "windows": [NIGHT]}},
            "freeze.window: unknown name; did you mean",
        ),
        (
            {"freeze": {"zone": "UTC", "windows": [{"form": "08:00", "days": ["mon"]}]}},
            "did you mean `from`?",
        ),
        (
            {"freeze": {"zone": "UTC", "windows": [{"dates": ["2026-05-02", "2026-05-01"]}]}},
            "freeze.windows[0].dates: must be the first date, then the last",
        ),
        ({"mode": "dry-run"}, "mode: must be 'auto', 'observe' or 'hold-only'"),
    ],
)
def test_names_that_cannot_be_are_refused(path: Path, more: dict[str, Any], said: str) -> None:
    """Each with its place; of a name that is almost right, the right one."""
    [problem] = problems(path, minimal(**more))

    assert said in problem
    assert SECRET not in problem


@pytest.mark.parametrize("selector", ['job="a"', 'job=~"a|b" , pod!="x\\"y"', 'namespace!~"a{2}",job="b"'])
def test_selectors_are_label_matchers(path: Path, selector: str) -> None:
    """They stand so between the braces of a query."""
    prometheus = {"url": "http://prometheus:9090/base/", "selector": selector}

    found = loaded(path, minimal(evidence={"prometheus": prometheus})).evidence.prometheus

    assert found is not None
    assert (found.selector, found.url) == (selector, "http://prometheus:9090/base")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a mapping of names, and begin with `flag: …`"),
        ("- a", "must be a mapping of names, and begin with `flag: …`"),
        ("flag: a\nflag: b", "line 2: `flag` stands twice"),
        ("flag: a\non: b", "line 2: `on` is no text for YAML: put it in quotes"),
        ("flag: [", "line 1: expected the node content, but found '<stream end>'"),
        ("flag: !!python/object:os.system x", "line 1: could not determine a constructor for the tag"),
        ("flag: 2026-02-30", "is not YAML"),
        ("a: &a [*a]", "line 1: `*a` stands for another place: write it out"),
        ("a: " + "[" * 5000, "is not YAML"),
        ("x" * (MAX_BYTES + 1), f"is larger than {MAX_BYTES} bytes"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(path: Path, text: str, said: str) -> None:
    """With the line, where there is one."""
    assert problems(path, text)[0].startswith(said)


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    """It is not there, or no text."""
    with pytest.raises(PolicyError, match="cannot be read: No such file"):
        load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="is not UTF-8"):
        load(path)


def test_secrets_come_from_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are text, and never YAML; nothing shows them, and the digest does not know them."""
    where = {"unleash": {"url": "http://unleash:4242", "token": "${TOKEN}"}}
    notify = {"webhook": "http://hook/${TOKEN}", "headers": {"Authorization": "Bearer ${TOKEN}"}}
    monkeypatch.setenv("TOKEN", SECRET)
    first = loaded(path, minimal(where=where, notify=notify))
    monkeypatch.setenv("TOKEN", "another: [")
    second = loaded(path, minimal(where=where, notify=notify))

    assert first.where.unleash is not None
    assert second.where.unleash is not None
    assert first.where.unleash.token.get_secret_value() == SECRET
    assert second.where.unleash.token.get_secret_value() == "another: ["
    assert SECRET not in repr(first)
    assert first.digest == second.digest


@pytest.mark.parametrize("rail", ["errors", "slow"])
def test_harm_is_a_ratio_or_a_ratio_and_points(path: Path, rail: str) -> None:
    """The number alone stays what it was, for the digest too."""
    number = loaded(path, minimal(guardrails={rail: {"harm": 1.5}}))
    block = loaded(path, minimal(guardrails={rail: {"harm": {"ratio": 1.5, "or_points": 0.2}}}))
    default = loaded(path, minimal(guardrails={rail: {"harm": {"or_points": 0.2}}}))
    made = [
        next(each for each in policy.guardrail_values() if each.name == rail)
        for policy in (number, block, default)
    ]

    assert [(each.harm, each.or_points) for each in made if isinstance(each, RateRatio)] == [
        (1.5, None),
        (1.5, 0.2),
        (2.0, 0.2),
    ]
    assert number.model_dump()["guardrails"][rail]["harm"] == 1.5
    assert len({number.digest, block.digest, default.digest}) == 3


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (1, "harm: must be greater than 1"),
        ("2", "harm: must be a valid number"),
        ({"ratio": 1.2, "or_points": 0.2}, "harm: must have a `ratio` over `margin`"),
        ({"ratio": 1.5}, "harm.or_points: is needed"),
        ({"or_points": 0}, "harm.or_points: must be greater than 0"),
        ({"or_points": 51}, "harm.or_points: must be less than or equal to 50"),
        ({"or_points": 0.2, "rato": 2}, "harm.rato: unknown name; did you mean `ratio`?"),
    ],
)
def test_a_harm_that_cannot_be_is_refused(path: Path, harm: Any, said: str) -> None:
    """In one line each, with its place."""
    assert [
        problem.removeprefix("guardrails.errors.")[: len(said)]
        for problem in problems(path, minimal(guardrails={"errors": {"harm": harm}}))
    ] == [said]


def test_the_digest_is_that_of_what_the_policy_says(path: Path, tmp_path: Path) -> None:
    """Layout and place of the file change nothing; a changed number changes the digest."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    freeze = {"zone": "UTC", "windows": [{"dates": ["2026-05-01"]}]}
    dated = {"zone": "UTC", "windows": [{"dates": [date(2026, 5, 1)], "from": "0:00"}]}
    plain = loaded(path, minimal(freeze=freeze))
    spelled_out = loaded(
        elsewhere / "other.yaml", minimal(freeze=dated, tick_s=60.0, guardrails={"errors": {}})
    )
    changed = loaded(path, minimal(freeze=freeze, guardrails={"errors": {"margin": 1.3}}))

    assert plain.digest == spelled_out.digest != changed.digest
    assert len(plain.digest) == 64


def test_the_digest_outlives_an_upgrade(path: Path) -> None:
    """Else a rollout would hold under the next release, since its policy were another: what a release brings
    is no part of a policy that does not name it."""
    policy = loaded(path, minimal())

    assert policy.digest == DIGEST_BEFORE
    assert loaded(path, minimal(guardrails={"usual": {}})).digest != DIGEST_BEFORE


def test_who_is_exposed_first_again_is_said(path: Path) -> None:
    """The same users, or others by a group id of each rollout's own."""
    same = loaded(path, minimal())
    rotating = loaded(path, minimal(reexposure="rotate", group_id="salt"))

    assert (same.group_for("r2"), rotating.group_for("r2")) == ("headgate.streaming", "salt~r2")


def test_the_edges_are_those_of_the_proxies() -> None:
    """`flags` must not import `proxy`: that they agree is tested instead."""
    assert REQUEST_S == metrics.REQUEST_S
    assert FIRST_CONTENT_S == metrics.FIRST_CONTENT_S


def test_the_counters_are_those_of_the_proxies() -> None:
    """Their names and labels."""
    kept = vars(metrics.Metrics(CollectorRegistry(), [])).values()
    shown = {
        collector._name + suffix: collector._labelnames
        for collector in kept
        for kind, suffix in ((Counter, "_total"), (Histogram, "_bucket"), (Gauge, ""))
        if isinstance(collector, kind)
    }

    for metric, labels in LABELS.items():
        assert shown[metric] == tuple(label for label in labels if label != "le"), metric


@pytest.mark.parametrize("parity", Parity)
def test_every_result_of_parity_but_equal_may_be_intolerable(path: Path, parity: Parity) -> None:
    """To go back because a text is right would be odd."""
    document = minimal(guardrails={"parity": {"results": [parity.value]}})

    if parity is Parity.EQUAL:
        assert problems(path, document)[0].startswith("guardrails.parity.results[0]: must be")
    else:
        assert loaded(path, document).guardrails.parity.results == (parity.value,)
