"""`headgate.yaml`, as somebody who writes one meets it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from proxy.errors import SettingsError
from proxy.outbound import origin
from proxy.settings.file import load
from proxy.settings.settings import Settings
from tests.servers.authority import certificates
from tests.servers.streaming import route

SECRET = "s3cr3t-value-of-the-tests"


def minimal(**more: Any) -> dict[str, Any]:
    return {
        "upstream": {"url": "http://127.0.0.1:8000"},
        "flags": {"file": "f.json"},
        "routes": [route()],
        **more,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headgate.yaml"


def loaded(path: Path, document: Any) -> Settings:
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return load(path)


def problems(path: Path, document: Any) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        loaded(path, document)
    return refused.value.problems


def test_the_minimal_file_works(path: Path) -> None:
    """It names the upstream, the flags and the routes: all else has a default."""
    shortest = route()
    del shortest["commit_after"]
    settings = loaded(path, minimal(routes=[shortest]))

    assert settings.listen == "127.0.0.1:8080"
    assert settings.admin == "127.0.0.1:9464"
    assert settings.flags.file == path.parent / "f.json"
    [only] = settings.routes
    assert (only.source, only.flag, only.commit_after, only.result) == (
        "batch",
        "headgate.streaming",
        2.0,
        True,
    )
    assert settings.identity.jwt is not None
    assert settings.event_log.memory.bytes == 64 * 1024 * 1024


def test_the_flag_file_stands_beside_the_settings(path: Path) -> None:
    """Also the default one, and wherever the process was started; an absolute path stays."""
    without = minimal()
    del without["flags"]
    assert loaded(path, without).flags.file == path.parent / "flags.json"
    assert loaded(path, minimal(flags={})).flags.file == path.parent / "flags.json"
    assert loaded(path, minimal(flags={"file": "/etc/f.json"})).flags.file == Path("/etc/f.json")


UNLEASH = {"url": "https://unleash.example.org", "token": SECRET}


def test_flags_come_from_one_source(path: Path) -> None:
    """With a server there is no file; its address, and its token that no message shows."""
    flags = loaded(path, minimal(flags={"unleash": UNLEASH | {"url": "https://x/below/"}})).flags

    assert (flags.file, flags.kill_file) == (None, None)
    assert flags.unleash is not None
    assert (flags.unleash.url, flags.unleash.app_name) == ("https://x/below", "headgate")
    assert flags.unleash.refresh_s == 15
    assert SECRET not in repr(flags)
    assert loaded(path, minimal(flags={"kill_file": "run/kill"})).flags.kill_file == path.parent / "run/kill"
    assert loaded(path, minimal(flags={"unleash": None})).flags.file == path.parent / "flags.json"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"unleash": UNLEASH, "file": "f.json"}, "flags: set file or unleash, not both"),
        ({"file": None}, "flags: needs file or unleash"),
        ({"unleash": {"url": "https://x"}}, "flags.unleash.token: is needed"),
        ({"unleash": {"token": SECRET}}, "flags.unleash.url: is needed"),
        ({"unleash": UNLEASH | {"tokn": 1}}, "flags.unleash.tokn: unknown setting; did you mean 'token'?"),
        (
            {"unleash": UNLEASH | {"url": "unleash:4242"}},
            "flags.unleash.url: must be a URL with http or https",
        ),
        (
            {"unleash": UNLEASH | {"url": "https://x/api/"}},
            "must be the address without /api, which is added",
        ),
        ({"unleash": UNLEASH | {"url": f"https://u:{SECRET}@x"}}, "must be an address without credentials"),
        ({"unleash": UNLEASH | {"token": ""}}, "flags.unleash.token: must be printable ASCII"),
        ({"unleash": UNLEASH | {"token": f"{SECRET}\n"}}, "flags.unleash.token: must be printable ASCII"),
        ({"unleash": UNLEASH | {"app_name": "a b"}}, "flags.unleash.app_name: string should match"),
        ({"unleash": UNLEASH | {"refresh_s": 0}}, "flags.unleash.refresh_s: input should be greater"),
        ({"unleash": UNLEASH | {"ca_file": "none"}}, "flags.unleash.ca_file: cannot be read"),
        ({"unleash": UNLEASH | {"ca_file": "headgate.yaml"}}, "flags.unleash.ca_file: must be a PEM file"),
        ({"unleash": UNLEASH, "stale_s": 39}, "flags: stale_s must be at least twice"),
    ],
)
def test_a_flag_source_that_could_not_work_is_refused(path: Path, flags: Any, problem: str) -> None:
    """With its place and the mend; whatever the token is, it is not in the message."""
    [found] = problems(path, minimal(flags=flags))
    assert problem in found
    assert SECRET not in found


STORES = {"one": f"redis://:{SECRET}@a:1", "two": f"redis+cluster://:{SECRET}@b:1"}


def test_a_store_may_have_shards(path: Path) -> None:
    """By names, in any order, or by the nodes of a cluster; no address is shown. One store has no name."""

    def places(**valkey: Any) -> list[tuple[str, str]]:
        settings = loaded(path, minimal(event_log={"valkey": {"key": "k" * 32, **valkey}}))
        assert settings.event_log.valkey is not None
        found = settings.event_log.valkey.places
        assert SECRET not in repr(found) + repr(settings)
        return [(place.name, place.prefix) for place in found]

    assert places(url=STORES["one"]) == [("", "headgate")]
    assert places(url=STORES["two"], prefix="clinic") == [("", "{clinic}")]
    assert places(shards=STORES) == [("one", "headgate"), ("two", "{headgate}")]
    assert places(url=STORES["two"], nodes=2) == [("headgate", "{headgate}"), ("headgate.1", "{headgate.1}")]


@pytest.mark.parametrize(
    ("valkey", "problem"),
    [
        ({}, "event_log.valkey: set url or shards, one of them"),
        ({"url": STORES["one"], "shards": STORES}, "event_log.valkey: set url or shards, one of them"),
        ({"url": STORES["one"], "nodes": 2}, "event_log.valkey: nodes are those of a url with redis+cluster"),
        ({"shards": STORES, "nodes": 2}, "event_log.valkey: nodes are those of a url with redis+cluster"),
        ({"shards": {"One": STORES["one"]}}, "string should match"),
        ({"shards": {STORES["two"]: STORES["one"]}}, "event_log.valkey.shards.….[key]: string should match"),
        ({"shards": {"one": f"http://:{SECRET}@a"}}, "event_log.valkey.shards.one: must be redis://"),
        ({"shards": {f"n{n}": f"redis://a:{n + 1}" for n in range(65)}}, "at most 64"),
    ],
)
def test_shards_that_could_not_work_are_refused(path: Path, valkey: dict[str, Any], problem: str) -> None:
    [found] = problems(path, minimal(event_log={"valkey": {"key": "k" * 32, **valkey}}))
    assert problem in found
    assert SECRET not in found


@pytest.mark.parametrize("tenant", [{}, {"claim": "org", "header": "X-Tenant"}])
def test_a_tenant_stands_in_one_place(path: Path, tenant: dict[str, str]) -> None:
    """In a claim or in a header."""
    found = problems(path, minimal(identity={"tenant": tenant}))
    assert found == ["identity.tenant: set claim or header, one of them"]


def test_json_is_yaml(path: Path) -> None:
    """A file written by a program does."""
    for text in (json.dumps(minimal()), json.dumps(minimal(), indent=2, ensure_ascii=False)):
        assert loaded(path, text) == loaded(path, minimal())


def test_every_problem_is_said_at_once_with_its_place(path: Path) -> None:
    """One start, one list: no problem hides another one in a different block."""
    document = minimal(
        listen="8080",
        upstream={"url": "ftp://x", "timeouts": {"connect_s": 0}},
        log={"level": "loud"},
        routes=[route(heartbeat_s=16), route(name="Two", sections=[])],
        sections=[],
    )

    assert problems(path, document) == [
        "listen: must be HOST:PORT, for example 127.0.0.1:8080",
        "upstream.url: must be http://HOST:PORT or https://HOST:PORT",
        "upstream.timeouts.connect_s: input should be greater than 0",
        "log.level: input should be 'debug', 'info', 'warning' or 'error'",
        "routes[0].heartbeat_s: input should be less than or equal to 15",
        "routes[1].name: must be 1 to 63 of a-z, 0-9, '-' and '_': it becomes a metric's label",
        "routes[1].sections: list should have at least 1 item after validation, not 0",
        "sections: unknown setting",
    ]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"lisen": "x"}, "lisen: unknown setting; did you mean 'listen'?"),
        ({"flags": {"fil": "x"}}, "flags.fil: unknown setting; did you mean 'file'?"),
        (
            {"upstream": {"url": "http://x", "timeouts": {"first_byte": 1}}},
            "upstream.timeouts.first_byte: unknown setting; did you mean 'first_byte_s'?",
        ),
        (
            {"routes": [route(heartbeat=1)]},
            "routes[0].heartbeat: unknown setting; did you mean 'heartbeat_s'?",
        ),
        (
            {"routes": [route(sections=[{"stage": "a", "att": "$"}])]},
            "routes[0].sections[0].att: unknown setting; did you mean 'at'?",
        ),
        ({"zzz": 1}, "zzz: unknown setting"),
        ({"drain_s": "20s"}, "drain_s: must be a number of seconds, without a unit"),
        (
            {"routes": [route(sections=[{"stage": "a", "at": "a b"}])]},
            "routes[0].sections[0].at: not a JSONPath: 'a b': it begins with $, as $.answer.text does",
        ),
    ],
)
def test_a_slip_of_the_pen_is_refused_with_its_mend(
    path: Path, document: dict[str, Any], problem: str
) -> None:
    """It never becomes a default."""
    assert problem in problems(path, minimal(**document))


POLL = {"path": "/d/{case_id}", "row": "$.r[?@.s == '{stage}']", "updated_at": "$.t"}
CALL = {"stage": "a", "request": "POST /a"}


def stages(*calls: dict[str, Any], answer: Any = "x") -> dict[str, Any]:
    return {"stages": {"calls": list(calls) or [CALL], "answer": answer}}


TOKEN = {"event": "token", "at": "$.text", "stage": "extraction"}
END = {"event": "end", "means": "done"}


def native(*events: dict[str, Any], answer: Any = "{{ text $.extraction }}", **more: Any) -> dict[str, Any]:
    return {"native": {"format": "sse", "events": list(events), "answer": answer, **more}}


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"source": "poll"}, "source 'poll' needs a block 'poll'"),
        ({"source": "none"}, "source: input should be 'batch', 'poll', 'stages', 'native', 'tap' or 'job'"),
        ({"source": "job"}, "source 'job' needs a block 'job'"),
        ({"job": {"path": "/{x}"}}, "job.path: {x} is no parameter of match"),
        ({"job": {"path": "/x?id={job}#a"}}, "job.path: must be a path in ASCII"),
        ({"job": {"location": "a b"}}, "job.location: must be the name of a header"),
        ({"job": {}, "match": "POST /{job}"}, "match: {job} stands for the job's id"),
        ({"job": {"path": "/x", "location_at": "$.x"}}, "job: path, location_at: only one of them"),
        (
            {"job": {"result": "$.x", "result_path": "/x"}},
            "job: result, result_path, result_location_at: only",
        ),
        ({"job": {"status": "$.x"}}, "job: status: needs the states of 'done', and these need it"),
        ({"job": {"done": ["x"]}}, "job: status: needs the states of 'done', and these need it"),
        ({"job": {"status": "$.x", "failed": ["x"]}}, "job: done: must have a state"),
        (
            {"job": {"status": "$.x", "done": ["x"], "failed": ["x"]}},
            "job: running, done, failed: a state may",
        ),
        ({"job": {"accepted": [500]}}, "job.accepted[0]: input should be less than or equal to 399"),
        ({"source": "native"}, "source 'native' needs a block 'native'"),
        (native(format="xml"), "native.format: input should be 'sse', 'ndjson' or 'openai'"),
        (native(TOKEN), "native: events: none is 'done' or 'answer'"),
        (native(END), "native: events: none has a text"),
        (native(TOKEN, END, answer=None), "native: answer: is needed, unless an event is the answer"),
        (native(TOKEN, {"means": "answer"}), "native: answer: is needed, unless an event is the answer; not"),
        (native(TOKEN, END, answer="{{ b $ }}"), "native.answer: 'b' is none of path, request, text"),
        (native(TOKEN | {"stage": "z"}, END), "native.events[0].stage: 'z' is none of sections: extraction"),
        (native(TOKEN | {"stage": "a", "at": "$["}, END), "native.events[0].at: not a JSONPath"),
        (native(TOKEN, END, format="ndjson"), "native: events: a line of ndjson has no name"),
        (native(TOKEN, format="openai"), "native: events, answer: are not for the format 'openai'"),
        (native(TOKEN, END, request="POST /{x}"), "native.request: {x} is no parameter of match"),
        (native(TOKEN, END, body=[1]), "native.body: input should be a valid dictionary"),
        (native(TOKEN | {"when": {"at": "$.x"}}, END), "native.events[0].when.equals: is needed"),
        (
            native({"at": "$.x"}, END) | {"sections": [{"stage": s, "at": "$.x"} for s in ("a", "b")]},
            "native.events[0]: needs 'stage' or 'stage_at', since there are several sections",
        ),
        ({"source": "tap"}, "source 'tap' needs a block 'tap'"),
        (
            {"tap": {"match": "trace", "calls": [{"stage": "extraction"}]}},
            "tap.match: input should be 'tracestate' or 'traceparent'",
        ),
        ({"tap": {"calls": []}}, "tap.calls: list should have at least 1 item"),
        ({"tap": {"calls": [{"stage": "z"}]}}, "tap.calls[0].stage: 'z' is none of sections: extraction"),
        ({"tap": {"calls": [{"panel": "chat"}]}}, "tap.calls[0].panel: is not the panel of this stage"),
        ({"tap": {"calls": [{"model": "("}]}}, "tap.calls[0].model: is not a regular expression"),
        ({"match": "post /x"}, "match: must be METHOD /path, for example POST /api/cases/{case_id}/start"),
        ({"match": "POST /x?y=1"}, "match: must be a path in ASCII"),
        ({"match": "POST /fälle/{case_id}"}, "match: must be METHOD /path"),
        ({"match": "POST /x/{caseId}"}, "match: has a brace that is no parameter"),
        ({"match": "POST /{x}/{x}"}, "match: names a parameter twice"),
        ({"stream_path": "/stream"}, "stream_path: {case_id} of match is missing"),
        ({"stream_path": "/{case_id}/{other}"}, "stream_path: {other} is no parameter of match"),
        ({"stream_path": "stream/{case_id}"}, "stream_path: must be a path"),
        ({"poll": {**POLL, "path": "/{x}"}}, "poll.path: {x} is no parameter of match"),
        ({"poll": {**POLL, "row": "rows["}}, "poll.row: not a JSONPath: 'rows['"),
        ({"poll": {**POLL, "every_ms": 5}}, "poll.every_ms: input should be greater than or equal to 50"),
        (stages({**CALL, "body": "{{ b $.x }}"}), "stages.calls[0].body: 'b' is none of path, request"),
        (
            stages({**CALL, "body": "{{ request x }}"}),
            "stages.calls[0].body: '{{ request x }}' is no reference",
        ),
        (stages({**CALL, "body": "{{ request $.[ }}"}), "stages.calls[0].body: not a JSONPath"),
        (stages(answer="{{ a }}"), "stages.answer: '{{ a }}' is no reference"),
        (stages(CALL, CALL), "stages.calls[1].stage: 'a' is taken"),
        (stages({**CALL, "stage": "path"}), "stages.calls[0].stage: 'path' is taken"),
        (stages({**CALL, "request": "POST /{x}"}), "stages.calls[0].request: {x} is no parameter of match"),
        ({"sections": [{"stage": "a", "at": "$.x"}] * 2}, "sections: each stage may stand there once"),
        ({"sections": [{"stage": "a b", "at": "$.x"}]}, "sections[0].stage: must be 1 to 64"),
        ({"failure_text": "("}, "failure_text: is not a regular expression"),
        ({"chunk": {"min": 9, "max": 3}}, "chunk: must have min <= max <= max_chunk"),
        ({"name": "unmatched"}, "name: 'unmatched' is the label of requests that match no route"),
        ({"heartbeat_s": float("nan")}, "heartbeat_s: input should be"),
        ({"max_answer": "10 parsecs"}, "max_answer:"),
    ],
)
def test_a_route_that_could_not_work_is_refused(path: Path, more: dict[str, Any], problem: str) -> None:
    """At the start, with its place, rather than at the first request."""
    [found] = problems(path, minimal(routes=[route(**more)]))
    assert f"routes[0].{problem}" in found or f"routes[0]: {problem}" in found


OPENAI = {"name": "openai", "url": "https://api.openai.com"}


@pytest.mark.parametrize(
    ("llm", "problem"),
    [
        ({}, "llm.providers: is needed"),
        ({"providers": []}, "llm.providers: list should have at least 1 item"),
        ({"providers": [OPENAI, OPENAI]}, "llm: providers: two have the same name"),
        (
            {"providers": [OPENAI, OPENAI | {"name": "other", "path": "/openai/"}]},
            "llm: providers: two have the same path",
        ),
        (
            {"providers": [OPENAI | {"path": "/"}, OPENAI | {"name": "b"}]},
            "llm: providers: the path / is for a single one",
        ),
        ({"providers": [OPENAI | {"url": "https://x/v1"}]}, "must be an origin without a path"),
        ({"providers": [OPENAI | {"path": "v1"}]}, "llm.providers[0].path: must be / or segments"),
        ({"providers": [OPENAI | {"api": "soap"}]}, "llm.providers[0].api: input should be 'openai', "),
        ({"providers": [OPENAI], "ask_again": "often"}, "llm.ask_again: input should be 'never'"),
    ],
)
def test_a_model_port_that_could_not_work_is_refused(path: Path, llm: dict[str, Any], problem: str) -> None:
    [found] = problems(path, minimal(llm=llm))
    assert problem in found


def test_a_tap_needs_the_port_where_its_calls_come(path: Path) -> None:
    routes = [route(source="tap", tap={"calls": [{"stage": "extraction"}]})]
    assert problems(path, minimal(routes=routes)) == [
        "routes[0].tap: needs the block 'llm', where the model calls come"
    ]
    settings = loaded(path, minimal(routes=routes, llm={"providers": [OPENAI, OPENAI | {"name": "b"}]}))
    assert settings.llm is not None
    assert [provider.mount for provider in settings.llm.providers] == ["/openai", "/b"]
    assert settings.routes[0].sources == {"batch", "tap"}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://x/api", "must be an origin without a path"),
        ("http://u:s3cr3t-value@x", "must not carry credentials"),
        ("http://x:99999", "must have a port from 1 to 65535"),
        ("http://x:port", "must have a port from 1 to 65535"),
        ("http://x:0", "must have a port from 1 to 65535"),
        ("x:8000", "must be http://HOST:PORT"),
        ("unix:run/app.sock", "must be unix: and the absolute path of a socket"),
        ("unix:/run/app.sock:/api", "without a colon"),
        ("unix:///run/app.sock", "for example unix:/run/headgate/app.sock"),
        (f"unix:/{'a' * 103}", "at most 103 bytes"),
    ],
)
def test_an_upstream_that_is_no_origin_is_refused(path: Path, url: str, problem: str) -> None:
    """Paths go through as they are, and credentials are each client's own."""
    [found] = problems(path, minimal(upstream={"url": url}))
    assert found.startswith("upstream.url: ")
    assert problem in found.lower() or problem in found
    assert SECRET not in found


def test_files_that_are_needed_are_looked_for(path: Path) -> None:
    """A file of authorities that is not there is a problem now, not at the first connection."""
    tls = {"upstream": {"url": "https://x", "tls": {"ca_file": "none.pem"}}}
    assert problems(path, minimal(**tls)) == [
        "upstream.tls.ca_file: cannot be read: No such file or directory"
    ]
    (path.parent / "none.pem").touch()
    assert loaded(path, minimal(**tls)).upstream.tls.ca_file == path.parent / "none.pem"


def test_a_certificate_and_its_key_go_together(path: Path) -> None:
    """Of the public port, of the model port, and the one that an upstream or a provider is shown."""
    certificates(path.parent)
    file, other = str(path.parent / "server.pem"), str(path.parent / "ca.pem")
    for block, name in (("tls", "tls"), ("upstream", "upstream.tls")):
        for tls, problem in (
            ({"cert": file}, "cert, key: one needs the other"),
            ({"key": file}, "cert, key: one needs the other"),
            ({"cert": file, "key": other}, "cert, key: not a certificate in PEM and its own key"),
        ):
            given = tls if block == "tls" else {"url": "https://x", "tls": tls}
            assert problems(path, minimal(**{block: given})) == [f"{name}: {problem}"]
    assert problems(path, minimal(tls={"client_ca": other})) == [
        "tls: client_ca: needs cert and key, for the port to speak https"
    ]
    whole = loaded(path, minimal(tls={"cert": file, "key": file, "client_ca": other}))
    assert whole.tls.port is not None and whole.tls.port.client_ca == path.parent / "ca.pem"


@pytest.mark.parametrize(
    ("kind", "passphrase", "problem"),
    [
        ("ec", b"", "cert, key: the key is not that of the first certificate, which must be the one to show"),
        (
            "rsa",
            b"",
            "cert, key: the key is not that of the first certificate, which must be the one to show",
        ),
        ("ec", b"x", "key: has a passphrase, and nobody is there to say it: write the key without one"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_why(
    path: Path, kind: str, passphrase: bytes, problem: str
) -> None:
    """It is another certificate's, as when the chain's order is wrong, or nobody can read it."""
    certificates(path.parent)
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 1024)
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    file = path.parent / "key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, how))

    tls = {"cert": str(path.parent / "server.pem"), "key": str(file)}
    assert problems(path, minimal(tls=tls)) == [f"tls: {problem}"]


def test_trusted_proxies_are_networks(path: Path) -> None:
    """What is none is named, with what was meant; they need headers that are passed on."""
    good = ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "unix"]
    assert loaded(path, minimal(trusted_proxies=good)).trusted_proxies == [
        "10.0.0.0/8",
        "192.0.2.7/32",
        "fd00::/8",
        "unix",
    ]
    must = "must be a network or an address, for example"
    assert problems(path, minimal(trusted_proxies=["10.0.0.1/8", "nginx", "10.0.0.0/33"])) == [
        f"trusted_proxies[0]: {must} 10.0.0.0/8",
        f"trusted_proxies[1]: {must} 10.0.0.0/8; or unix, for whoever connects by a Unix socket",
        f"trusted_proxies[2]: {must} 10.0.0.0/8; or unix, for whoever connects by a Unix socket",
    ]
    replacing = {"url": "http://x", "forwarding": {"x_forwarded": "replace"}}
    assert loaded(path, minimal(trusted_proxies=[], upstream=replacing)).trusted_proxies == []
    assert problems(path, minimal(trusted_proxies=["10.0.0.1"], upstream=replacing)) == [
        "trusted_proxies: what they say would be dropped by upstream.forwarding.x_forwarded 'replace': leave "
        "that out, or make it 'append'"
    ]


def test_unix_sockets_are_for_clients_and_the_upstream(path: Path) -> None:
    """Prometheus and SDKs cannot ask one; and no proxy leads to one."""
    sockets = {"listen": "unix:/run/headgate.sock", "upstream": {"url": "unix:/run/app.sock"}}
    settings = loaded(path, minimal(**sockets))
    assert (settings.listen, settings.upstream.url) == ("unix:/run/headgate.sock", "unix:/run/app.sock")
    assert problems(path, minimal(listen="unix:here", admin="unix:/run/admin.sock")) == [
        "listen: must be unix: and the absolute path of a socket, of at most 103 bytes and without a colon, "
        "for example unix:/run/headgate/app.sock",
        "admin: must be HOST:PORT, for example 127.0.0.1:8080",
    ]
    assert problems(path, minimal(**sockets, proxy={"upstream": True})) == [
        "proxy.upstream: no proxy reaches the Unix socket of upstream.url: leave it out, or make it false"
    ]


def test_two_routes_cannot_be_the_same(path: Path) -> None:
    """Neither in name nor in what they match, whatever their parameters are called."""
    twice = [route(), route(match="POST /other", stream_path=None)]
    assert problems(path, minimal(routes=twice)) == ["routes: 'start' stands there twice"]
    same = [route(), route(name="b", match="POST /api/cases/{id}/start", stream_path=None)]
    assert problems(path, minimal(routes=same)) == ["routes: 'POST /api/cases/{}/start' stands there twice"]
    streams = [route(), route(name="b", match="POST /x/{case_id}")]
    assert problems(path, minimal(routes=streams)) == [
        "routes: 'GET /api/cases/{}/start/stream' stands there twice"
    ]


def test_values_come_from_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${NAME}` anywhere in a value; what is not set is a problem with its place."""
    monkeypatch.setenv("HG_TOKEN", SECRET)
    monkeypatch.setenv("HG_PORT", "8000")
    document = minimal(upstream={"url": "http://127.0.0.1:${HG_PORT}"}, admin_token="${HG_TOKEN}")

    settings = loaded(path, document)

    assert settings.upstream.url == "http://127.0.0.1:8000"
    assert settings.admin_token is not None
    assert settings.admin_token.get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    unset = minimal(admin_token="${HG_NONE}", routes=[route(flag="${HG_NO_FLAG}")])
    assert problems(path, unset) == [
        "admin_token: the environment variable HG_NONE is not set",
        "routes[0].flag: the environment variable HG_NO_FLAG is not set",
    ]


@pytest.mark.parametrize(
    "document",
    [
        {"listen": "${HG_TOKEN}"},
        {"admin_token": {"x": "${HG_TOKEN}"}},
        {"admin_token": ["${HG_TOKEN}"]},
        {"upstream": {"url": "http://user:${HG_TOKEN}@x"}},
        {"upstream": {"url": "${HG_TOKEN}"}},
        {"identity": {"jwt": {"key": "${HG_TOKEN}", "jwks_url": "http://${HG_TOKEN}"}}},
        {"identity": {"jwt": {"jwks_url": "${HG_TOKEN}"}}},
        {"identity": {"jwt": {"algorithms": ["${HG_TOKEN}"]}}},
        {"log": {"level": "${HG_TOKEN}"}},
        {"client_keep_alive_s": "${HG_TOKEN}"},
        {"routes": [route(source="${HG_TOKEN}")]},
        {"routes": [route(name="${HG_TOKEN}" * 9)]},
        {"event_log": {"memory": {"bytes": "${HG_TOKEN}"}}},
        {"flags": "${HG_TOKEN}"},
    ],
)
def test_no_message_has_a_value_in_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]
) -> None:
    """It may be a secret in the wrong place."""
    monkeypatch.setenv("HG_TOKEN", SECRET)
    found = problems(path, minimal(**document))
    assert found
    assert SECRET not in "\n".join(found)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", "admin_token: must have 16 characters or more"),
        ("fifteen letters", "admin_token: must have 16 characters or more"),
        (" " * 40, "admin_token: must have no space or line break at its ends"),
        ("a token from a file\n", "admin_token: must have no space or line break at its ends"),
    ],
)
def test_a_token_that_is_guessed_or_cannot_be_sent_is_refused(path: Path, token: str, problem: str) -> None:
    """An empty one is what a variable without a value leaves; nobody may stop streaming with nothing."""
    assert loaded(path, minimal(admin_token="sixteen letters!")).admin_token is not None
    assert len(found := problems(path, minimal(admin_token=token))) == 1
    assert found[0].startswith(problem)


PEM = "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n"
P256 = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPrI6550B2pJQe/eFEI6shylfAbsi"
    "8M+kJSZZREi9PjdfQWCVOglLQ6uf69YrJE0z7FpHmKfZRnF1UVAUAxe/tQ=="
)


@pytest.mark.parametrize(
    ("jwt", "problem"),
    [
        ({"key": ""}, "identity.jwt.key: must have 32 bytes or more"),
        ({"key": "k" * 31}, "identity.jwt.key: must have 32 bytes or more"),
        ({"key": " " * 40}, "identity.jwt.key: must have 32 bytes or more"),
        ({"key": "k" * 40, "algorithms": ["RS256"]}, "identity.jwt: key: fits none of algorithms"),
        ({"key": PEM.format(P256), "algorithms": ["HS256"]}, "identity.jwt: key: fits none of algorithms"),
        ({"key": PEM.format("MFkw")}, "identity.jwt: key: fits none of algorithms"),
        ({"algorithms": []}, "identity.jwt.algorithms: must name one or more"),
        ({"algorithms": ["HS256", "none"]}, "identity.jwt.algorithms: must not have 'none'"),
        ({"algorithms": ["None"]}, "identity.jwt.algorithms: must not have 'none'"),
        ({"algorithms": ["HS255"]}, "identity.jwt.algorithms: has one that is not known here"),
    ],
)
def test_a_key_that_proves_nothing_is_refused(path: Path, jwt: dict[str, Any], problem: str) -> None:
    """A secret that can be found, a key without an algorithm, an algorithm that needs none."""
    good: list[dict[str, Any]] = [{"key": "k" * 32}, {"key": PEM.format(P256), "algorithms": ["ES256"]}]
    assert all(loaded(path, minimal(identity={"jwt": each})).identity.jwt is not None for each in good)
    assert len(found := problems(path, minimal(identity={"jwt": jwt}))) == 1
    assert found[0].startswith(problem)


def test_a_name_that_is_not_set_is_said_once(path: Path) -> None:
    """It is no token of so many characters either, which nobody needs to be told."""
    document = minimal(admin_token="${HG_NONE}", identity={"jwt": {"key": "${HG_NONE}"}})

    assert problems(path, document) == [
        "admin_token: the environment variable HG_NONE is not set",
        "identity.jwt.key: the environment variable HG_NONE is not set",
    ]


def test_a_key_that_stands_twice_is_refused(path: Path) -> None:
    """YAML would take the last one, silently; the line of the second is said."""
    text = "listen: 127.0.0.1:1\nadmin: 127.0.0.1:2\nlisten: 127.0.0.1:3\n"
    assert problems(path, text) == ["line 3: 'listen' stands there twice"]
    assert problems(path, 'upstream: {"url": "http://x", "url": "http://y"}') == [
        "line 1: 'url' stands there twice"
    ]


def test_anchors_and_merges_are_understood(path: Path) -> None:
    """Routes that are alike can share a block, and override a part of it."""
    text = """
upstream: {url: "http://x"}
flags: {file: f.json}
routes:
  - &one
    name: one
    match: POST /one
    sections: [{stage: a, at: $.a}]
  - <<: *one
    name: two
    match: POST /two
"""
    assert [(r.name, r.match, len(r.sections)) for r in loaded(path, text).routes] == [
        ("one", "POST /one", 1),
        ("two", "POST /two", 1),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "line 1: not YAML"),
        ("- 1", "must be a mapping of settings"),
        ("", "must be a mapping of settings"),
        ("just text", "must be a mapping of settings"),
        ("a: !!python/object:os.system x", "not YAML"),
        ("{}", "upstream: is needed"),
    ],
)
def test_what_is_no_settings_file_is_said(path: Path, text: str, problem: str) -> None:
    """Not YAML, not a mapping, or nothing in it."""
    assert problem in problems(path, text)[0]


def test_a_file_that_cannot_be_read_is_said(path: Path) -> None:
    """Missing, a folder, or not text."""
    with pytest.raises(SettingsError, match="cannot be read: No such file or directory"):
        load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read: it is not UTF-8"):
        load(path)


def test_settings_do_not_change(path: Path) -> None:
    """They are read once, and frozen."""
    with pytest.raises(ValueError, match="frozen"):
        loaded(path, minimal()).listen = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("timeouts", "first_byte_s"), [({}, 900), ({"total_s": 1800}, 1800), ({"first_byte_s": 20}, 20)]
)
def test_a_call_may_queue_for_as_long_as_it_may_last(timeouts: dict[str, float], first_byte_s: float):
    """The wait for the upstream's only worker is no failure, unless a setting says so."""
    settings = Settings.model_validate({"upstream": {"url": "http://127.0.0.1:1", "timeouts": timeouts}})

    assert origin(settings.upstream, strict_tls=True).timeouts.first_byte_s == first_byte_s
