"""Every decision of a journal once more, from what was known then. Pure: the same evidence, the same move."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flags.rollout.bodies import evaluator_from_body, plain, situation_from_body
from flags.rollout.evidence.evidence import batch_from_body
from flags.rollout.ledger import EntryKind, JournalLine, RolloutState, begins_anew, fold
from flags.rollout.moves import decide
from flags.rollout.verdict.evaluator import Evaluator

ALIKE = 1e-9
"""Of evidence, the part that may differ: another release sums it in another order, and another processor has
other logarithms in the last digits."""


def differences(entries: Iterable[JournalLine]) -> tuple[int, list[str]]:
    """The number of decisions, and a sentence for each that does not come out as it was journaled."""
    state, evaluator, decisions = RolloutState(), None, 0
    found: list[str] = []
    for entry in entries:
        step = state.step
        state = fold([entry], state)
        if entry.kind == EntryKind.BEGIN:
            evaluator = evaluator_from_body(entry.body["jury"])
        elif begins_anew(entry, step):
            assert evaluator is not None, "a rollout begins before anything is written"
            evaluator.enter(state.step)
        elif entry.kind == EntryKind.TICK:
            assert evaluator is not None, "a rollout begins before anybody looks"
            decisions += 1
            found += _differences(entry, evaluator, step)
    return decisions, found


def _differences(entry: JournalLine, evaluator: Evaluator, step: int) -> list[str]:
    body = entry.body
    if body["batch"] is not None:
        evaluator.add(batch_from_body(body["batch"]))
    verdicts = evaluator.verdicts() if step >= 0 else ()
    found = []
    if not _are_equal(body["verdicts"], [plain(verdict) for verdict in verdicts]):
        found.append(f"entry {entry.seq}: the verdicts of its evidence are others than it says")
    move = plain(decide(situation_from_body(body["situation"], verdicts)))
    was, is_now = (f"{one['kind']} ({one['reason']})" for one in (body["move"], move))
    if was != is_now:
        found.append(f"entry {entry.seq}: it says {was}, and what was known then gives {is_now}")
    return found


def _are_equal(was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> bool:
    """True if verdicts are equal but for their wording, and for fields that older releases do not journal."""
    return len(was) == len(now) and all(
        _is_equal(value, new[name])
        for old, new in zip(was, now, strict=True)
        for name, value in old.items()
        if name != "sentence"
    )


def _is_equal(was: object, now: object) -> bool:
    if isinstance(was, float) and isinstance(now, float):
        return math.isclose(was, now, rel_tol=ALIKE, abs_tol=ALIKE)
    return was == now
