"""The first Monday: what must be true, however it goes."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.browser.frontend import CHROMIUM
from tests.monday.acts import monday, summary
from tests.monday.day import HANDBOOK, documented
from tests.monday.morning import OUTSIDE, hastened
from tests.project.shell_blocks import commands
from tests.rollout.operating import ROOT
from tests.rollout.readers import USERS
from tests.servers import alertmanager_server, prometheus_server, release_before, unleash_server

pytestmark = [
    pytest.mark.alone,  # its readers ask so many times a second, however busy the machine is
    pytest.mark.skipif(not unleash_server.is_installed(), reason="no Unleash: run tests/services/setup.sh"),
    pytest.mark.skipif(not prometheus_server.is_installed(), reason="no Prometheus: see setup.sh"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(not alertmanager_server.is_installed(), reason="no Alertmanager: see setup.sh"),
]


async def test_the_first_monday(tmp_path: Path) -> None:
    """The drill is in the dark. At 25 % it breaks: the alert rings, it goes back, and no text is lost."""
    lines: list[str] = []

    day = await monday(tmp_path, lines.append, tmp_path / "pictures")

    assert day.shown == {"in the dark": 0, "after the drill": 5, "after the upgrade": 5}
    assert len(set(day.releases)) == (2 if release_before.is_known() else 1)
    assert day.readers.elsewhere["too"] > 0
    assert "HeadgateTextWrong" not in {name for name, _ in day.on_call.told}
    assert day.marks["fault"] < day.marks["alert"]
    assert day.marks["fault"] < day.marks["rollback"]
    assert re.search(r'arm="stream", outcome="(failed|truncated)"', day.cause)
    assert 'fault="truncated"' in day.cause
    assert day.readers.wrong == []
    assert day.readers.unanswered == 0
    assert day.readers.answered["stream"] > 0
    assert {place.partition(" ")[2] for place in day.out.asked} == {f"{name}:443" for name in OUTSIDE}
    spans = Counter(span.name for span in day.collector.spans)
    assert spans["run answers"] > 0 and spans["POST /answers"] > spans["run answers"]
    assert "asks, number" not in str(day.collector.spans[:100])
    assert day.pages.problems == []
    assert 0 < len(day.readers.noticed) < USERS / 2
    assert day.typed >= set(commands(HANDBOOK)), "the handbook has commands that nobody typed"
    assert f"of {USERS} users saw" in summary(day)


def test_hastened_rules_are_rules() -> None:
    """Each duration is a twentieth, and nothing else has changed."""
    rules = (ROOT / "dashboards" / "rules.yaml").read_text()
    quick = hastened(rules)

    assert "for: 6000ms" in quick
    assert "[15000ms]" in quick
    assert not re.search(r"(\[|for: )\d+[smhd]\b", quick)
    assert re.sub(r"\d+(ms|[smhd])\b", "", quick) == re.sub(r"\d+(ms|[smhd])\b", "", rules)


def test_a_command_that_the_docs_do_not_have_cannot_be_typed() -> None:
    """So that the day is the docs' own."""
    with pytest.raises(LookupError, match="no command"):
        documented("headgate rollout sideways")
