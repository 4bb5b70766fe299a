"""Raw counters to evidence: no event counts twice, and none that cannot be dated, whatever processes do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flags.errors import EvidenceError, InvalidReading, ReadingProblem
from flags.rollout.evidence import readings
from flags.rollout.evidence.departed import Scrape, last_scrapes
from flags.rollout.evidence.evidence import EXPECTED_UNITS, Batch, Tail
from flags.rollout.evidence.readings import (
    CARRY_S,
    EXPECTED,
    FIRST_CONTENT_S,
    OUTCOMES,
    PARITY,
    RECOVERIES,
    SETTLED_S,
    SLOWER,
    USERS,
    WEIGHED,
    WORSE,
    Page,
    Reading,
    Sample,
    Series,
    Wanted,
    between,
    carried,
    complete,
    gather,
)
from flags.rollout.evidence.watermark import from_bytes, to_bytes

WANTED = Wanted(frozenset({"start"}), frozenset({20.0}), frozenset({5.0}))
COMPLETE = ("start", "stream", "3", "complete")
FAILED = ("start", "stream", "3", "failed")


def reading(at_s: float, pages: Mapping[str, Mapping[tuple[str, ...], int]]) -> Reading:
    """Outcomes by instance."""
    counters = {Series(OUTCOMES, i, labels): n for i, page in pages.items() for labels, n in page.items()}
    return Reading(at_s, counters, dict.fromkeys(pages, at_s))


def outcomes(before: Reading, after: Reading) -> dict[str, int]:
    """Return what counted, by outcome."""
    return {outcome: n for (_, _, outcome), n in between(before, after, 0).outcomes.items()}


def sample(metric: str, value: float, instance: str = "a", **labels: str) -> Sample:
    return Sample(metric, instance, {"route": "start"} | labels, value)


def failed(value: float, instance: str = "a", **more: str) -> Sample:
    labels = {"arm": "stream", "bucket": "3", "outcome": "failed", **more}
    return sample(OUTCOMES, value, instance, **labels)


def dated(at_s: float, began_s: float, page: Mapping[tuple[str, ...], int]) -> Reading:
    """Outcomes of the instance a, whose process says when it began."""
    return replace(reading(at_s, {"a": page}), started={"a": began_s})


def test_what_grew_is_what_counts() -> None:
    """The plain case: the same proxies, some time later."""
    before = reading(0, {"a": {COMPLETE: 10, FAILED: 1}, "b": {COMPLETE: 5}})
    after = reading(60, {"a": {COMPLETE: 14, FAILED: 1}, "b": {COMPLETE: 6}})

    batch = between(before, after, 3)

    assert batch.outcomes == {("stream", 3, "complete"): 5}
    assert (batch.since_s, batch.until_s, batch.step) == (0, 60, 3)


def test_a_process_that_began_again_counts_whole() -> None:
    """One counter that fell says that all of its process began at zero, also those that did not fall."""
    before = reading(0, {"a": {COMPLETE: 100, FAILED: 2}})
    after = reading(60, {"a": {COMPLETE: 40, FAILED: 3}})

    assert outcomes(before, after) == {"complete": 40, "failed": 3}


def test_samples_that_are_not_newer_count_nothing() -> None:
    """A second Prometheus, a scrape behind, looks like a restart: all the past would count again."""
    before = replace(reading(60, {"a": {COMPLETE: 100}}), seen={"a": 58.0})
    after = replace(reading(120, {"a": {COMPLETE: 97}}), seen={"a": 57.0})
    later = reading(180, {"a": {COMPLETE: 101}})

    assert outcomes(before, after) == {}
    assert outcomes(carried(before, after), later) == {"complete": 1}


def test_a_proxy_that_is_new_brings_nothing() -> None:
    """Its past may be older than the rollout; from then on it counts."""
    before = reading(0, {"a": {COMPLETE: 1}})
    met = reading(60, {"a": {COMPLETE: 1}, "b": {COMPLETE: 5000}})
    later = reading(120, {"a": {COMPLETE: 1}, "b": {COMPLETE: 5002}})

    assert outcomes(before, met) == {}
    assert outcomes(carried(before, met), later) == {"complete": 2}


def test_a_process_that_began_since_counting_did_counts_whole() -> None:
    """Also if it was met only some looks later. Then what is new counts, and no more."""
    before = reading(100, {})
    without = reading(160, {})
    met = dated(220, 101, {COMPLETE: 3, FAILED: 2})
    later = dated(280, 101, {COMPLETE: 4, FAILED: 2})

    baseline = carried(before, without)

    assert outcomes(baseline, met) == {"complete": 3, "failed": 2}
    assert outcomes(carried(baseline, met), later) == {"complete": 1}


@pytest.mark.parametrize("began_s", [99.0, 161.0], ids=["before counting did", "after it was seen"])
def test_a_process_whose_past_is_not_known_brings_nothing(began_s: float) -> None:
    """It is older than the rollout, or its clock is wrong; from then on it counts."""
    before, met = reading(100, {}), dated(160, began_s, {FAILED: 70})

    assert outcomes(before, met) == {}
    assert outcomes(carried(before, met), dated(220, began_s, {FAILED: 71})) == {"failed": 1}


def test_a_process_that_began_again_is_known_by_its_start() -> None:
    """With little traffic no counter falls: 3 and 1 before, 5 and 2 of another process after."""
    before = dated(100, 10, {COMPLETE: 3, FAILED: 1})
    after = dated(160, 120, {COMPLETE: 5, FAILED: 2})

    assert outcomes(before, after) == {"complete": 5, "failed": 2}


def test_a_proxy_that_is_upgraded_to_one_that_says_when_it_began() -> None:
    """Before, only counters that fell told that it began again."""
    before = reading(100, {"a": {COMPLETE: 3}})

    assert outcomes(before, dated(160, 120, {COMPLETE: 5})) == {"complete": 5}
    assert outcomes(before, dated(160, 90, {COMPLETE: 5})) == {"complete": 2}


def test_one_process_cannot_have_counted_less_before() -> None:
    """Another answers at its address: what it shows counted elsewhere, or is not dated."""
    before = dated(100, 10, {COMPLETE: 30, FAILED: 1})

    assert outcomes(before, dated(160, 10, {COMPLETE: 20, FAILED: 2})) == {}
    assert outcomes(before, dated(160, 5, {COMPLETE: 20, FAILED: 2})) == {}


def test_what_a_process_showed_last_before_it_was_gone_counts_once() -> None:
    """By the same rules as pages that are there, in the order of time, and carried like them."""
    before = dated(100, 10, {FAILED: 1})
    pages = [Page("a", at_s, 10, {Series(OUTCOMES, "a", FAILED): n}) for at_s, n in ((110.0, 3), (120.0, 4))]
    after = replace(reading(160, {}), departed=pages)

    assert outcomes(before, after) == {"failed": 3}
    assert outcomes(carried(before, after), dated(220, 10, {FAILED: 6})) == {"failed": 2}
    assert outcomes(carried(before, after), dated(220, 130, {FAILED: 6})) == {"failed": 6}


def test_a_process_that_was_forgotten_is_not_new() -> None:
    """It counted before it was away for a day; that it began since counting did is no longer enough."""
    known = carried(reading(0, {}), dated(60, 30, {FAILED: 9}))
    forgotten = carried(known, reading(60 + CARRY_S + 1, {}))

    assert outcomes(forgotten, dated(CARRY_S + 120, 30, {FAILED: 10})) == {}
    assert outcomes(forgotten, dated(CARRY_S + 120, 61, {FAILED: 10})) == {"failed": 10}


def test_a_counter_that_is_new_on_a_known_page_brings_nothing() -> None:
    """A route that the policy names since a moment ago has a past as well."""
    before = reading(0, {"a": {COMPLETE: 1}})
    after = reading(60, {"a": {COMPLETE: 1, FAILED: 70}})

    assert outcomes(before, after) == {}


def test_a_proxy_that_was_away_counts_only_what_is_new() -> None:
    """What is known of it is carried over the readings that lack it."""
    first = reading(0, {"a": {COMPLETE: 10}, "b": {COMPLETE: 1}})
    without = reading(60, {"b": {COMPLETE: 1}})
    later = reading(120, {"a": {COMPLETE: 12}, "b": {COMPLETE: 1}})

    kept = carried(first, without)

    assert outcomes(first, without) == {}
    assert outcomes(kept, later) == {"complete": 2}


def test_what_is_away_is_forgotten_in_time() -> None:
    """After a day it is met as new."""
    first = reading(0, {"a": {COMPLETE: 10}})

    assert carried(first, reading(CARRY_S, {})).seen == {"a": 0}
    assert carried(first, reading(CARRY_S + 1, {})).counters == {}


def test_no_more_is_remembered_of_what_is_away_than_the_bound_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of new pods, each with hundreds of counters, must fit the journal and the controller's memory."""
    monkeypatch.setattr(readings, "CARRIED_COUNTERS", 30)
    crowd = reading(0, {f"pod-{number}": {COMPLETE: 1, FAILED: 1} for number in range(20)})
    long_away = replace(crowd, seen={**crowd.seen, "pod-3": -60.0})

    kept = carried(long_away, reading(60, {"new": {COMPLETE: 1}}))

    assert len(kept.seen) == 1 + 30 // 3
    assert {series.instance for series in kept.counters} == set(kept.seen)
    assert "pod-3" not in kept.seen


def test_at_the_begin_of_a_step_the_reading_itself_is_the_baseline() -> None:
    """What was away then settled in nobody knows which step: it is met as new."""
    begin = reading(60, {"b": {COMPLETE: 1}})
    later = reading(120, {"a": {COMPLETE: 12}, "b": {COMPLETE: 2}})

    assert outcomes(begin, later) == {"complete": 1}


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
    """How many there were at all is not known then."""
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


@dataclass
class Process:
    """A proxy as it is: what it counts now, what it has ever counted, and the pages that were seen of it."""

    now: Counter[tuple[str, ...]] = field(default_factory=Counter)
    ever: Counter[str] = field(default_factory=Counter)
    seen: list[tuple[float, dict[tuple[str, ...], int], float]] = field(default_factory=list)
    began_s: float = -1.0

    def page(self) -> dict[tuple[str, ...], int]:
        return {labels: self.now[labels] for labels in (COMPLETE, FAILED)}


class Server:
    """A Prometheus of two processes, some of which are away for it, and of some of which it shows the oldest
    that it has."""

    def __init__(self, dating: str) -> None:
        self.processes = {name: Process() for name in "ab"}
        self.away: set[str] = set()
        self.old: set[str] = set()
        self.at_s = 0.0
        self._dating = dating
        self._scrapes: dict[Scrape, dict[tuple[str, ...], int]] = {}

    def scrape(self) -> None:
        self.at_s += 60
        for name, process in self.processes.items():
            if name not in self.away:
                process.seen.append((self.at_s, process.page(), process.began_s))
                self._scrapes[Scrape(self.at_s, name, self._began(name, process.began_s))] = process.page()

    def look(self, before: Reading | None) -> Reading:
        """With what is no more, unless nothing was before."""
        shown = {
            name: process.seen[1 if name in self.old and len(process.seen) > 1 else -1]
            for name, process in self.processes.items()
            if name not in self.away and process.seen
        }
        found = reading(self.at_s, {name: page for name, (_, page, _) in shown.items()})
        began = {name: self._began(name, began_s) for name, (_, _, began_s) in shown.items()}
        found = replace(
            found,
            seen={name: seen_s for name, (seen_s, _, _) in shown.items()},
            started={name: began_s for name, began_s in began.items() if began_s is not None},
        )
        if before is None:
            return found
        return replace(found, departed=[self._page(of) for of in last_scrapes(self._scrapes, found, before)])

    def _page(self, of: Scrape) -> Page:
        counters = {Series(OUTCOMES, of.instance, labels): n for labels, n in self._scrapes[of].items()}
        return Page(of.instance, of.at_s, of.began_s, counters)

    def _began(self, name: str, began_s: float) -> float | None:
        return began_s if name in self._dating else None

    @property
    def ever(self) -> Counter[str]:
        return sum((process.ever for process in self.processes.values()), Counter[str]())


EVENTS = st.sampled_from(["complete", "failed", "restart", "scrape", "away", "back", "old", "read", "store"])
STORIES = st.lists(st.tuples(EVENTS, st.sampled_from("ab"), st.integers(1, 5)), max_size=60)

BEHIND = [("complete", "a", 2), ("read", "a", 1)] * 2 + [("old", "a", 1), ("read", "a", 1)]
"""The pages of a second Prometheus that is behind the first."""

DIES = [("restart", "a", 1), ("failed", "a", 2), ("scrape", "a", 1), ("away", "a", 1), ("read", "a", 1)]
"""Between two looks; and it comes back."""


def counted(story: list[tuple[str, str, int]], server: Server, *, has_past: bool) -> Counter[str]:
    """Return what counts of all that happens, look by look."""
    server.scrape()
    baseline = server.look(None)
    counts: Counter[str] = Counter()
    for what, name, times in story:
        process = server.processes[name]
        if what in ("complete", "failed"):
            process.now[COMPLETE if what == "complete" else FAILED] += times
            process.ever[what] += times
        elif what == "restart":
            process.now.clear()
            process.began_s = server.at_s + 30
        elif what == "scrape":
            server.scrape()
        elif what in ("away", "back"):
            (server.away.add if what == "away" else server.away.discard)(name)
            server.old.discard(name)
        elif what == "old":
            server.old.add(name)
        elif what == "store":
            baseline = from_bytes(to_bytes(baseline))
        else:
            server.scrape()
            shown = server.look(baseline if has_past else None)
            grown = outcomes(baseline, shown)
            assert all(n > 0 for n in grown.values())
            counts.update(grown)
            baseline = carried(baseline, shown)
        assert counts <= server.ever
    return counts


@given(STORIES, st.sampled_from(["", "a", "ab"]), st.booleans())
@example(BEHIND, "", False)
@example(BEHIND, "a", True)
@example([*DIES, ("back", "a", 1), ("complete", "a", 1), ("read", "a", 1), *DIES], "ab", True)
@settings(max_examples=300, deadline=None)
def test_no_event_counts_twice(story: list[tuple[str, str, int]], dating: str, has_past: bool) -> None:
    """Whatever restarts, gaps, old samples and stored baselines there are, whichever of the processes are
    dating, and with what those showed that are no more: never more than there was, nor less than nothing."""
    counted(story, Server(dating), has_past=has_past)


LIVES = st.lists(
    st.tuples(
        st.sampled_from(["complete", "failed", "restart", "away", "back", "read", "store"]),
        st.sampled_from("ab"),
        st.integers(1, 5),
    ),
    max_size=60,
)


@given(LIVES)
@example([*DIES, ("back", "a", 1), *DIES])
@settings(max_examples=300, deadline=None)
def test_whatever_was_scraped_counts(story: list[tuple[str, str, int]]) -> None:
    """Each process, however briefly it lives, up to its last scrape; here there is one before it goes."""
    scraped: list[tuple[str, str, int]] = []
    away: set[str] = set()
    for what, name, times in story:
        if what in ("complete", "failed", "restart") and name in away:
            continue  # nobody scrapes it
        if what in ("restart", "away"):
            scraped.append(("scrape", name, 1))
        if what in ("away", "back"):
            away = away | {name} if what == "away" else away - {name}
        scraped.append((what, name, times))
    server = Server("ab")

    assert counted([*scraped, ("read", "a", 1)], server, has_past=True) == server.ever


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=20),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_time_may_be_cut_anywhere(growth: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """Without restarts and new proxies the parts add up to the whole, also where one lacks a proxy."""
    totals = [(0, 0)]
    for complete_ones, failed_ones, _ in growth:
        totals.append((totals[-1][0] + complete_ones, totals[-1][1] + failed_ones))
    shown = [True, *(present for _, _, present in growth[:-1]), True]
    readings = [
        reading(60 * i, {"a": {COMPLETE: c, FAILED: f}} if is_shown else {})
        for i, ((c, f), is_shown) in enumerate(zip(totals, shown, strict=True))
    ]
    kept = data.draw(st.lists(st.sampled_from(range(1, len(readings))), unique=True))
    chosen = [readings[0], *(readings[i] for i in sorted({*kept, len(readings) - 1}))]

    counted: Counter[str] = Counter()
    baseline = chosen[0]
    for later in chosen[1:]:
        counted.update(outcomes(baseline, later))
        baseline = carried(baseline, later)

    assert counted == Counter(outcomes(readings[0], readings[-1]))


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
            *older,
        ]
        return gather(at_s, samples, dict.fromkeys([sample.instance for sample in samples], at_s), WANTED)

    batch = between(page(0.0, 1), page(60.0, 5), 0)
    assert batch.weighed == {("stream", 3): 3 * EXPECTED_UNITS}
    assert batch.worse == {("rest", "7"): 4}
    assert batch.slower == {("stream", 3): 4}
    assert batch.proxies == 1

    mixed = between(page(0.0, 1, failed(1, "b")), page(60.0, 5, failed(2, "b")), 0)
    assert (mixed.weighed, mixed.slower, mixed.proxies) == (None, None, 2)


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
