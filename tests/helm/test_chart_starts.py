"""The containers of the chart run: their commands, files and secrets, as a user who can write none of it."""

import asyncio
import os
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flags.rollout.policy import file as policy_file
from tests.helm.charting import Rendered, changed, container, render, values_of
from tests.servers.client import eventually
from tests.servers.ports import free_port
from tests.servers.scripted import ScriptedUpstream, silent

USER = 10001
MOUNTED = "/etc/headgate"
END_S = 30.0

SECRETS = {"ONCALL_WEBHOOK": "http://127.0.0.1:9/", "UNLEASH_ADMIN_TOKEN": "*:*.admin"}
A_SECRET = "a-secret-of-32-characters-or-more"


AS_THE_POD = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    *(f"--{each}=-all,+dac_read_search" for each in ("bounding-set", "inh-caps", "ambient-caps")),
)
"""Another user, who may read all and write nothing: a checkout can lie where others may not look."""


def command_of(deployment: Mapping[str, Any], folder: Path) -> list[str]:
    """The container's, on files below `folder`. Who is not root stays who they are."""
    of = container(deployment)
    command = [part.replace(MOUNTED, str(folder)) for part in (*of["command"], *of["args"])]
    return [*AS_THE_POD, *command] if os.getuid() == 0 else command


def laid_out(rendered: Rendered, deployment: Mapping[str, Any], folder: Path) -> None:
    """The pod's ConfigMaps as files below `folder`, which stands for `/etc/headgate`; not to be written."""
    pod = deployment["spec"]["template"]["spec"]
    maps = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    for mount in container(deployment)["volumeMounts"]:
        if mount["name"] not in maps:
            continue
        place = folder / Path(mount["mountPath"]).relative_to(MOUNTED)
        data = rendered.one("ConfigMap", maps[mount["name"]])["data"]
        for name, text in data.items():
            path = place if "subPath" in mount else place / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def written(folder: Path) -> dict[Path, int]:
    """Return the time at which each file was written last."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def with_free_ports(deployment: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """Port name to a free port of this machine, put into the files in the place of the container's."""
    ports = {}
    for port in container(deployment)["ports"]:
        ports[port["name"]] = free_port()
        own, free = f"0.0.0.0:{port['containerPort']}", f"127.0.0.1:{ports[port['name']]}"
        for path in folder.glob("*.yaml"):
            path.write_text(path.read_text().replace(own, free))
    return ports


def environment(deployment: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that the container's `env` gives, with made-up secrets, and what the image
    sets."""
    given = {
        each["name"]: SECRETS.get(each["name"], A_SECRET) for each in container(deployment).get("env", [])
    }
    path = f"{Path(sys.executable).parent}:{os.defpath}"
    return {**given, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}


@asynccontextmanager
async def started(deployment: Mapping[str, Any], folder: Path) -> AsyncIterator[Process]:
    """The container's command. Ends it as Kubernetes does, and sees that it ends in order."""
    command = command_of(deployment, folder)
    process = await asyncio.create_subprocess_exec(*command, cwd="/", env=environment(deployment))
    try:
        yield process
        process.terminate()
        assert await asyncio.wait_for(process.wait(), END_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def passes(process: Process, probe: Mapping[str, Any], ports: Mapping[str, int]) -> None:
    """Wait as the kubelet would until the probe has passed."""
    get = probe["httpGet"]
    patience_s = probe["periodSeconds"] * probe.get("failureThreshold", 3)

    async def passed() -> bool:
        assert process.returncode is None, "it has ended"
        try:
            answer = await client.get(f"http://127.0.0.1:{ports[get['port']]}{get['path']}")
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    async with httpx.AsyncClient(timeout=probe.get("timeoutSeconds", 1)) as client:
        await eventually(passed, within_s=patience_s)


async def helm_test(pod: Mapping[str, Any], ports: Mapping[str, int]) -> list[int]:
    """Run what `helm test` runs, with this machine's ports: the statuses that it prints."""
    (of,) = pod["spec"]["containers"]
    services = {"headgate-admin:9464": ports["admin"], "headgate:80": ports["public"]}
    script, *urls = of["args"]
    for service, port in services.items():
        urls = [url.replace(f"http://{service}/", f"http://127.0.0.1:{port}/") for url in urls]
    command = [sys.executable, *of["command"][1:], script, *urls]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    written, _ = await asyncio.wait_for(process.communicate(), END_S)
    assert process.returncode == 0
    return [int(line.split()[1]) for line in written.decode().splitlines()]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Stands for `/etc/headgate`. Not below pytest's own folder, into which others may not look."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@pytest.mark.parametrize("example", ["dev", "production"])
async def test_the_proxy_starts_as_the_chart_says_and_passes_its_probes(example: str, folder: Path) -> None:
    """Nothing it talks to is there: no upstream, no Unleash, no Valkey. That keeps no pod from starting."""
    nowhere = {"settings.upstream.url": "http://127.0.0.1:9", "drainSeconds": 1}
    if example == "production":
        nowhere |= {
            "settings.flags.unleash.url": "http://127.0.0.1:9",
            "settings.event_log.valkey.url": "redis://:${VALKEY_PASSWORD}@127.0.0.1:9",
        }
    rendered = render(changed(values_of(example), nowhere))
    deployment = rendered.one("Deployment")
    laid_out(rendered, deployment, folder)
    ports = with_free_ports(deployment, folder)
    before = written(folder)

    async with started(deployment, folder) as process:
        for name in ("startup", "liveness", "readiness"):
            await passes(process, container(deployment)[f"{name}Probe"], ports)
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{ports['public']}/anything")
        said = await helm_test(rendered.one("Pod", "headgate-test"), ports)

    assert answer.status_code == 502  # the relay's own: nobody is there
    assert said == 2 * [200]
    assert written(folder) == before


async def test_the_probes_pass_while_the_upstream_blocks(folder: Path) -> None:
    """It accepts requests and answers none of them."""
    async with ScriptedUpstream(silent).running() as upstream, httpx.AsyncClient(timeout=END_S) as client:
        values = changed(values_of("dev"), {"settings.upstream.url": upstream.url, "drainSeconds": 1})
        deployment = render(values).one("Deployment")
        laid_out(render(values), deployment, folder)
        ports = with_free_ports(deployment, folder)
        url = f"http://127.0.0.1:{ports['public']}/slow"
        async with started(deployment, folder) as process, asyncio.TaskGroup() as waiting:
            await passes(process, container(deployment)["startupProbe"], ports)
            tasks = [waiting.create_task(client.get(url)) for _ in range(20)]
            await eventually(lambda: len(upstream.asked) == len(tasks))
            for name in ("liveness", "readiness"):
                await passes(process, container(deployment)[f"{name}Probe"], ports)
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()


def test_the_controller_is_told_of_a_missing_cluster_by_name(folder: Path) -> None:
    """Outside of one its command reads its files, finds no Lease to take, and says so."""
    rendered = render(values_of("production"))
    deployment = rendered.one("Deployment", "headgate-controller")
    laid_out(rendered, deployment, folder)

    ended = subprocess.run(
        command_of(deployment, folder),
        cwd="/",
        env=environment(deployment),
        capture_output=True,
        timeout=END_S,
    )

    assert ended.returncode == 1
    assert b"KUBERNETES_SERVICE_HOST is not set" in ended.stderr
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(deployment).items():
            patch.setenv(name, value)
        assert policy_file.load(folder / "rollout.yaml").mode == "observe"
