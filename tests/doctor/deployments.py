"""Deployments with one fault each, for `headgate doctor` to find."""

import json
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

from proxy.doctor.examination import Wishes, examine
from proxy.doctor.findings.diagnosis import Diagnosis
from proxy.settings.settings import Settings
from tests.servers.scripted import Asked, Script
from tests.servers.serving import flag_document
from tests.servers.streaming import route


def date(behind_s: float = 0.0) -> bytes:
    """A server's `Date`, with its line's end."""
    return f"date: {formatdate(time() - behind_s, usegmt=True)}\r\n".encode()


def saying(body: Any, status: bytes = b"200 OK", behind_s: float = 0.0) -> Script:
    """A server that says the same in JSON to everything."""

    async def say(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(json.dumps(body).encode(), status, date(behind_s))

    return say


def settings_of(directory: Path, upstream_url: str, **more: Any) -> Settings:
    flags = directory / "flags.json"
    flags.write_text(json.dumps(flag_document()))
    upstream = {"url": upstream_url, "pool": {"keep_alive_s": 0.1}, **more.pop("upstream", {})}
    document = {"upstream": upstream, "flags": {"file": str(flags)}, "routes": [route()], **more}
    return Settings.model_validate(document)


async def examined(settings: Settings, **wishes: Any) -> Mapping[str, Diagnosis]:
    """Every diagnosis by its check's name; each is told as it is found."""
    told: list[Diagnosis] = []
    found = await examine(settings, Wishes(**wishes), told.append)
    assert told == found
    assert len({each.check for each in found}) == len(found)
    return {each.check: each for each in found}
