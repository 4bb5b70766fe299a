"""What a process loads: what its settings need, and before it forks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAVY = {
    *("UnleashClient", "botocore", "cryptography", "httpx", "jwt", "kubernetes", "numpy", "opentelemetry"),
    *("pygments", "redis", "requests", "rich", "scipy"),
}
"""Packages that no proxy needs by itself."""

ROUTE = {
    "name": "answer",
    "match": "POST /api/questions/{id}/answer",
    "sections": [{"stage": "answer", "panel": "chat", "at": "$.answer.text"}],
}

NEEDED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing else": ({}, set()),
    "a store": ({"event_log": {"valkey": {"url": "redis://127.0.0.1:9", "key": "k" * 32}}}, {"redis"}),
    "a flag server": ({"flags": {"unleash": {"url": "http://127.0.0.1:9", "token": "t" * 16}}}, {"httpx"}),
    "tokens that are verified": ({"identity": {"jwt": {"key": "k" * 32}}}, {"jwt"}),
    "keys of an issuer": ({"identity": {"jwt": {"jwks_url": "http://127.0.0.1:9/keys"}}}, {"jwt", "httpx"}),
    "a controller": ({"controller": "http://127.0.0.1:9"}, {"httpx"}),
    "traces": ({"traces": {"endpoint": "http://127.0.0.1:9"}}, {"opentelemetry", "httpx"}),
}

# Each case in a process of its own, which a fork makes quickly.
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
import proxy.commands.serve
from proxy import app
from proxy.loading import load_optional
from proxy.settings.file import load

async def running(settings):
    async with app.running(settings, Path(sys.argv[1])):
        pass

for path in sys.argv[2:]:
    if os.fork() == 0:
        settings = load(Path(path))
        load_optional(settings)
        print(path, *{name.partition(".")[0] for name in sys.modules}, flush=True)
        if settings == load(Path(sys.argv[2])):
            asyncio.run(running(settings))
            print("running", *sys.modules, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_a_process_loads_what_its_settings_need_and_no_more(tmp_path: Path) -> None:
    """A store's client, an HTTP client, ciphers and tracing are most of what could be loaded; statistics are
    the controller's. What is needed is there before the fork: the workers share its memory, and no first
    request waits for an import."""
    flags = tmp_path / "flags.json"
    flags.write_text(json.dumps({"version": 2, "features": []}))
    paths = []
    for what, (more, _) in NEEDED.items():
        paths.append(tmp_path / f"{what.replace(' ', '-')}.yaml")
        settings = {"upstream": {"url": "http://127.0.0.1:9"}, "flags": {"file": str(flags)}}
        paths[-1].write_text(json.dumps({**settings, "routes": [ROUTE], **more}))
    argv = [sys.executable, "-c", PROGRAM, str(tmp_path), *map(str, paths)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    loaded = {line.split()[0]: set(line.split()[1:]) for line in said}

    for path, (what, (_, needed)) in zip(paths, NEEDED.items(), strict=True):
        assert needed <= loaded[str(path)], what
    modules = loaded["running"]
    assert HEAVY & ({name.partition(".")[0] for name in modules} | loaded[str(paths[0])]) == set()
    assert "proxy.gateway" in modules
    assert [name for name in modules if name.startswith(("flags.rollout", "prometheus_client.parser"))] == []
