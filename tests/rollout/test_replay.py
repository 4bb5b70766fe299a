"""Journals of earlier releases: this one reads them, and comes to every decision that they hold."""

import gzip
from pathlib import Path

import pytest

from flags.rollout.journal import JournalReader
from flags.rollout.ledger import EntryKind, fold
from flags.rollout.replay import differences
from tests.rollout.test_controller import Forged

JOURNALS = sorted((Path(__file__).parent / "journals").glob("*.sqlite.gz"))
"""Each is named for the day of the code that wrote it: rollouts with a dark step, harm, and a kill."""


@pytest.mark.parametrize("kept", JOURNALS, ids=lambda path: path.name)
def test_a_journal_of_an_earlier_release_is_explained(kept: Path, tmp_path: Path) -> None:
    """Its chain is whole, its state is known, and no decision differs, though sentences have changed."""
    path = tmp_path / "rollout.sqlite"
    path.write_bytes(gzip.decompress(kept.read_bytes()))
    with JournalReader.open(path) as journal:
        entries = list(journal.entries())
        assert journal.verify() == entries[-1]
    decisions, found = differences(entries)

    assert decisions == sum(entry.kind == EntryKind.TICK for entry in entries) > 10
    assert found == []
    assert fold(entries).seq == entries[-1].seq


@pytest.mark.parametrize("kept", JOURNALS, ids=lambda path: path.name)
def test_a_changed_number_is_found_in_it(kept: Path, tmp_path: Path) -> None:
    """Words may differ from release to release; what was counted and found may not."""
    path = tmp_path / "rollout.sqlite"
    path.write_bytes(gzip.decompress(kept.read_bytes()))
    with JournalReader.open(path) as journal:
        entries = list(journal.entries())
    at = next(i for i, entry in enumerate(entries) if entry.kind == EntryKind.TICK and entry.body["verdicts"])
    first, *others = entries[at].body["verdicts"]
    forged = Forged(entries[at], {"verdicts": [{**first, "finding": "harm"}, *others]})

    assert differences([*entries[:at], forged, *entries[at + 1 :]])[1] == [
        f"entry {forged.seq}: the verdicts of its evidence are others than it says"
    ]
