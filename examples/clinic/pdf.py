"""Markdown to PDF: headings, plain lines, and a drawn trace that gives the file the weight of a real one."""

import math
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fpdf import FPDF

HEADING = re.compile(r"^(#{1,6})\s+(.*)$")
SIZES_PT = {1: 18, 2: 14, 3: 12}

# The fonts every PDF reader has know Latin-1 only; the attached text has every character as it was.
IN_LATIN_1 = str.maketrans(
    {
        "✅": "[x]",
        "❌": "[ ]",
        "—": "-",
        "–": "-",
        "≥": ">=",
        "≤": "<=",
        "→": "->",
        "•": "-",
        "−": "-",
        "₂": "2",
        "⁹": "^9",
    }
)

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF")
TRACE_POINTS = 4000


class HeadingOrder(Exception):
    """The first heading is not of level 1, so there is no table of contents to make."""


def render(text: str, *, title: str) -> bytes:
    """A PDF of several hundred kilobytes; raises `HeadingOrder`."""
    from fpdf import FPDF  # Here: half of a worker's start, and most make no PDF.

    document = FPDF()
    document.set_title(title)
    document.add_page()
    _refuse_deep_start(text)
    for line in text.splitlines():
        _write(document, line)
    document.embed_file(bytes=text.encode(), basename="text.md", mime_type="text/markdown", desc="The text")
    _draw_trace(document)
    return bytes(document.output())


def _refuse_deep_start(text: str) -> None:
    first = next(filter(None, map(HEADING.match, text.splitlines())), None)
    if first and len(first[1]) > 1:
        raise HeadingOrder(first[2])


def _write(document: "FPDF", line: str) -> None:
    heading = HEADING.match(line)
    size_pt = SIZES_PT.get(len(heading[1]), 11) if heading else 10
    document.set_font("helvetica", "B" if heading else "", size_pt)
    if line.startswith("|"):
        _write_row(document, line.strip("| ").split("|"))
        return
    shown = _printable(heading[2] if heading else line)
    if heading:
        document.start_section(shown, level=len(heading[1]) - 1, strict=False)
    document.multi_cell(0, size_pt * 0.5, shown or " ", new_x="LMARGIN", new_y="NEXT")


def _write_row(document: "FPDF", cells: list[str]) -> None:
    if all(set(cell.strip()) <= set(":-") for cell in cells):
        return  # the rule between a table's head and its rows
    for cell in cells:
        document.cell(document.epw / len(cells), 5, _printable(cell.strip()))
    document.ln()


def _printable(text: str) -> str:
    return text.replace("**", "").translate(IN_LATIN_1).encode("latin-1", "replace").decode("latin-1")


def _draw_trace(document: "FPDF") -> None:
    # Not compressed: real notes weigh about 0.6 MB, and what carries them should be tried with such weights.
    document.set_compression(False)
    document.add_page()
    document.set_font("helvetica", "", 9)
    document.cell(0, 6, "Synthetic trace, drawn for illustration. Not a recording.")
    document.set_line_width(0.2)
    for index, lead in enumerate(LEADS):
        document.text(12, 34 + 40 * index, lead)
        document.polyline(_trace(index))


@cache
def _trace(index: int) -> list[tuple[float, float]]:
    """The same for every document: drawing it costs more than all the text."""
    baseline = 45.0 + 40 * index
    return [
        (12 + 186 * point / TRACE_POINTS, baseline - _millivolts(point / TRACE_POINTS * 8, index))
        for point in range(TRACE_POINTS)
    ]


def _millivolts(beats: float, index: int) -> float:
    """Height in mm over the baseline; P, QRS and T as bells at their places in the beat."""
    at = beats % 1
    waves = (
        (0.2, 0.03, 1.2),
        (0.36, 0.008, -1.5),
        (0.38, 0.009, 11.0),
        (0.40, 0.008, -3.0),
        (0.62, 0.05, 2.2),
    )
    height = sum(peak * math.exp(-(((at - center) / width) ** 2)) for center, width, peak in waves)
    return height * math.cos(index * 0.5)
