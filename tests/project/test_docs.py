"""The documentation says what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from docs.generate import pages
from flags.rollout.policy.policy import Policy
from proxy.settings.settings import Settings

ROOT = Path(__file__).parents[2]
PROSE = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "helm" / "README.md"])


@pytest.mark.parametrize("page", sorted(pages()), ids=lambda page: page.name)
def test_what_is_written_from_the_code_is_what_the_code_says(page: Path) -> None:
    """`make docs` would change nothing."""
    assert page.read_text(encoding="utf-8") == pages()[page]


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_no_link_of_the_documentation_is_dead(page: Path) -> None:
    """Every relative link of a page leads to a file."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))

    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are made of them where Markdown is shown."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_no_link_leads_to_a_heading_that_is_not_there(page: Path) -> None:
    """Of the page itself or of another one."""
    links = re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))

    assert [
        f"{name}#{to}" for name, to in links if to not in anchors(page.parent / name if name else page)
    ] == []


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_every_settings_block_of_the_documentation_is_valid(page: Path) -> None:
    """One with an `upstream` is a whole settings file, one with `steps` a whole policy: both are accepted."""
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)

    for block in blocks:
        document = yaml.safe_load(re.sub(r"\$\{\w+\}", "x" * 32, block))
        # The design also describes settings that are yet to come.
        if "upstream" in document and page.name != "design.md":
            Settings.model_validate(document)
        if "steps" in document:
            Policy.model_validate(document)
