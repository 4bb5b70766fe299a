"""The settings of one route: its requests, their users, where live text comes from, and how runs end. A part
of `settings.py`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import ByteSize, Field, model_validator

from proxy.settings.blocks.attach import RouteAttachSettings
from proxy.settings.blocks.block import SettingsBlock
from proxy.settings.blocks.sources import (
    JobSettings,
    NativeSettings,
    PollSettings,
    StagesSettings,
    TapSettings,
)
from proxy.settings.blocks.values import (
    PARAMETER,
    JsonPath,
    MethodAndPath,
    Name,
    PathText,
    Pattern,
    Seconds,
    StageName,
)
from proxy.text.sections import compile_path
from proxy.text.templates import PATH, REQUEST, TEXT, references, strays

JOB_ID = "job"
"""The parameter of a job's paths that is no parameter of the route."""

SourceName = Literal["batch", "poll", "stages", "native", "tap", "job"]


class SectionSettings(SettingsBlock):
    """One text of the answer, and where a viewer shows it. Sections stand in the order of their stages."""

    stage: StageName
    """Name of the stage that makes the text; unique in its route."""
    panel: str = Field(default="reasoning", min_length=1, max_length=64)
    """The panel in which the viewer shows the text: `reasoning`, `chat` or a name of your own."""
    at: JsonPath | None = None
    """JSONPath of the text in the batch answer. Without it, the answer does not have the text: `tap` and
    `native` show it while it is made, nothing is compared, and what was shown stays."""
    poll_at: JsonPath | None = None
    """JSONPath of the text in what is polled: for `poll` in the stage's row, for `job` in the job's status.
    Without it the text comes with the batch answer."""


class ChunkSettings(SettingsBlock):
    """The sizes of the chunks into which text is cut, in characters."""

    min: int = Field(default=5, ge=1, le=200)
    """The fewest characters of a chunk: short words are joined until they have so many."""
    max: int = Field(default=10, ge=1, le=200)
    """No word is joined to a chunk that would then be longer."""
    max_chunk: int = Field(default=64, ge=1, le=4096)
    """A longer word is cut, between graphemes."""

    @model_validator(mode="after")
    def _ordered(self) -> "ChunkSettings":
        if not self.min <= self.max <= self.max_chunk:
            raise ValueError("must have min <= max <= max_chunk")
        return self


class RouteSettings(SettingsBlock):
    """One endpoint that can stream."""

    name: Name
    """Unique; the label `route` of metrics."""
    match: MethodAndPath
    """Method and path. `{name}` stands for one path segment."""
    stream_path: PathText | None = None
    """A path for EventSource. A GET there starts the same request, or joins its run in flight."""
    stream_path_from: list[Literal["same-origin", "same-site", "none"]] = Field(default=["same-origin"])
    """From which sites a browser's GET of `stream_path` may start work, by its `Sec-Fetch-Site`: `same-site`
    is a page of a sibling domain, `none` a typed address. Clients that send no fetch metadata may too; pages
    of other sites never."""
    flag: str = "headgate.streaming"
    """The flag that decides who gets streams."""
    source: SourceName = "batch"
    """The origin of live text."""
    poll: PollSettings | None = None
    """Settings of the source `poll`."""
    stages: StagesSettings | None = None
    """Settings of the source `stages`."""
    native: NativeSettings | None = None
    """Settings of the source `native`."""
    tap: TapSettings | None = None
    """Settings of the source `tap`, which also needs `llm`. The source `job` uses it too, for the tokens of
    its job."""
    job: JobSettings | None = None
    """Settings of the source `job`."""
    sections: list[SectionSettings] = Field(min_length=1)
    """The texts of the answer."""
    failure_text: Pattern | None = None
    """Regular expression that matches a text which is an error message rather than an answer."""
    commit_after: Annotated[float, Field(ge=0, le=15)] = 2.0
    """Seconds that the stream's headers wait for the first text, so that an early error still gets its own
    status. No byte is sent before."""
    heartbeat_s: Annotated[float, Field(gt=0, le=15)] = 10.0
    """The most seconds without a byte on an open stream."""
    progress: bool = False
    """Send `progress` events while there is no text."""
    progress_s: Annotated[float, Field(gt=0, le=10)] = 10.0
    """The most seconds between two `progress` events."""
    replay: Literal["never", "safe"] = "never"
    """A request that failed half-way may be sent to the upstream again: `safe` promises that a repetition
    does no harm. With `event_log.valkey` another replica then takes over a run whose replica is
    lost; for that the store keeps the request with its credentials, encrypted, until the run ends. A request
    of which no byte was sent, or that the upstream answered with 429 or 503 and a short `Retry-After`, is
    always sent again."""
    join: bool = True
    """A request that equals one in flight of the same principal gets the answer of that one. With the same
    `Idempotency-Key` that also holds after its end; with another key it is another request. Use `false` where
    repetition is meant."""
    unwatched: Literal["finish", "cancel"] = "finish"
    """The end of a run that nobody watches: the upstream finishes its work, or the run is cancelled."""
    grace_s: Seconds = 30
    """With `unwatched: cancel`, seconds in which a viewer may come back."""
    max_runs: int = Field(default=500, ge=1)
    """Runs in flight per process; one user may have three quarters of them. Over it, requests get the batch
    answer; those that accept only events get 503."""
    batch_heartbeat_s: Annotated[float, Field(gt=0, le=300)] | None = None
    """Send a space whenever the batch answer has been silent for so many seconds, for clients behind a proxy
    that cuts idle connections. The first space commits status 200 and JSON, whatever the upstream answers
    later."""
    chunk: ChunkSettings = ChunkSettings()
    flush_hz: float = Field(default=30.0, ge=1, le=1000)
    """The most writes per second to one viewer."""
    result: bool = True
    """Send the exact body of the batch answer as text in `stream_done`."""
    max_answer: ByteSize = Field(default=ByteSize(16 * 1024 * 1024), ge=1024)
    """The run fails if its batch answer is larger."""
    attach: RouteAttachSettings | None = None
    """Show the live text in a page that never asks for it."""

    @model_validator(mode="after")
    def _shows_what_stands_nowhere(self) -> "RouteSettings":
        if self.tap is None and self.native is None:
            for section in self.sections:
                if section.at is None:
                    raise ValueError(
                        f"section '{section.stage}' needs 'at': only 'tap' and 'native' show more"
                    )
        return self

    @model_validator(mode="after")
    def _has_its_block(self) -> "RouteSettings":
        if self.source != "batch" and getattr(self, self.source) is None:
            raise ValueError(f"source '{self.source}' needs a block '{self.source}'")
        return self

    @model_validator(mode="after")
    def _stages_are_unique(self) -> "RouteSettings":
        stages = [section.stage for section in self.sections]
        if len(set(stages)) < len(stages):
            raise ValueError("sections: each stage may stand there once")
        return self

    @model_validator(mode="after")
    def _attached_panels_exist(self) -> "RouteSettings":
        panels = {section.panel for section in self.sections}
        for name in self.attach.panels if self.attach else ():
            if name not in panels:
                raise ValueError(f"attach.panels: '{name}' is the panel of no section")
        return self

    @model_validator(mode="after")
    def _tapped_stages_exist(self) -> "RouteSettings":
        panels = {section.stage: section.panel for section in self.sections}
        for index, call in enumerate(self.tap.calls if self.tap else ()):
            where = f"tap.calls[{index}]"
            if call.stage is not None and call.stage not in panels:
                raise ValueError(f"{where}.stage: '{call.stage}' is none of sections: {', '.join(panels)}")
            if call.panel is not None and call.panel != panels.get(call.stage or ""):
                raise ValueError(f"{where}.panel: is not the panel of this stage in sections")
        return self

    @model_validator(mode="after")
    def _native_stages_exist(self) -> "RouteSettings":
        stages = [section.stage for section in self.sections]
        for index, event in enumerate(self.native.events if self.native else ()):
            where = f"native.events[{index}]"
            if event.stage is not None and event.stage not in stages:
                raise ValueError(f"{where}.stage: '{event.stage}' is none of sections: {', '.join(stages)}")
            is_named = event.stage is not None or event.stage_at is not None
            if event.means == "text" and len(stages) > 1 and not is_named:
                raise ValueError(f"{where}: needs 'stage' or 'stage_at', since there are several sections")
        if self.native is not None and self.native.format == "openai" and len(stages) > 1:
            raise ValueError("native.format: 'openai' is for one section, the text of the completion")
        return self

    @model_validator(mode="after")
    def _parameters_exist(self) -> "RouteSettings":
        known = set(PARAMETER.findall(self.match))
        if self.job is not None and JOB_ID in known:
            raise ValueError(f"match: {{{JOB_ID}}} stands for the job's id in paths of 'job'")
        for where, template in self._templates():
            of_job = {JOB_ID} if where.startswith("job.") else set()
            for name in PARAMETER.findall(template):
                if name not in known | of_job:
                    raise ValueError(f"{where}: {{{name}}} is no parameter of match")
        if self.stream_path is not None:
            for name in sorted(known - set(PARAMETER.findall(self.stream_path))):
                raise ValueError(f"stream_path: {{{name}}} of match is missing: it could not be filled in")
        return self

    def _templates(self) -> Iterator[tuple[str, str]]:
        if self.stream_path is not None:
            yield "stream_path", self.stream_path
        if self.poll is not None:
            yield "poll.path", self.poll.path
        if self.stages is not None:
            for index, call in enumerate(self.stages.calls):
                yield f"stages.calls[{index}].request", call.request
        if self.native is not None and self.native.request is not None:
            yield "native.request", self.native.request
        if self.job is not None and self.job.path is not None:
            yield "job.path", self.job.path
        if self.job is not None and self.job.result_path is not None:
            yield "job.result_path", self.job.result_path

    @model_validator(mode="after")
    def _references_exist(self) -> "RouteSettings":
        """A template may use the client's request and earlier stages."""
        known = {REQUEST, PATH}
        for index, call in enumerate(self.stages.calls if self.stages else ()):
            _check_references(call.body, known, f"stages.calls[{index}].body")
            if call.stage in known:
                raise ValueError(f"stages.calls[{index}].stage: '{call.stage}' is taken")
            known.add(call.stage)
        if self.stages is not None:
            _check_references(self.stages.answer, known, "stages.answer")
        if self.native is not None:
            _check_references(self.native.answer, {TEXT, REQUEST, PATH}, "native.answer")
        return self

    @property
    def sources(self) -> frozenset[str]:
        """The sources that a flag variant may choose: those whose block is there."""
        with_block = (name for name in get_args(SourceName) if getattr(self, name, None) is not None)
        return frozenset({"batch", *with_block})


def _check_references(template: Any, known: set[str], where: str) -> None:
    for stray in strays(template):
        raise ValueError(f"{where}: '{stray}' is no reference: those are {{{{ name $.path }}}}")
    for name, path in references(template):
        if name not in known:
            raise ValueError(f"{where}: '{name}' is none of {', '.join(sorted(known))}")
        try:
            compile_path(path)
        except ValueError as exc:
            raise ValueError(f"{where}: {exc}") from None
