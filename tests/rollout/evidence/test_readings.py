"""Samples to readings, and readings to batches of evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from flags.errors import EvidenceError, InvalidReading, ReadingProblem
from flags.rollout.evidence.evidence import EXPECTED_UNITS, Batch, Tail
from flags.rollout.evidence.growth import between
from flags.rollout.evidence.readings import (
    CAPPED,
    EXPECTED,
    FIRST_CONTENT_S,
    OUTCOMES,
    PARITY,
    RECOVERIES,
    SETTLED_S,
    SLOWER,
    USERS,
    USERS_ALONE,
    USERS_GROUP,
    WEIGHED,
    WORSE,
    Reading,
    Sample,
    Series,
    Wanted,
    complete,
    gather,
)
from flags.rollout.evidence.watermark import from_bytes, to_bytes
from tests.rollout.evidence.counters import COMPLETE, FAILED, reading

WANTED = Wanted(frozenset({"start"}), frozenset({20.0}), frozenset({5.0}))


def sample(metric: str, value: float, instance: str = "a", **labels: str) -> Sample:
    return Sample(metric, instance, {"route": "start"} | labels, value)


def failed(value: float, instance: str = "a", **more: str) -> Sample:
    labels = {"arm": "stream", "bucket": "3", "outcome": "failed", **more}
    return sample(OUTCOMES, value, instance, **labels)


def test_a_clock_that_goes_back_gives_no_batch() -> None:
    """Nor does the same moment twice."""
    with pytest.raises(InvalidReading, match="the clock went back"):
        between(reading(60, {}), reading(60, {}), 0)


def test_a_whole_reading_becomes_a_batch() -> None:
    """Histograms as tails at the limits; the rest summed over what nobody asks for."""

    def page(times: int) -> list[Sample]:
        return [
            failed(times),
            sample(SETTLED_S, 3 * times, arm="stream", le="20"),
            sample(SETTLED_S, 0, arm="stream", le="10.0"),
            sample(SETTLED_S, 5 * times, arm="stream", le="+Inf"),
            sample(FIRST_CONTENT_S, 1 * times, source="tap", le="5.0"),
            sample(FIRST_CONTENT_S, 2 * times, source="tap", le="+Inf"),
            sample(FIRST_CONTENT_S, 0, source="poll", le="5.0"),
            sample(FIRST_CONTENT_S, 1 * times, source="poll", le="+Inf"),
            sample(RECOVERIES, times, fault="source_lost", result="recovered"),
            sample(RECOVERIES, times, fault="internal", result="recovered"),
            sample(RECOVERIES, times, fault="reset", result="failed"),
            sample(PARITY, times, result="missing"),
            sample(USERS, 7, arm="stream"),
            sample(USERS, 9, "b", arm="stream"),
            sample("headgate_viewers", 1),
            failed(9, route="another"),
            Sample(OUTCOMES, "a", {"route": "start", "arm": "rest", "bucket": "1", "outcome": "failed"}, 3),
        ]

    before, after = (gather(t, page(t), {"a": t, "b": t}, WANTED) for t in (1, 2))
    batch = between(before, complete(after, WANTED), 0)

    assert batch == Batch(
        since_s=1,
        until_s=2,
        step=0,
        outcomes={("stream", 3, "failed"): 1},
        seconds={("stream", 20.0): Tail(2, 5)},
        first_content={5.0: Tail(2, 3)},
        recoveries={"recovered": 2},
        parity={"missing": 1},
        users={"stream": 9},
    )


def test_a_plan_sees_everybody() -> None:
    """Outcomes and times also of the rest, whose users nobody counts; and of no other arm."""

    def page(times: int) -> list[Sample]:
        seconds = {"5.0": 1, "20": 3, "+Inf": 4}
        return [
            failed(times),
            failed(2 * times, arm="rest"),
            failed(3 * times, arm="other"),
            *(sample(SETTLED_S, n * times, arm="rest", le=le) for le, n in seconds.items()),
            sample(USERS, 7, arm="rest"),
        ]

    before, after = (gather(t, page(t), {"a": t}, WANTED) for t in (1, 2))
    batch = between(before, after, 0, rest_by_bucket=True)

    assert batch.outcomes == {("stream", 3, "failed"): 1, ("rest", 3, "failed"): 2}
    assert (batch.seconds, batch.users) == ({("rest", 20.0): Tail(1, 4)}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.5, 2.0**53])
def test_a_number_that_no_counter_can_have_is_refused(value: float) -> None:
    """The error names the series."""
    with pytest.raises(InvalidReading, match=r'headgate_outcomes_total\{instance="a",route="start"'):
        gather(0, [failed(value)], {"a": 0}, WANTED)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([failed(1, job="x"), failed(1, job="y")], "is there twice"),
        ([failed(1, bucket="sixteen")], "none of 0 to 15"),
        ([sample(SETTLED_S, 1, arm="stream", le="soon")], 'le="soon" is no number'),
    ],
)
def test_samples_that_contradict_are_refused(samples: Sequence[Sample], said: str) -> None:
    """A doubled series would count double; a label of another version means something else."""
    with pytest.raises(InvalidReading, match=said):
        gather(0, samples, {"a": 0}, WANTED)


def test_a_histogram_that_is_not_of_one_moment_is_refused() -> None:
    """More within the limit than there were at all."""
    before = gather(0, _histogram(1, 1), {"a": 0}, WANTED)
    after = gather(1, _histogram(4, 2), {"a": 1}, WANTED)

    with pytest.raises(InvalidReading, match="grew by more than its histogram"):
        between(before, after, 0)


def test_a_limit_that_one_proxy_does_not_know_is_not_counted_there() -> None:
    """In an upgrade: all of its answers would seem to be over a limit that it has no bucket for."""
    both = [*_histogram(0, 0), sample(SETTLED_S, 0, "old", arm="stream", le="+Inf")]
    later = [*_histogram(1, 3), sample(SETTLED_S, 8, "old", arm="stream", le="+Inf")]
    before, after = (gather(t, s, {"a": t, "old": t}, WANTED) for t, s in ((0, both), (1, later)))

    assert between(before, after, 0).seconds == {("stream", 20.0): Tail(2, 3)}


def test_a_limit_without_its_total_is_not_counted() -> None:
    """Without its total nobody knows how many there were."""
    before, after = (
        gather(t, [sample(SETTLED_S, 2 * t, arm="stream", le="20.0")], {"a": t}, WANTED) for t in (0, 1)
    )

    assert between(before, after, 0).seconds == {}


def _histogram(within: int, everything: int) -> list[Sample]:
    edges = {"20.0": within, "+Inf": everything}
    return [sample(SETTLED_S, n, arm="stream", le=edge) for edge, n in edges.items()]


def test_a_route_without_its_counters_is_no_data() -> None:
    """A name that matches nothing is not a route without failures."""
    with pytest.raises(EvidenceError) as refused:
        complete(gather(0, [failed(1)], {"a": 0}, WANTED), WANTED)

    assert refused.value.problem is ReadingProblem.NO_DATA
    assert "of the route start" in refused.value.sentence


def test_a_reading_that_was_stored_is_the_same_reading() -> None:
    """Bit for bit, whatever order its parts came in."""
    stored = Reading(
        1721.123456789,
        {
            Series(OUTCOMES, "b", FAILED): 2**53 - 1,
            Series(OUTCOMES, "b", COMPLETE): 7,
            Series(OUTCOMES, "a", COMPLETE): 0,
        },
        {"b": 0.1, "a": 1721.0},
        {"stream": 3},
        ("c",),
        started={"a": 1700.123456789},
        since_s=12.5,
    )
    turned = replace(stored, counters=dict(reversed(stored.counters.items())))

    assert from_bytes(to_bytes(stored)) == stored
    assert to_bytes(from_bytes(to_bytes(stored))) == to_bytes(turned) == to_bytes(stored)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"at_s": 1}', b'{"counters": {"a": 1}}', b"\xff"])
def test_what_was_stored_otherwise_is_refused(content: bytes) -> None:
    """A baseline that cannot be read is made anew, and not guessed."""
    with pytest.raises(InvalidReading, match="begin with a new one"):
        from_bytes(content)


def test_the_rest_is_counted_and_compared_with_nobody() -> None:
    """Its outcomes say what share of all is streamed; its users' buckets are of no use."""
    before, after = (
        gather(
            at_s,
            [
                sample(OUTCOMES, times, arm="rest", bucket="3", outcome="complete"),
                sample(OUTCOMES, times, arm="rest", bucket="9", outcome="complete"),
                sample(USERS, times, arm="rest"),
            ],
            {"a": at_s},
            WANTED,
        )
        for at_s, times in ((0.0, 1), (60.0, 3))
    )

    assert between(before, after, 1).outcomes == {("rest", 0, "complete"): 4}
    assert between(before, after, 1).users == {}


def expecting(page: Mapping[tuple[str, ...], int], expected: float | None) -> list[Sample]:
    """The samples of one page; None: its proxy is older, and expects nothing."""
    samples = [failed(n, outcome=labels[-1]) for labels, n in page.items()]
    if expected is not None:
        samples.append(sample(EXPECTED, expected, arm="stream", bucket="3"))
    return samples


def test_what_was_expected_comes_with_what_came() -> None:
    """Of parts of failures, as whole numbers of small units."""
    before = gather(0, expecting({FAILED: 1}, 0.5), {"a": 0.0}, WANTED)
    after = gather(60, expecting({FAILED: 3}, 1.25), {"a": 60.0}, WANTED)

    assert between(before, after, 0).expected == {("stream", 3): EXPECTED_UNITS * 3 // 4}


def test_where_one_proxy_expects_nothing_nothing_is_expected() -> None:
    """Its failures count, and what was expected of them is not known: that is not zero."""
    before = gather(0, expecting({FAILED: 1}, 0.5), {"a": 0.0}, WANTED)
    older = [failed(5, "b")]
    after = gather(60, [*expecting({FAILED: 3}, 1.25), *older], {"a": 60.0, "b": 60.0}, WANTED)

    assert between(before, after, 0).expected is None
    assert between(before, replace(after, counters=before.counters), 0).expected == {}


def test_what_users_add_comes_with_what_came() -> None:
    """Weighed failures in the same units, users who are worse in any arm, slow answers; and who counts."""

    def page(at_s: float, times: int, *older: Sample) -> Reading:
        samples = [
            failed(times),
            sample(WEIGHED, times * 0.75, arm="stream", bucket="3"),
            sample(WORSE, times, arm="rest", limit="7"),
            sample(WORSE, times, arm="rest", limit="of another release"),
            sample(SLOWER, times, arm="stream", bucket="3"),
            sample(CAPPED, times, arm="control"),
            *older,
        ]
        return gather(at_s, samples, dict.fromkeys([sample.instance for sample in samples], at_s), WANTED)

    batch = between(page(0.0, 1), page(60.0, 5), 0)
    assert batch.weighed == {("stream", 3): 3 * EXPECTED_UNITS}
    assert batch.worse == {("rest", "7"): 4}
    assert batch.slower == {("stream", 3): 4}
    assert batch.capped == {"control": 4}
    assert batch.proxies == 1

    mixed = between(page(0.0, 1, failed(1, "b")), page(60.0, 5, failed(2, "b")), 0)
    assert (mixed.weighed, mixed.slower, mixed.capped, mixed.proxies) == (None, None, None, 2)


@pytest.mark.parametrize(
    ("pages", "times"),
    [
        ({"a": (7, 0), "b": (7, 0), "c": (7, 0)}, 1),
        ({"a": (7, 0), "b": (8, 0), "c": (8, 0)}, 2),
        ({"a": (7, 0), "b": (7, 1)}, 2),  # of the workers of b, one has lost the store
        ({"a": (0, 1), "b": (0, 4)}, 5),
        ({"a": (7, 0), "b": None}, 2),  # of an older release
    ],
)
def test_a_user_counts_once_for_all_who_count_together(
    pages: dict[str, tuple[int, int] | None], times: int
) -> None:
    """Whoever counts alone may count the same user again; and each route by itself."""

    def reading_of(at_s: float, *routes: str) -> Reading:
        samples = [
            each
            for route in routes
            for name, page in pages.items()
            for each in (
                failed(at_s, name, route=route),
                *(() if page is None else _counting(name, route, *page)),
            )
        ]
        wanted = replace(WANTED, routes=frozenset(routes))
        return gather(at_s, samples, dict.fromkeys(pages, at_s), wanted)

    assert between(reading_of(0.0, "start"), reading_of(60.0, "start"), 0).proxies == times
    both = between(reading_of(0.0, "start", "resume"), reading_of(60.0, "start", "resume"), 0)
    assert both.proxies == 2 * times
    assert [of.proxies for of in both.routes.values()] == [times, times]


def _counting(instance: str, route: str, group: int, alone: int) -> list[Sample]:
    return [
        sample(USERS_GROUP, group, instance, route=route),
        sample(USERS_ALONE, alone, instance, route=route),
    ]


def test_several_routes_are_counted_one_by_one_too() -> None:
    """A route alone is all there is."""
    wanted = replace(WANTED, routes=frozenset({"start", "resume"}))
    before, after = (
        gather(
            at_s,
            [
                sample(OUTCOMES, n, route=name, arm="stream", bucket="3", outcome="failed")
                for name, n in (("start", times), ("resume", 2 * times))
            ]
            + [sample(USERS, 7, route="start", arm="stream"), sample(USERS, 9, route="resume", arm="stream")],
            {"a": at_s},
            wanted,
        )
        for at_s, times in ((0.0, 1), (60.0, 3))
    )

    batch = between(before, after, 0)
    assert batch.outcomes == {("stream", 3, "failed"): 6}
    assert {name: dict(of.outcomes) for name, of in batch.routes.items()} == {
        "start": {("stream", 3, "failed"): 2},
        "resume": {("stream", 3, "failed"): 4},
    }
    assert {name: of.users for name, of in batch.routes.items()} == {
        "start": {"stream": 7},
        "resume": {"stream": 9},
    }


@pytest.mark.parametrize("value", [-0.5, 0.3, float("nan"), 2.0**60])
def test_a_sum_that_is_not_exact_is_refused(value: float) -> None:
    """Somebody else has added it up, and its differences would be somebody's guess."""
    with pytest.raises(InvalidReading, match="no counter can be that"):
        gather(0, expecting({FAILED: 1}, value), {"a": 0.0}, WANTED)
