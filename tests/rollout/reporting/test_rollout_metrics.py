"""The rollout's metrics: all of where it stands, and nobody's name."""

import math
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from flags.rollout.ledger import Act, RolloutState
from flags.rollout.moves import MoveKind, MoveReason, RolloutPhase
from flags.rollout.reporting.metrics import FAMILIES, NO_PHASE, STARTED, ControllerProcess, RolloutMetrics
from tests.rollout.rolling import Rolling, begun, policy


class Page:
    """The metrics page of a controller."""

    def __init__(self, rolling: Rolling) -> None:
        self._registry = CollectorRegistry()
        self._metrics = RolloutMetrics(self._registry)
        self.policy = rolling.policy

    def show(self, state: RolloutState) -> None:
        self._metrics.show(state, self.policy)

    @property
    def text(self) -> str:
        return generate_latest(self._registry).decode()

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"headgate_rollout_{name}", labels)

    def chosen(self, name: str, **labels: str) -> list[str]:
        """The values of the label that is called like the metric, where it is 1."""
        samples = [
            sample
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == f"headgate_rollout_{name}" and labels.items() <= sample.labels.items()
        ]
        assert {sample.value for sample in samples} <= {0.0, 1.0}
        return [sample.labels[name] for sample in samples if sample.value]


async def test_before_the_first_rollout_every_name_is_there(rolling: Rolling) -> None:
    """A journal without entries is a phase of its own, and no move was made."""
    page = Page(rolling)
    assert all(f"# TYPE headgate_rollout_{name} gauge" in page.text for name in FAMILIES)

    page.show(RolloutState())

    assert page.chosen("phase") == [NO_PHASE]
    assert (page.chosen("move"), page.chosen("reason")) == ([], [])
    assert (page.value("step"), page.value("steps")) == (0, 3)
    assert page.value("last_kill_timestamp_seconds") == 0
    assert page.value("journal_entries") == 0


async def test_a_rollout_under_way_shows_where_it_stands(rolling: Rolling) -> None:
    """Run, step, share, time, samples and evidence, as the last look had them."""
    page = Page(rolling)
    async with begun(rolling) as running:
        await running.until(25)
        [move] = await running.ticks(1)
        state = running.controller.state
        page.show(state)

    assert page.value("info", run="r1", flag="headgate.streaming", mode="auto") == 1
    assert (page.chosen("phase"), page.chosen("move"), page.chosen("reason")) == (
        [RolloutPhase.RUNNING],
        [move.kind],
        [move.reason],
    )
    assert (page.value("step"), page.value("steps")) == (2, 3)
    assert page.value("share_percent", kind="planned") == 25
    assert page.value("share_percent", kind="written") == 25
    assert (page.value("dwelt_seconds"), page.value("dwell_needed_seconds")) == (state.dwelt_s, 180)
    assert page.value("last_look_timestamp_seconds") == rolling.now.wall_s
    assert page.value("last_evidence_timestamp_seconds") == rolling.now.wall_s
    assert page.value("journal_entries") == len(rolling.entries())
    assert state.last_tick is not None
    for said in state.last_tick["verdicts"]:
        name = said["guardrail"]
        assert page.chosen("finding", guardrail=name) == [said["finding"]]
        assert page.value("samples", guardrail=name) == said["samples"]
        assert page.value("samples_needed", guardrail=name) == said["samples_needed"]
        assert page.value("users", guardrail=name) == said["users"]
        assert page.value("users_needed", guardrail=name) == said["users_needed"]
        assert page.value("evidence_log10", guardrail=name, towards="harm") == said["log10_e"]
        assert page.value("evidence_log10", guardrail=name, towards="safe") == said["log10_safe"]
        for line in ("hold", "roll_back", "safe"):
            assert page.value("line_log10", guardrail=name, line=line) == said[f"{line}_at"]


async def test_a_guardrail_that_only_counts_has_no_evidence_at_all(rolling: Rolling) -> None:
    """Not 0, which would look like evidence that says nothing."""
    page = Page(rolling)
    async with begun(rolling) as running:
        await running.ticks(1)
        page.show(running.controller.state)

    assert page.value("samples", guardrail="parity") is not None
    assert page.value("evidence_log10", guardrail="parity", towards="harm") is None
    assert page.value("line_log10", guardrail="parity", line="hold") is None
    assert 'guardrail="parity",towards' not in page.text


@pytest.mark.parametrize("share", [5, 25, 50])
async def test_the_observed_share_is_of_all_users(rolling: Rolling, share: int) -> None:
    """Those who are in neither arm are a part of them."""
    page = Page(rolling)
    async with begun(rolling) as running:
        await running.until(share)
        rolling.traffic.rests(200 * (100 - 2 * share) // share)
        await running.ticks(1, 200)
        page.show(running.controller.state)

    observed = page.value("share_percent", kind="observed")
    assert observed is not None
    assert math.isclose(observed, share)


async def test_without_answers_no_share_is_observed(rolling: Rolling) -> None:
    """Nobody came is not the same as nobody streams."""
    page = Page(rolling)
    async with begun(rolling) as running:
        await running.ticks(1, per_tick=0)
        page.show(running.controller.state)

    assert page.value("share_percent", kind="observed") is None
    assert page.value("share_percent", kind="written") == 5


async def test_what_the_last_look_no_longer_has_is_gone(rolling: Rolling) -> None:
    """The guardrails of a rollout are not shown as those of the next, which has not begun to look."""
    page = Page(rolling)
    async with begun(rolling) as running:
        await running.ticks(1)
        page.show(running.controller.state)
        assert page.value("samples", guardrail="errors") is not None

        page.show(RolloutState())

    assert page.value("samples", guardrail="errors") is None
    assert page.value("info", run="r1", flag="headgate.streaming", mode="auto") is None


async def test_the_last_kill_is_remembered_by_the_next_rollout(rolling: Rolling) -> None:
    """A drill is worth its age, whatever was done since; who did it is in the journal alone."""
    page = Page(rolling)
    async with begun(rolling) as running:
        rolling.wants(Act.KILL, "the drill of somebody@example.org")
        await running.ticks(1)
        killed_s = rolling.now.wall_s
        page.show(running.controller.state)
        assert page.chosen("phase") == [RolloutPhase.KILLED]
        assert (page.chosen("move"), page.chosen("reason")) == ([MoveKind.STAY], [MoveReason.KILLED])
        assert page.value("last_act_timestamp_seconds") == killed_s

        rolling.wants(Act.UNKILL)
        rolling.edit(lambda flag: flag.update(enabled=False), flag=1)
        await running.ticks(1)
        await running.begin()
        await running.until(5)
        page.show(running.controller.state)

    assert page.value("last_kill_timestamp_seconds") == killed_s
    assert page.value("info", run="r2", flag="headgate.streaming", mode="auto") == 1
    assert "ops" not in page.text
    assert "example.org" not in page.text


async def test_a_policy_that_lost_its_steps_is_shown_all_the_same(rolling: Rolling, tmp_path: Path) -> None:
    """It holds, since the policy is another one; what was in force is no step of it."""
    page = Page(rolling)
    async with begun(rolling) as running:
        await running.until(25)
        await running.ticks(1)
        shorter = policy(tmp_path, steps=[{"share": 5, "at_least": "3m"}])
        page.policy = shorter
        page.show(running.controller.state)

    assert (page.value("step"), page.value("steps")) == (2, 1)
    assert page.value("share_percent", kind="planned") == 0


def test_the_page_has_the_controllers_own_process() -> None:
    """CPU, memory and descriptors; not its start, by which readers of the job's pages know proxies."""
    registry = CollectorRegistry()
    ControllerProcess(registry)
    page = generate_latest(registry).decode()

    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert f"\n{name} " in page
    assert STARTED not in page
