"""The settings' routes, compiled: which requests match a route, and what its runs need to know."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.values import PARAMETER
from proxy.text.sections import Section

_SEGMENT = r"(?!(?:\.|%2[eE]){1,2}(?:/|$))[^/?#]+"
"""A parameter's value. `.` and `..` are refused: filled into another path they would change its other
segments."""


MAX_SENTENCE_CHARS = 64 * 1024
"""A longer text is never taken for an error message: searching it would block the loop."""


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path with `{name}` for single segments, which are matched and filled in as they are encoded."""

    text: str

    def pattern(self) -> str:
        parts = PARAMETER.split(self.text)
        return "".join(
            f"(?P<{part}>{_SEGMENT})" if index % 2 else re.escape(part) for index, part in enumerate(parts)
        )

    def nameless(self) -> str:
        """The same without names of groups, to be joined with others."""
        return _without_names(self.pattern())

    def fill(self, parameters: Mapping[str, str]) -> str:
        return PARAMETER.sub(lambda match: parameters[match[1]], self.text)


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint that can stream."""

    settings: RouteSettings
    method: str
    path: PathTemplate
    sections: tuple[Section, ...]
    failure_text: re.Pattern[str] | None

    @classmethod
    def compile(cls, settings: RouteSettings) -> "Route":
        method, _, path = settings.match.partition(" ")
        return cls(
            settings,
            method,
            PathTemplate(path),
            tuple(Section.compile(s.stage, s.panel, s.at) for s in settings.sections),
            re.compile(settings.failure_text) if settings.failure_text else None,
        )

    @property
    def name(self) -> str:
        return self.settings.name

    def is_failure(self, text: str) -> bool:
        """True if a text is an error message rather than an answer."""
        if self.failure_text is None or len(text) > MAX_SENTENCE_CHARS:
            return False
        return self.failure_text.search(text) is not None


@dataclass(frozen=True, slots=True)
class Match:
    """A request that matches a route."""

    route: Route
    parameters: Mapping[str, str]
    by_stream_path: bool


class Routes:
    """All routes. A request that matches none costs one look-up and at most one regular expression."""

    def __init__(self, settings: Iterable[RouteSettings]) -> None:
        self.all = tuple(Route.compile(route) for route in settings)
        by_method: dict[str, list[tuple[re.Pattern[str], Route, bool]]] = {}
        for route in self.all:
            pattern = re.compile(route.path.pattern())
            by_method.setdefault(route.method, []).append((pattern, route, False))
            if route.settings.stream_path is not None:
                pattern = re.compile(PathTemplate(route.settings.stream_path).pattern())
                by_method.setdefault("GET", []).append((pattern, route, True))
        self._by_method = by_method
        self._any = {
            method: re.compile("|".join(_without_names(entry[0].pattern) for entry in entries))
            for method, entries in by_method.items()
        }

    def match(self, method: str, target: bytes) -> Match | None:
        """The route of a request, by its method and its unchanged target."""
        any_of = self._any.get(method)
        if any_of is None:
            return None
        path = target.partition(b"?")[0].decode("latin-1")
        if any_of.fullmatch(path) is None:
            return None
        for pattern, route, by_stream_path in self._by_method[method]:
            if found := pattern.fullmatch(path):
                return Match(route, found.groupdict(), by_stream_path)
        return None


def _without_names(pattern: str) -> str:
    return re.sub(r"\(\?P<[^>]+>", "(?:", pattern)
