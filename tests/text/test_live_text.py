"""Text that is still being made is shown in whole words, soon, and none of it twice."""

import asyncio

from proxy.text.chunking import Chunker
from proxy.text.live_text import HOLD_S, LiveTexts
from tests.servers.client import eventually

CLOCK_S = 0.002
"""The loop's clock counts in milliseconds."""


class Shown(list[tuple[str, str]]):
    """The texts, as they are shown."""

    def show_chunks(self, stage: str, chunks: list[str]) -> None:
        self.extend((stage, chunk) for chunk in chunks)


def live() -> tuple[LiveTexts, Shown]:
    """Texts, and what is shown of them."""
    return LiveTexts(lambda: Chunker(5, 10, 200)), Shown()


async def test_the_beginning_of_a_word_waits_for_its_end() -> None:
    texts, shown = live()
    for piece in ("Pneu", "mon", "ia ", "prob"):
        texts.add("a", piece, shown)
    await eventually(lambda: shown == [("a", "Pneumonia ")])
    texts.finish("a", shown)

    assert shown == [("a", "Pneumonia "), ("a", "prob")]


async def test_a_short_word_waits_for_the_next_one_a_moment_and_no_longer() -> None:
    texts, shown = live()
    loop = asyncio.get_running_loop()
    began = loop.time()
    texts.add("a", "No ", shown)
    texts.add("a", "x", shown)  # now it is certain that the word before is whole
    assert shown == []
    await eventually(lambda: shown == [("a", "No ")])

    assert loop.time() - began > HOLD_S - CLOCK_S
    texts.close()


async def test_texts_of_several_stages_do_not_mix() -> None:
    texts, shown = live()
    for left, right in zip("one two three four ", "1 22 333 4444 55555", strict=True):
        texts.add("words", left, shown)
        texts.add("digits", right, shown)
    texts.finish("words", shown)
    texts.finish("digits", shown)

    by_stage = {stage: "".join(text for of, text in shown if of == stage) for stage in ("words", "digits")}
    assert by_stage == {"words": "one two three four ", "digits": "1 22 333 4444 55555"}


async def test_what_is_dropped_or_closed_is_shown_no_more() -> None:
    texts, shown = live()
    texts.add("a", "gone ", shown)
    texts.drop("a")
    texts.finish("a", shown)
    texts.add("a", "fresh ", shown)
    texts.add("b", "never ", shown)
    texts.finish("a", shown)
    texts.close()
    texts.finish("b", shown)

    assert shown == [("a", "fresh ")]
