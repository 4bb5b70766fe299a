"""Changing a flag in the flag file, for rollouts without a server. Behind the port of `flag_admin`.

The file is replaced whole, so a proxy reads either the old or the new one. Everything else in it stays as it
is, down to keys nobody here knows; only the layout becomes that of two spaces. Links are followed, mode and
owner kept; extended attributes and hard links are not.

What it cannot do: a file has no lock that an editor would respect. Whoever saves it within the microseconds
between the last look and the replacement is overwritten. Nor does a file say who changed it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flags.document import Document, parse
from flags.engine import Engine
from flags.errors import FlagAdminError, FlagChanged, FlagDocumentError
from flags.rollout.writing.exposure import expected_share
from flags.rollout.writing.flag_admin import Flag, Kill, ManagedFlag, Strategy
from flags.rollout.writing.marks import is_written
from flags.rollout.writing.strategies import (
    choose,
    hides,
    problems_of,
    problems_of_kill_flag,
    read_strategy,
    refuse_unwritable,
    write_strategy,
)
from flags.targeting import digest, surroundings

MAX_BYTES = 16 << 20
KILL_ATTEMPTS = 3
"""The most attempts of a kill when somebody else saves the file in between."""

BY_US = "headgate"
BY_OTHERS = "somebody with the file"

_CONTENT_BITS = 12


@dataclass(frozen=True, slots=True)
class _Found:
    """One reading of the file."""

    content: bytes
    stamp: tuple[int, int, int, int]
    features: dict[str, dict[str, Any]]
    document: dict[str, Any]
    checked: Document

    @property
    def event_id(self) -> int:
        """Milliseconds of the last change and 12 bits of the content: grows, below 2**53 until 2039."""
        digest = int.from_bytes(hashlib.sha256(self.content).digest()[:2]) >> (16 - _CONTENT_BITS)
        return (self.stamp[0] // 1_000_000) << _CONTENT_BITS | digest


class FileAdmin:
    """One flag of one file. A FlagAdmin. Holds nothing open."""

    def __init__(self, path: Path | str, flag: ManagedFlag) -> None:
        self._path = Path(path)
        self._flag = flag
        self._ours: int | None = None

    def __repr__(self) -> str:
        return f"<FileAdmin {self._path} {self._flag.name}>"

    async def problems(self) -> list[str]:
        try:
            return list(self._problems(self._load()))
        except FlagAdminError as exc:
            return [str(exc)]

    async def read(self) -> Flag:
        return self._read(self._load())

    async def write(self, strategy: Strategy, expected: Flag) -> Flag:
        refuse_unwritable(strategy)
        if strategy.disabled:
            raise ValueError("a flag file has no disabled strategies: write share 0")
        if strategy.id != expected.strategy.id:
            raise ValueError("only the strategy that was read can be written")
        found = self._load()
        flag = self._read(found)
        if (flag.event_id, flag.strategy.id) != (expected.event_id, expected.strategy.id):
            raise FlagChanged(f"{self._path} was changed since it was read; nothing was written")
        if is_written(strategy, flag.strategy):
            return flag
        feature = self._feature(found)
        index = [each.id for each in _strategies(feature)].index(strategy.id)
        raw = feature["strategies"][index]
        raw.update(_without_defaults(write_strategy(strategy), raw))
        self._replace(found)
        written = await self.read()
        if written.strategy.digest != strategy.digest:
            raise FlagChanged(f"{self._path} was written, and at once changed by somebody else", wrote=True)
        return written

    async def kill(self, on: bool) -> None:
        for attempt in range(KILL_ATTEMPTS):
            found = self._load()
            if _is_killed(found, self._flag.kill_flag) == on:
                return
            self._set_kill_flag(found, on)
            try:
                self._replace(found)
            except FlagChanged:
                if attempt == KILL_ATTEMPTS - 1:
                    raise
        if _is_killed(self._load(), self._flag.kill_flag) != on:
            raise FlagAdminError(
                f"{self._path}: {self._flag.kill_flag} was written, and is not {'on' if on else 'off'}"
            )

    def _set_kill_flag(self, found: _Found, on: bool) -> None:
        kill_flag = found.features.get(self._flag.kill_flag)
        if kill_flag is None:
            kill_flag = {"name": self._flag.kill_flag, "type": "kill-switch", "enabled": on, "strategies": []}
            found.document["features"].append(kill_flag)
        kill_flag["enabled"] = on
        if on and any(problems_of_kill_flag(kill_flag["strategies"], self._flag)):
            kill_flag["strategies"] = []  # which is everybody: in an emergency it must not ask who

    def _problems(self, found: _Found) -> Iterator[str]:
        flag = found.features.get(self._flag.name)
        if flag is None:
            yield f"{self._path} has no flag {self._flag.name}: add it, with one gradual rollout of 0 %"
        else:
            yield from self._problems_of_flag(flag)
        kill_flag = found.features.get(self._flag.kill_flag)
        if kill_flag is None:
            yield f"{self._path} has no flag {self._flag.kill_flag}: add it, turned off, with strategies []"
        else:
            yield from problems_of_kill_flag(kill_flag["strategies"], self._flag)
        if not os.access(self._path.resolve().parent, os.W_OK):
            yield f"{self._path} cannot be replaced: give this process the right to write its directory"

    def _problems_of_flag(self, flag: Mapping[str, Any]) -> Iterator[str]:
        name, strategies = self._flag.name, flag["strategies"]
        if not flag["enabled"]:
            yield f"{name} is off: set enabled to true, with a share of 0"
        if any(strategy.get("disabled") for strategy in strategies):
            yield f"{name} has a disabled strategy, which the engine takes for an enabled one: remove it"
        if flag.get("dependencies"):
            yield f"{name} depends on another flag, which hides it: remove its dependencies"
        if hides(flag.get("variants") or ()):
            yield f"{name} has a variant named dark beside others, which hides some of the arm: remove it"
        if not strategies:
            yield f"{name} has no strategy, which is everybody: give it one gradual rollout of 0 %"
        else:
            yield from problems_of([{**strategy, "disabled": False} for strategy in strategies], self._flag)

    def _load(self) -> _Found:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                content = file.read(MAX_BYTES + 1)
        except OSError as exc:
            raise FlagAdminError(f"flag file {self._path}: cannot be read: {exc.strerror}") from exc
        if len(content) > MAX_BYTES:
            raise FlagAdminError(f"flag file {self._path}: is larger than {MAX_BYTES} bytes")
        checked = self._check(content)
        document = json.loads(content)
        features = {feature["name"]: feature for feature in document["features"]}
        return _Found(content, _stamp(status), features, document, checked)

    def _check(self, content: bytes) -> Document:
        """Return the document as the proxies take it. Raises FlagAdminError for what they would refuse."""
        try:
            document = parse(content)
        except FlagDocumentError as exc:
            raise FlagAdminError(f"flag file {self._path}: {exc.problem}") from exc
        engine = Engine(document.state, document.arms)
        engine.close()
        if engine.names != document.names:
            raise FlagAdminError(f"flag file {self._path}: the evaluation engine refuses it")
        return document

    def _feature(self, found: _Found) -> dict[str, Any]:
        try:
            return found.features[self._flag.name]
        except KeyError:
            raise FlagAdminError(f"flag file {self._path}: has no flag {self._flag.name}") from None

    def _read(self, found: _Found) -> Flag:
        feature = self._feature(found)
        ours, others = choose(_strategies(feature), self._flag)
        kill = _kill(found, self._flag.kill_flag)
        segments = {segment.get("id"): segment for segment in found.document.get("segments") or ()}
        return Flag(
            strategy=ours,
            others=others,
            enabled=feature["enabled"],
            event_id=found.event_id,
            event_by=BY_US if found.event_id == self._ours else BY_OTHERS,
            killed=kill is Kill.ON,
            kill=kill,
            around=digest(surroundings(feature, found.features, segments)),
            expected=expected_share(found.checked, found.features, self._flag, ours.group_id),
        )

    def _replace(self, found: _Found) -> None:
        """Put what `found.document` has become in the file's place, if that is still what was found."""
        content = json.dumps(found.document, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self._check(content)
        try:
            path = self._path.resolve(strict=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}.headgate")
            try:
                _write_draft(draft, content, path.stat(), found.stamp[0])
                if _stamp(path.stat()) != found.stamp:
                    raise FlagChanged(f"{self._path} was changed since it was read; nothing was written")
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
            _sync_directory(path.parent)
        except OSError as exc:
            raise FlagAdminError(f"flag file {self._path}: cannot be replaced: {exc.strerror}") from exc
        self._ours = self._load().event_id


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _strategies(feature: Mapping[str, Any]) -> list[Strategy]:
    # The engine does not know `disabled`, and takes such a strategy for an enabled one: so do we.
    return [replace(read_strategy(raw, at), disabled=False) for at, raw in enumerate(feature["strategies"])]


def _kill(found: _Found, kill_flag: str) -> Kill:
    if kill_flag not in found.features:
        return Kill.ABSENT
    if _is_killed(found, kill_flag):
        return Kill.ON
    return Kill.SOME if kill_flag in found.checked.enabled else Kill.OFF


def _is_killed(found: _Found, kill_flag: str) -> bool:
    engine = Engine(found.checked.state, found.checked.arms)  # as the proxies ask it
    try:
        return engine.ask(kill_flag, None).enabled
    finally:
        engine.close()


def _without_defaults(said: dict[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    # The file's own format knows no `disabled`, and leaves out what is empty: nothing is added to it.
    empty = {key for key, value in said.items() if not value and key not in raw}
    return {key: value for key, value in said.items() if key not in empty | {"disabled"}}


def _write_draft(draft: Path, content: bytes, like: os.stat_result, after_ns: int) -> None:
    draft.unlink(missing_ok=True)  # of a process of this number that died
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        with suppress(PermissionError):  # who is not root cannot give files away
            os.fchown(fd, like.st_uid, like.st_gid)
        os.fchmod(fd, like.st_mode & 0o7777)
        now_ns = os.fstat(fd).st_mtime_ns
        if now_ns // 1_000_000 <= after_ns // 1_000_000:  # within one tick, or after the clock was set back
            later_ns = (after_ns // 1_000_000 + 1) * 1_000_000
            os.utime(fd, ns=(later_ns, later_ns))
        os.fsync(fd)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
