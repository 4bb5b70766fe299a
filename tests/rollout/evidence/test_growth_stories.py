"""No event counts twice, in any order of restarts, gaps, old samples and looks."""

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flags.rollout.evidence.departed import Scrape, last_scrapes
from flags.rollout.evidence.growth import carried
from flags.rollout.evidence.readings import OUTCOMES, Page, Reading, Series
from flags.rollout.evidence.watermark import from_bytes, to_bytes
from tests.rollout.evidence.counters import COMPLETE, FAILED, outcomes, reading


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
    """With any restarts, gaps, old samples and stored baselines, whichever of the processes are
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
