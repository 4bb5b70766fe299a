"""The commands that the documentation has its readers type."""

import re
from pathlib import Path


def blocks(page: Path) -> list[str]:
    """The shell blocks of a page, in their order, without the indent of a list."""
    found = re.findall(r"^( *)```sh\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands(*pages: Path) -> list[str]:
    """Every command of the pages, in their order; one that goes on in the next line is one."""
    lines = (block.replace("\\\n", " ").splitlines() for page in pages for block in blocks(page))
    return [command.strip() for found in lines for command in found if command.strip()]
