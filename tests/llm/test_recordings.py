"""The command that puts a folder of recorded streams through the assemblers."""

import json
from pathlib import Path

from tests.llm.test_llm_openai import HEAD
from tests.llm.test_llm_providers import STREAMS
from tests.recordings import examined, report


def test_each_recording_is_faithful_or_has_its_reason(tmp_path: Path) -> None:
    """Each is read whole, cut at each event, and at odd bytes; beside a batch answer the test says what
    differs."""
    recorded: dict[str, list[dict[str, object]]] = {
        "groq/text": STREAMS["Groq"][0],
        "groq/grows": [event | {"odd": at} for at, event in enumerate(STREAMS["Groq"][0])],
        "cut/text": STREAMS["DeepSeek"][0][:-1],
        "kept/text": [event | {"odd": 1} for event in STREAMS["DeepSeek"][0]],
    }
    for name, events in recorded.items():
        file = tmp_path / f"{name}.chunks.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n\n".join(json.dumps(HEAD | event) for event in events))
    (tmp_path / "groq" / "text.json").write_text(json.dumps(STREAMS["Groq"][1] | {"service_tier": "free"}))

    found = examined(tmp_path)

    assert [(each.provider, each.name, bool(each.why)) for each in found] == [
        ("cut", "text", True),
        ("groq", "grows", True),
        ("groq", "text", False),
        ("kept", "text", False),
    ]
    said = list(report(found, shapes=True))
    assert "    grows (openai): a field that is not known changes" in said
    assert "    text: -$.service_tier" in said
    assert "    text (openai): kept odd" in said
    assert said[-1].split() == ["all", "2", "of", "4"]
