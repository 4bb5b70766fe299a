"""The HTTP reference: its entries come from the code, their descriptions stand here.

An entry without a description is an error, and so is a description without an entry.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from http import HTTPStatus
from typing import TypeVar

from starlette.routing import Route

from proxy import errors
from proxy.errors import Fault, UpstreamAborted, UpstreamError
from proxy.observe.admin import Admin
from proxy.observe.page.served import OperatorsPage
from proxy.replicas.followed_run import REPLICA_LOST
from proxy.runs.ending import CANCELLED, SHUTDOWN
from proxy.text.events import TERMINAL, EventType
from proxy.viewers.api import EVENTS, RUN, TICKETS, RunApi
from proxy.viewers.api import RUNS as OWN_RUNS
from proxy.viewers.viewer import STREAM_HEADERS

Key = TypeVar("Key")

ROUTES = """\
| request | answer |
| --- | --- |
| a route's method and path, `Accept: text/event-stream` | the stream, if the flag says so; else the batch answer: the \
upstream's own stream, or its JSON, as events to a client that takes nothing else. A request that names an existing \
run, by `Last-Event-ID`, `headgate-run` or `Idempotency-Key`, always gets that run and never makes another call, \
whatever the flag says by then; 422 if that run was asked for with another body |
| a route's method and path, anything else | the batch answer |
| `GET` of a route's `stream_path` | the stream of the same request with an empty body. Joins the run in flight of \
the same user; with `Last-Event-ID` resumes that run, and never starts one. 204 when there is nothing more, 404 when \
there is no such run |"""

RUNS: Mapping[tuple[str, str], str] = {
    ("GET", EVENTS): (
        "the run's events from `Last-Event-ID` or `?after=` on (an event's id or its number), then live. Waits up to "
        "`attach_wait_s` for a run that has not begun. An unknown cursor gets a snapshot: each text in one "
        "`content_replace`. 204 when there is nothing more"
    ),
    ("GET", OWN_RUNS): (
        "the caller's runs in flight, also of other workers and replicas that share the event log: `run`, `route` "
        "and `age_s` of each; no text, and nothing of anybody else's"
    ),
    ("GET", RUN): "the run's state as JSON, without text: `state` is `running`, `complete` or `failed`",
    (
        "DELETE",
        RUN,
    ): "ends the run: 202, and its viewers get `cancelled`. A run that has ended stays as it was",
    ("POST", TICKETS): (
        'with `{"run": "<id>"}`: 201 and a `ticket`, which opens that run\'s events once, within 30 seconds, as '
        "`?ticket=`, for EventSource, which cannot send headers"
    ),
}

REST = """\
| `GET` or `HEAD` of `/_headgate/attach.json` | for [`attach.js`](../browser.md#a-page-that-nobody-changes): the routes \
with a block `attach` that stream for this caller, as JSON. For everybody else a document without routes |
| `GET` or `HEAD` of `/_headgate/client.js`, `state.js`, `smoother.js`, `sse.js` | [the browser's modules](../browser.md), to anybody |
| anything else under `/_headgate/` | 404 |
| anything else | relayed |

All but a run's owner get 404, with the same bytes as for a run that never was.

Request headers of Headgate's own: `headgate-run`, a random UUID in lower case, chooses the run's id, so that its events
can be asked for beside the POST (409 if it is taken). If the request joins a run, the chosen id names that run, too. If
the request is relayed, viewers that wait for its events get 404 at once. Every answer of a run, also one in JSON, names
the run in `headgate-run`; an answer without it is the upstream's own. `Idempotency-Key` makes a repeated request join
the run, also after its end (422 with another body). With either header a batch request whose user has the flag is a
run, and its answer is still the upstream's own, byte for byte. Where a run has no such answer (the sources `native` and
`stages`, a body with `"stream": true`, a body over 8 MiB), there is no run, and the request is relayed."""

OF_RUN = {
    "headgate-run": "its id",
    "headgate-decision": "`stream;reason=…;source=…`: the decision and its reason",
}
"""Headers of a stream whose values depend on the run."""

TYPES: Mapping[EventType, tuple[str, str]] = {
    EventType.STAGE_START: ("a stage begins", "`index`, `total_expected`"),
    EventType.CONTENT_CHUNK: ("text", "`chunk_index`, by stage"),
    EventType.CONTENT_REPLACE: (
        "the shown text was not the answer's; `content` is the whole text",
        "`sha256`",
    ),
    EventType.STAGE_COMPLETE: ("a stage's text is final", "`sha256` of its UTF-8, `chars`"),
    EventType.PROGRESS: (
        "at times while there is nothing else, if the route turns it on",
        "`elapsed_s`, `stage_index`, `total_expected`, `eta_s` (from past runs; absent when unknown)",
    ),
    EventType.ERROR: (
        "the answer cannot be given, or not the rest of it",
        "`error_code`, `retry_available`, `partial`, `status`",
    ),
    EventType.STREAM_DONE: (
        "the answer is complete",
        "`status`, `source`, `recovered`, `sha256`; `result` (the batch answer's body as text) if the route sends it",
    ),
}

WIRE = """\
Each event is `id: <run>:<seq>` (`<run>.<n>:<seq>` after another replica has taken the run over for the n-th time; the
number alone then gets a snapshot) and one `data:` line of JSON with `type`, `panel`, `stage`, `content` and `metadata`; a
heartbeat is the comment `: hb` with a single line feed. A stream ends with exactly one terminal event; a
stream without one was cut: come back with the last id. A stream that Headgate cuts on purpose ends with a `retry:`
line, different for each viewer."""

CODES: Mapping[str, str] = {
    Fault.CONNECT: "the upstream could not be reached",
    Fault.BUSY: "this proxy has reached its limit of requests under way",
    Fault.RESET: "the upstream broke off its answer",
    Fault.STATUS: "the upstream answered with the status in `metadata.status`",
    Fault.FIRST_BYTE_TIMEOUT: "the upstream sent nothing for `upstream.timeouts.first_byte_s`",
    Fault.IDLE_TIMEOUT: "the upstream stopped for `upstream.timeouts.idle_s`",
    Fault.TOTAL_TIMEOUT: "the upstream took longer than `upstream.timeouts.total_s`",
    Fault.MALFORMED: "the upstream's answer cannot be read",
    Fault.TRUNCATED: "the upstream's answer is cut short",
    Fault.TOO_LARGE: "the upstream's answer is larger than the route's `max_answer`",
    Fault.FAILURE_TEXT: "one of the answer's texts is an error sentence, by the route's `failure_text`",
    Fault.JOB_FAILED: "the upstream says that the job which it had accepted has failed",
    Fault.LOG_STORE: "the shared store was away for too long to follow the run of another replica",
    Fault.INTERNAL: "an error of Headgate; the log has it",
    CANCELLED: "cancelled by its owner, or because it had no viewers and the route ends such runs",
    SHUTDOWN: "this proxy ended, and no other could take over",
    REPLICA_LOST: (
        "the process that executed the run is gone, and no other may ask again; the shown text stays, `partial`"
    ),
}

NEVER_LAST = {Fault.SOURCE_LOST}
"""Faults that always have a next recovery step."""

ADMIN: Mapping[tuple[str, str], str] = {
    ("GET", "/"): "the operators' page; its style and its script are in it",
    ("GET", "/now"): (
        "what that page shows, without the token; for `text/event-stream` as a stream, an event a second, for at most "
        "16 readers of a process, else once as JSON. Its fields are not a contract"
    ),
    ("GET", "/warnings"): "the last 50 warnings of all processes, the newest first; bearer `admin_token`",
    (
        "GET",
        "/settings",
    ): "the settings in force with secrets masked, as of `headgate settings`; bearer `admin_token`",
    ("GET", "/livez"): "200",
    ("GET", "/readyz"): (
        "200, or 503 while draining; as JSON also whether streaming is `killed`, by the flag (`kill_flag`) or by the "
        "local switch (`kill_switch`, with `reason`, `by` and `at`), the flags' age and problem, and the store "
        "(`event_log_up`, and the names in `event_log_shards_down`)"
    ),
    ("GET", "/metrics"): "Prometheus text",
    ("GET", "/runs"): "counts of runs by route, and of asyncio tasks, of the process that answers",
    ("GET", "/learned"): (
        "models that the model port asks for no streams: `provider`, `model`, `why`, and `for_s`, the seconds that are "
        "left; all processes that share the denylist give the same"
    ),
    ("GET", "/llm"): (
        "fields of providers' streams that no table has and that were kept, by `provider` and `field`, with the number "
        "of `answers`, of the process that answers; at most 256"
    ),
    ("GET", "/debug/stalls"): (
        "the 20 longest stalls of the event loop of the process that answers, above 0.1 s: `at`, `seconds`, and up to "
        "three `stacks`, each with how often it was `seen` and its `frames`, file, line and function, the innermost "
        "first; bearer `admin_token`"
    ),
    ("POST", "/kill"): (
        "turns streaming off for everybody; bearer `admin_token`: 401 without it, 403 when none is set. A body of up to "
        "1 KiB is kept as the reason; `?by=` says who, otherwise it is the caller's address"
    ),
    ("DELETE", "/kill"): "turns streaming on again; with the same token, and `?by=`",
}


def text(note: str) -> str:
    """The whole page. Raises ValueError where descriptions and code differ."""
    lines = [note, "# HTTP", "", "## Public port", "", ROUTES, *_requests(_run_api(), RUNS), REST, ""]
    lines += ["## A stream", "", "| header | value |", "| --- | --- |"]
    lines += [f"| `{name.decode()}` | `{value.decode()}` |" for name, value in STREAM_HEADERS]
    lines += [f"| `{name}` | {value} |" for name, value in OF_RUN.items()]
    lines += ["", WIRE, "", "| `type` | when | `metadata` |", "| --- | --- | --- |"]
    for type_, (when, metadata) in _same(EventType, TYPES):
        lines.append(f"| `{type_}`{', terminal' if type_ in TERMINAL else ''} | {when} | {metadata} |")
    lines += ["", "| `error_code` | what happened |", "| --- | --- |"]
    codes = [*(fault for fault in Fault if fault not in NEVER_LAST), CANCELLED, SHUTDOWN, REPLICA_LOST]
    lines += [f"| `{code}` | {text} |" for code, text in _same(codes, CODES)]
    lines += ["", "## Problems", "", PROBLEMS, "", "| status | `detail` |", "| --- | --- |"]
    lines += [f"| {status} {HTTPStatus(status).phrase} | {detail} |" for status, detail in _of_upstream()]
    lines += ["", "## Admin port", "", "| request | answer |", "| --- | --- |", *_requests(_admin(), ADMIN)]
    return "\n".join(lines) + "\n"


PROBLEMS = """\
A refusal of Headgate, and its answer for an upstream that does not answer, is an `application/problem+json` with
`title`, `status` and `detail`. Until a route's `commit_after` is over no part of a stream is sent, so that an early
failure has its own status: the upstream's answer if there is one, else a problem. A refusal's `detail` says what to
change; for failures of the upstream `detail` is one of these:"""


def _requests(found: Iterable[tuple[str, str]], descriptions: Mapping[tuple[str, str], str]) -> Iterator[str]:
    for (method, path), text in _same(found, descriptions):
        yield f"| `{method} {path}` | {text} |"


def _same(
    found: Iterable[Key], descriptions: Mapping[Key, str | tuple[str, str]]
) -> list[tuple[Key, object]]:
    """The code's entries with their descriptions, in the order of the descriptions."""
    differ = set(found) ^ set(descriptions)
    if differ:
        raise ValueError(f"the code and the words of the HTTP reference differ in {differ}")
    return list(descriptions.items())


def _run_api() -> Iterator[tuple[str, str]]:
    return ((method, path) for path, methods in RunApi.ENDPOINTS.items() for method in methods)


def _admin() -> Iterator[tuple[str, str]]:
    """The routes do not depend on what the admin port shows."""
    page = OperatorsPage(**dict.fromkeys(field.name for field in fields(OperatorsPage) if field.init))
    admin = Admin(**{**dict.fromkeys(field.name for field in fields(Admin)), "page": page})
    for route in admin.app().routes:
        assert isinstance(route, Route)
        yield from ((method, route.path) for method in route.methods or () if method != "HEAD")


def _of_upstream() -> list[tuple[int, str]]:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UpstreamError)
    ]
    return sorted({(kind.status, kind.detail) for kind in kinds if kind is not UpstreamAborted})
