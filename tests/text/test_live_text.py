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


class Texts:
    """Texts that are shown as they say."""

    def __init__(self) -> None:
        self.live = LiveTexts(lambda: Chunker(5, 10, 200))
        self.shown = Shown()

    def add(self, stage: str, text: str) -> None:
        self.shown.show_chunks(stage, self.live.add(stage, text, self.shown))

    def finish(self, stage: str) -> None:
        self.shown.show_chunks(stage, self.live.finish(stage))


async def test_the_beginning_of_a_word_waits_for_its_end() -> None:
    texts = Texts()
    for piece in ("Pneu", "mon", "ia ", "prob"):
        texts.add("a", piece)
    await eventually(lambda: texts.shown == [("a", "Pneumonia ")])
    texts.finish("a")

    assert texts.shown == [("a", "Pneumonia "), ("a", "prob")]


async def test_a_short_word_waits_for_the_next_one_a_moment_and_no_longer() -> None:
    texts = Texts()
    loop = asyncio.get_running_loop()
    began = loop.time()
    texts.add("a", "No ")
    texts.add("a", "x")  # now it is certain that the word before is whole
    assert texts.shown == []
    await eventually(lambda: texts.shown == [("a", "No ")])

    assert loop.time() - began > HOLD_S - CLOCK_S
    texts.live.close()


async def test_texts_of_several_stages_do_not_mix() -> None:
    texts = Texts()
    for left, right in zip("one two three four ", "1 22 333 4444 55555", strict=True):
        texts.add("words", left)
        texts.add("digits", right)
    texts.finish("words")
    texts.finish("digits")

    by_stage = {
        stage: "".join(text for of, text in texts.shown if of == stage) for stage in ("words", "digits")
    }
    assert by_stage == {"words": "one two three four ", "digits": "1 22 333 4444 55555"}


async def test_what_is_dropped_or_closed_is_shown_no_more() -> None:
    texts = Texts()
    texts.add("a", "gone ")
    texts.live.drop("a")
    texts.finish("a")
    texts.add("a", "fresh ")
    texts.add("b", "never ")
    texts.finish("a")
    texts.live.close()
    texts.finish("b")

    assert texts.shown == [("a", "fresh ")]
