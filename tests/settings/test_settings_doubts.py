"""The warnings of `headgate check`: settings that are valid, and never do what they were written for."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from proxy.cli import main
from tests.servers.authority import certificates
from tests.servers.serving import flag_document
from tests.servers.streaming import route

PROVIDER = {"name": "openai", "url": "https://api.openai.com"}


def warnings(directory: Path, **settings: Any) -> list[str]:
    """Return the warnings, without those that every deployment without a store gets."""
    (directory / "flags.json").write_text(json.dumps(flag_document()))
    config = directory / "headgate.yaml"
    document = {"upstream": {"url": "http://127.0.0.1:8000"}, "routes": [route()], **settings}
    config.write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(main, ["check", "--config", str(config)])
    assert result.exit_code == 0, result.output
    lines: list[str] = result.stderr.splitlines()
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("days", "said"), [(-1, "ended on "), (3, "ends on "), (400, ""), (600, "is not valid before ")]
)
def test_a_certificate_of_our_own_that_is_over_is_warned_about(tmp_path: Path, days: int, said: str) -> None:
    """Clients would refuse it, and only they would notice."""
    certificates(tmp_path, days=days)
    server = str(tmp_path / "server.pem")

    found = warnings(tmp_path, tls={"cert": server, "key": server})

    assert [warning.startswith(f"tls.cert: {said}") for warning in found] == ([True] if said else [])


def another(match: str, **more: Any) -> dict[str, Any]:
    return {**route(), "name": f"r{abs(hash(match))}", "match": match, "stream_path": None, **more}


def test_good_settings_are_not_warned_about(tmp_path: Path) -> None:
    """Templates beside each other, the special one first; a verb after a colon is no parameter."""
    special_first = [another("POST /api/x"), another("POST /api/{a}"), another("POST /api/{a}:generate")]
    assert warnings(tmp_path, routes=special_first[::-1]) != []
    assert warnings(tmp_path, routes=[special_first[2], *special_first[:2]]) == []
    assert warnings(tmp_path, listen="127.0.0.1:0", admin="127.0.0.1:0") == []
    tapping = route(tap={"calls": [{"stage": "summary"}]})
    assert warnings(tmp_path, llm={"providers": [PROVIDER]}, routes=[tapping]) == []


def test_a_flag_that_the_file_lacks(tmp_path: Path) -> None:
    """A typing mistake there is batch for everybody, and nothing fails."""
    assert warnings(tmp_path, routes=[route(flag="headgate.streeming")]) == [
        "routes[0].flag: the flags have no 'headgate.streeming': this route would never stream"
    ]
    assert warnings(tmp_path, routes=[route(flag="headgate.kill")]) == [
        "routes[0].flag: is flags.kill_flag: on, it turns everybody's stream off"
    ]


@pytest.mark.parametrize(
    ("listen", "trusted", "warned"),
    [
        ("0.0.0.0:80", None, True),
        ("[::]:80", None, True),
        ("10.0.0.7:80", None, True),
        ("127.0.0.1:80", None, False),
        ("[::1]:80", None, False),
        ("localhost:80", None, False),
        ("unix:/run/h.sock", None, False),
        ("0.0.0.0:80", ["10.0.0.1"], False),
        ("0.0.0.0:80", [], False),
    ],
)
def test_headers_that_name_the_user_and_anybody_may_send(
    tmp_path: Path, listen: str, trusted: list[str] | None, warned: bool
) -> None:
    """Unless only this machine can connect, or the proxies in front are listed."""
    identity = {"header": "x-user", "tenant": {"header": "x-tenant"}}
    found = warnings(tmp_path, listen=listen, trusted_proxies=trusted, identity=identity)

    assert [line.partition(": ")[0] for line in found] == [
        "identity.header",
        "identity.tenant.header",
    ] * warned
    assert all("list the proxies in front in trusted_proxies" in line for line in found)


def test_trust_in_everybody(tmp_path: Path) -> None:
    """Whoever connects would name the client, which is what the setting is against."""
    assert warnings(tmp_path, trusted_proxies=["10.0.0.0/8", "unix"]) == []
    assert warnings(tmp_path, trusted_proxies=["10.0.0.0/8", "::/0"]) == [
        "trusted_proxies[1]: ::/0 is everybody: whoever connects can claim any address"
    ]


@pytest.mark.parametrize(
    ("first", "second", "shadowed"),
    [
        ("POST /a/{x}", "POST /a/b", True),
        ("POST /a/{x}/{y}", "POST /a/b/{y}", True),
        ("POST /a/x-{y}", "POST /a/x-1", True),
        ("POST /a/b", "POST /a/{x}", False),
        ("POST /a/{x}", "PUT /a/b", False),
        ("POST /a/{x}", "POST /a/b/c", False),
        ("POST /a/x-{y}", "POST /a/{y}", False),
    ],
)
def test_a_template_that_an_earlier_one_shadows(
    tmp_path: Path, first: str, second: str, *, shadowed: bool
) -> None:
    """The first that fits is the request's route."""
    expected = ["routes[1].match: is never reached: routes[0].match stands earlier and fits all that it does"]
    assert warnings(tmp_path, routes=[another(first), another(second)]) == (expected if shadowed else [])


def test_a_stream_path_that_an_earlier_one_shadows(tmp_path: Path) -> None:
    """It is a GET beside the other routes'."""
    shadowing = [another("GET /a/{x}"), another("POST /b", stream_path="/a/b")]
    assert warnings(tmp_path, routes=shadowing) == [
        "routes[1].stream_path: is never reached: routes[0].match stands earlier and fits all that it does"
    ]


@pytest.mark.parametrize("segment", [":id", "*", "**", "<id>", "<int:id>", "[id]"])
@pytest.mark.parametrize("template", ["POST /a/{}", "POST /a/{}/b"])
def test_a_parameter_as_other_routers_write_it(tmp_path: Path, template: str, segment: str) -> None:
    """It would match that very text and no other."""
    [said] = warnings(tmp_path, routes=[another(template.format(segment))])
    assert said.startswith(f"routes[0].match: '{segment}' stands for itself alone")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"listen": "127.0.0.1:9464"}, "admin: is the address of listen"),
        ({"listen": "0.0.0.0:9464"}, "admin: is the address of listen"),
        (
            {"llm": {"listen": "127.0.0.1:8080", "providers": [PROVIDER]}},
            "llm.listen: is the address of listen",
        ),
    ],
)
def test_an_address_that_is_there_twice(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    """Said before the start fails for it."""
    assert any(line.startswith(said) for line in warnings(tmp_path, **settings))


def test_a_provider_that_no_route_taps(tmp_path: Path) -> None:
    """Calls come, and are of no run."""
    assert warnings(tmp_path, llm={"providers": [PROVIDER]}) == [
        "llm.providers[0]: no route taps 'openai': its calls would show nobody anything"
    ]


def test_nobody_who_could_be_asked_about(tmp_path: Path) -> None:
    """Flags are for somebody."""
    assert warnings(tmp_path, identity={"jwt": None}) == [
        "identity: has no way to find out who asks: nobody would ever get a stream"
    ]
