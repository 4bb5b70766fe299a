"""The user of a request: principals and flag contexts out of its headers."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.http.headers import Headers
from proxy.identity import BUCKETS, JWKS_RETRY_S, Identifier, Identity, unverified_claims
from proxy.settings.blocks.identity import IdentitySettings
from tests.servers.client import browser, eventually, read
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import headgate
from tests.servers.streaming import START, answer, answering, route

KEY = "a secret that is long enough for HS256, and then some"
PRIVATE = rsa.generate_private_key(65537, 2048)
PUBLIC_PEM = (
    PRIVATE.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def identifier(**settings: Any) -> Identifier:
    return Identifier(IdentitySettings.model_validate(settings), b"secret")


def bearer(token: str) -> Headers:
    return [(b"authorization", b"Bearer " + token.encode())]


def token(key: Any = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"sub": "ann", "iss": "here", **claims}, key, algorithm=algorithm)


def forged(payload: bytes, header: bytes = b'{"alg":"HS256","typ":"JWT"}') -> str:
    """A token of any bytes, with a signature that is none."""
    parts = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, payload, b"sig"))
    return ".".join(parts)


def principal(identity: Identity | None) -> str:
    assert identity is not None
    return identity.principal


# Tenants


def test_a_tenant_is_a_property_of_the_context() -> None:
    """From a claim of the token, or a header, as the settings say; where it is missing, there is none."""
    by_claim = identifier(tenant={"claim": "org"})
    by_header = identifier(tenant={"header": "X-Tenant"}, header="X-User")
    contexts = [
        found.context("start")["properties"].get("tenant")
        for found in (
            by_claim.identify(bearer(token(org="north"))),
            by_claim.identify(bearer(token())),
            by_claim.identify([*bearer(token(org="north")), (b"x-tenant", b"south")]),
            identifier(tenant={"claim": "org"}, jwt={"key": KEY}).identify(bearer(token(org="north"))),
            by_header.identify([*bearer(token(org="north")), (b"x-tenant", b"south")]),
            by_header.identify([(b"x-user", b"ann"), (b"x-tenant", b"south")]),
            identifier().identify([*bearer(token(org="north")), (b"x-tenant", b"south")]),
        )
        if found is not None
    ]

    assert contexts == ["north", None, "north", "north", "south", "south", None]
    assert by_header.identify([(b"x-tenant", b"south")]) is None


@pytest.mark.parametrize("claim", [["north"], 5, True, {"id": 1}, "\ud800"])
def test_a_tenant_that_cannot_be_read_makes_nobody(claim: Any) -> None:
    """Users of two such tenants would be one. So would those of a header that stands there twice."""
    by_header = identifier(tenant={"header": "X-Tenant"}, header="X-User")
    twice: Headers = [(b"x-user", b"ann"), (b"x-tenant", b"a"), (b"x-tenant", b"a")]

    for ways in ({}, {"jwt": {"key": KEY}}):
        assert identifier(tenant={"claim": "org"}, **ways).identify(bearer(token(org=claim))) is None
    assert by_header.identify(twice) is None
    assert by_header.identify(twice[:2]) is not None


def test_users_of_two_tenants_are_two_whatever_they_are_called() -> None:
    """By a claim, verified or not, and by a header; and who has none is a third."""
    for ways, requests in (
        (identifier(tenant={"claim": "org"}, jwt={"key": KEY}), [bearer(token(org=org)) for org in "ab"]),
        (
            identifier(tenant={"header": "X-Tenant"}, header="X-User", jwt=None),
            [[(b"x-user", b"7"), (b"x-tenant", tenant)] for tenant in (b"a", b"b")],
        ),
    ):
        without = [pair for pair in requests[0] if pair[0] == b"x-user"] or bearer(token())
        found = [principal(ways.identify(headers)) for headers in (*requests, without)]

        assert len(set(found)) == 3
        assert principal(ways.identify(requests[0])) == found[0]


def test_beside_a_token_that_does_not_verify_nothing_else_counts() -> None:
    """A cookie, which anybody may invent, does not let such a client in."""
    ways = identifier(jwt={"key": KEY}, cookie="s", header="X-User")
    others: Headers = [(b"cookie", b"s=1"), (b"x-user", b"bob")]

    assert ways.identify([*bearer(token(key="another key of 32 characters or more")), *others]) is None
    assert ways.identify(others) is not None


@pytest.mark.parametrize(
    "sent",
    [
        [b"Bearer " + b"x" * 20_000],
        [b"Bearer " + token().encode()] * 2,
        [b"Bearer " + token().encode(), b"Basic abc"],
        [b"Bearer\t" + token().encode()],
        [b"bearer"],
        [b"Bearer " + token().encode() + b" x"],
        [b"Bearer \xff\xfe"],
    ],
    ids=["too long", "twice", "beside another", "a tab", "empty", "two tokens", "no ASCII"],
)
def test_beside_a_bearer_that_cannot_be_read_nothing_else_counts(sent: list[bytes]) -> None:
    """With a key or without one: the API may read it in another way than Headgate."""
    others: Headers = [(b"cookie", b"s=1"), (b"x-user", b"bob")]
    given: Headers = [*((b"authorization", value) for value in sent), *others]

    assert identifier(jwt={"key": KEY}, cookie="s", header="X-User").identify(given) is None
    assert identifier(cookie="s", header="X-User").identify(given) is None
    assert identifier(jwt=None, cookie="s", header="X-User").identify(given) is not None


@pytest.mark.parametrize("sent", [b"Basic YTpi", b"Negotiate x", b"Bearerly x", b"Bearer opaque"])
def test_what_is_no_token_of_ours_leaves_the_other_ways(sent: bytes) -> None:
    """Another scheme; and without a key a token that names nobody here, which the API may know."""
    found = identifier(header="X-User").identify([(b"authorization", sent), (b"x-user", b"bob")])

    assert found is not None
    assert found.user == "bob"


# Tokens


def test_a_token_that_is_not_verified_names_a_user_and_owns_by_itself() -> None:
    """The user chooses the arm; the principal is the credential: a forged `sub` owns nobody's runs."""
    unverified = identifier()
    own, other = token(jti="1"), token(jti="2")

    found = unverified.identify(bearer(own))
    assert found is not None
    assert found.user == "ann"
    assert found.context("start") == {"userId": "ann", "properties": {"route": "start"}}
    assert principal(unverified.identify(bearer(other))) != found.principal
    assert principal(unverified.identify(bearer(own))) == found.principal
    assert own not in repr(found)


def test_a_verified_token_owns_by_its_user() -> None:
    """A refreshed token of one user owns the same runs; the same name of another issuer does not."""
    verifying = identifier(jwt={"key": KEY})
    first = verifying.identify(bearer(token(jti="1")))

    assert principal(verifying.identify(bearer(token(jti="2")))) == principal(first)
    assert principal(verifying.identify(bearer(token(iss="there")))) != principal(first)
    tricks = [token(iss="a\nb", sub="c"), token(iss="a", sub="b\nc")]
    assert len({principal(verifying.identify(bearer(trick))) for trick in tricks}) == 2


@pytest.mark.parametrize(
    "refused",
    [
        token("another secret that is long enough for HS256"),
        token(exp=1),
        token(iss="there"),
        token(aud="others"),
        forged(b'{"sub":"ann"}', b'{"alg":"none"}'),
        forged(b'{"sub":"ann"}'),
        token(PRIVATE, "RS256"),
    ],
)
def test_a_token_that_does_not_verify_is_nobodys(refused: str) -> None:
    """Signature, expiry, issuer, audience and algorithm all count once there is a key."""
    assert identifier(jwt={"key": KEY, "issuer": "here"}).identify(bearer(token())) is not None
    assert identifier(jwt={"key": KEY, "issuer": "here", "audience": "us"}).identify(bearer(refused)) is None


def test_a_public_key_is_no_secret() -> None:
    """A token signed with HS256 and the public key's own text as the secret is not believed."""
    by_public_key = identifier(jwt={"key": PUBLIC_PEM})
    header = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=")
    payload = base64.urlsafe_b64encode(b'{"sub":"ann"}').rstrip(b"=")
    signature = hmac.new(PUBLIC_PEM.encode(), header + b"." + payload, hashlib.sha256).digest()
    confused = b".".join((header, payload, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()

    assert by_public_key.identify(bearer(confused)) is None
    assert by_public_key.identify(bearer(token(PRIVATE, "RS256"))) is not None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"not json",
        b'{"sub":5}',
        b'{"sub":""}',
        b'{"sub":null}',
        b'{"other":"ann"}',
        b'{"sub":"\\ud800"}',
        b'{"sub":' + b"[" * 9000 + b"}",
    ],
)
def test_a_token_without_a_user_is_nobodys(payload: bytes) -> None:
    """A stranger's token never raises, and never becomes half a user."""
    assert identifier().identify(bearer(forged(payload))) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Basic abc")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer " + b"x" * 20_000)],
        [(b"authorization", b"Bearer \xff\xfe")],
        bearer(forged(b'{"sub":"a"}', b"[" * 9000)),
        bearer(forged(b'{"sub":"a"}', b'{"alg":["x"],"kid":{}}')),
        bearer(token()) * 2,
    ],
)
def test_without_one_good_token_there_is_nobody(headers: Headers) -> None:
    """No token, another scheme, one that is too long or broken, or two at once."""
    assert identifier().identify(headers) is None
    assert identifier(jwt={"key": KEY}).identify(headers) is None


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"cookie", b"x-user"]), st.binary(max_size=60))))
def test_identifying_never_raises(headers: Headers) -> None:
    """A client is somebody or nobody, whatever it sends."""
    for ways in ({"header": "X-User", "cookie": "s"}, {"jwt": {"key": KEY}}):
        found = identifier(**ways).identify(headers)
        assert found is None or 0 <= found.bucket < BUCKETS


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
weird = anything | st.sampled_from([10**400, -(10**400), "\ud800", 1e308, "9" * 5000, [[[]]]])


def read_by(reader: Callable[[str], Any], written: str) -> Any:
    """The claims; None: it is no token."""
    try:
        return reader(written)
    except Exception:  # noqa: BLE001 - of any class: whoever asks does the same
        return None


parts = (
    st.dictionaries(st.sampled_from(["sub", "alg", "kid", "typ", "b64"]), anything, max_size=4).map(
        lambda fields: json.dumps(fields).encode()
    )
    | anything.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=8)
)


@settings(deadline=None, max_examples=300)
@example("e30.e30.")
@example("e30.e30")
@example(forged(b'{"sub":"ann"}', b'{"b64":false}'))
@example(forged(b'{"sub":"ann"}', b'{"crit":["exp"],"exp":1}'))
@example(forged(b'{"sub":"ann"}', b'{"kid":7}'))
@example(forged(b'{"sub":NaN,"sub":"ann"}'))
@given(st.builds(forged, parts, parts) | st.from_regex(r"[A-Za-z0-9+/=_.-]{0,40}", fullmatch=True))
def test_a_token_that_is_not_verified_has_the_claims_that_others_read(written: str) -> None:
    """Those that PyJWT reads, of whatever a stranger makes up; and what is no token to it is none."""
    claims = read_by(partial(jwt.decode, options={"verify_signature": False}), written)

    assert repr(read_by(unverified_claims, written)) == repr(claims)


@settings(deadline=None)
@example({"sub": "ann", "exp": 10**400})
@example({"sub": "ann", "org": "\ud800"})
@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud", "jti", "org", "session"]),
        weird,
        max_size=9,
    )
)
def test_claims_of_any_kind_never_raise(claims: dict[str, Any]) -> None:
    """Signed or not, whatever an issuer or a stranger claims: it is somebody, or nobody."""
    payload = json.dumps(claims, ensure_ascii=True).encode()
    signed = jwt.PyJWS().encode(payload, KEY, algorithm="HS256")
    for ways in ({}, {"jwt": {"key": KEY}}, {"jwt": {"key": KEY, "issuer": "here", "audience": "us"}}):
        found = identifier(tenant={"claim": "org"}, **ways).identify(bearer(signed))
        assert found is None or 0 <= found.bucket < BUCKETS


@pytest.mark.parametrize("leeway_s", [0, 60])
def test_clocks_may_differ_by_the_leeway(leeway_s: float) -> None:
    """A token of a moment ago, or of the next moment, is good for that long, and its stream too."""
    now = time.time()
    verifying = identifier(jwt={"key": KEY, "leeway_s": leeway_s})
    found = [
        verifying.identify(bearer(token(**claims)))
        for claims in ({"exp": now - 30}, {"nbf": now + 30}, {"iat": now + 30})
    ]
    too_late = [
        verifying.identify(bearer(token(**claims)))
        for claims in ({"exp": now - 90}, {"nbf": now + 90}, {"iat": now + 90})
    ]

    assert [each is not None for each in found] == [leeway_s > 0] * 3
    assert too_late == [None] * 3
    assert [each.expires_at > now for each in found if each and each.expires_at] == [True] * (leeway_s > 0)


# Headers and cookies


def test_a_header_of_a_trusted_proxy_names_the_user() -> None:
    """Once, and not empty; twice is a smuggled one."""
    by_header = identifier(jwt=None, header="X-User-Id")

    found = by_header.identify([(b"x-user-id", b"ann")])
    assert found is not None
    assert (found.user, found.session) == ("ann", None)
    assert by_header.identify([(b"x-user-id", b"")]) is None
    assert by_header.identify([(b"x-user-id", b"ann"), (b"x-user-id", b"bob")]) is None


@pytest.mark.parametrize(
    "cookie", [b"s=abc", b"a=1; s=abc", b'prefs={"a":[1,"b"]}; s=abc; z', b"bad name=x;s=abc", b" s=abc "]
)
def test_a_session_cookie_is_found_beside_any_other(cookie: bytes) -> None:
    """A malformed cookie beside it does not hide the session; the value is not kept."""
    found = identifier(jwt=None, cookie="s").identify([(b"cookie", cookie)])

    assert found is not None
    assert found.user == found.session == principal_of(b"s=abc").user
    assert "abc" not in found.user


def principal_of(cookie: bytes) -> Identity:
    found = identifier(jwt=None, cookie="s").identify([(b"cookie", cookie)])
    assert found is not None
    return found


@pytest.mark.parametrize("cookie", [b"", b"s=", b"S=abc", b"xs=abc", b"s=abc; s=abd", b"s"])
def test_no_or_two_session_cookies_are_nobodys(cookie: bytes) -> None:
    """One value, under exactly that name."""
    assert identifier(jwt=None, cookie="s").identify([(b"cookie", cookie)]) is None


def test_the_ways_are_tried_in_order() -> None:
    """Token, header, cookie: the first that finds somebody counts."""
    all_ways = identifier(header="X-User", cookie="s")
    every: Headers = [*bearer(token()), (b"x-user", b"bob"), (b"cookie", b"s=1")]

    users = [found.user for n in range(2) if (found := all_ways.identify(every[n:])) is not None]
    assert users == ["ann", "bob"]
    assert all_ways.identify(every[2:]) == principal_of_all(all_ways)


def principal_of_all(ways: Identifier) -> Identity | None:
    return ways.identify([(b"cookie", b"s=1")])


def test_principals_mean_nothing_outside_the_process() -> None:
    """Another process has another secret, so a principal cannot be compared or looked up."""
    first, second = (Identifier(IdentitySettings()) for _ in range(2))
    assert principal(first.identify(bearer(token()))) != principal(second.identify(bearer(token())))


def test_buckets_are_spread_and_stable() -> None:
    """Sixteen, about equally full, and the same for a user wherever it is asked."""
    counts = [0] * BUCKETS
    for number in range(3200):
        counts[Identity("p", f"user-{number}").bucket] += 1
    assert min(counts) > 140
    assert Identity("p", "ann").bucket == Identity("q", "ann").bucket


# An issuer's keys


def jwks(kid: str) -> bytes:
    key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(PRIVATE.public_key()))
    return json.dumps({"keys": [{**key, "kid": kid, "alg": "RS256", "use": "sig"}]}).encode()


async def test_keys_are_fetched_and_kept_when_the_issuer_fails() -> None:
    """The keys that are known stay, and nothing raises, whatever the issuer sends next."""
    answers = [jwks("k1"), b"[]", b"nonsense", b'{"keys": 5}', b'{"keys": [1]}']

    async def script(asked: Asked) -> None:
        await asked.answer(answers.pop(0) if answers else b"", b"200 OK" if answers else b"500 Oh")

    signed = jwt.encode({"sub": "ann"}, PRIVATE, algorithm="RS256", headers={"kid": "k1"})
    other = jwt.encode({"sub": "ann"}, PRIVATE, algorithm="RS256", headers={"kid": "k2"})
    async with ScriptedUpstream(script).running() as issuer:
        by_keys = identifier(jwt={"jwks_url": f"{issuer.url}/keys"})
        assert by_keys.identify(bearer(signed)) is None
        assert await by_keys.refresh_keys() is True
        for _ in range(5):
            assert await by_keys.refresh_keys() is False
            assert by_keys.identify(bearer(signed)) is not None
            assert by_keys.identify(bearer(other)) is None
            assert by_keys.identify(bearer(token())) is None


async def test_a_key_that_is_not_known_is_fetched() -> None:
    """An issuer may sign with its new key at once: the first such token has the keys fetched again."""
    kids = ["k1", "k2"]

    async def script(asked: Asked) -> None:
        await asked.answer(jwks(kids[min(len(issuer.asked), 2) - 1]))

    signed = [jwt.encode({"sub": "ann"}, PRIVATE, algorithm="RS256", headers={"kid": kid}) for kid in kids]
    async with ScriptedUpstream(script).running() as issuer:
        by_keys = identifier(jwt={"jwks_url": f"{issuer.url}/keys"})
        keeping = asyncio.ensure_future(by_keys.keep_keys(retry_s=0.05))
        await eventually(lambda: by_keys.identify(bearer(signed[0])) is not None)
        await eventually(lambda: by_keys.identify(bearer(signed[1])) is not None)
        keeping.cancel()

    assert len(issuer.asked) == 2


async def test_keys_that_are_made_up_do_not_have_the_issuer_asked_again_and_again() -> None:
    """The issuer is asked once in a while at most, whatever strangers call their keys."""
    made_up = jwt.encode({"sub": "ann"}, PRIVATE, algorithm="RS256", headers={"kid": "made up"})
    async with ScriptedUpstream(answering(jwks("k1"))).running() as issuer:
        by_keys = identifier(jwt={"jwks_url": f"{issuer.url}/keys"})
        keeping = asyncio.ensure_future(by_keys.keep_keys(retry_s=600))
        await eventually(lambda: len(issuer.asked) == 1)
        for _ in range(50):
            assert by_keys.identify(bearer(made_up)) is None
            await asyncio.sleep(0)
        keeping.cancel()

    assert len(issuer.asked) == 1
    assert JWKS_RETRY_S == 10


async def test_a_run_is_owned_across_refreshed_tokens(tmp_path: Path) -> None:
    """With keys, a client whose token was renewed within the run still reads it."""
    async with (
        ScriptedUpstream(answering(jwks("k1"))).running() as issuer,
        ScriptedUpstream(answering(answer())).running() as upstream,
        headgate(
            upstream.url,
            tmp_path,
            routes=[route()],
            identity={"jwt": {"jwks_url": f"{issuer.url}/keys"}},
        ) as serving,
        browser(serving.url) as client,
    ):

        def headers(**more: str) -> dict[str, str]:
            fresh = jwt.encode(
                {"sub": "ann", "jti": str(len(upstream.asked) + len(more))},
                PRIVATE,
                algorithm="RS256",
                headers={"kid": "k1"},
            )
            return {"authorization": f"Bearer {fresh}", "accept": "text/event-stream", **more}

        await eventually(lambda: bool(issuer.asked))

        async def known() -> bool:
            stream = await read(client, START, headers())
            return "reason=flag_on" in stream.headers["headgate-decision"]

        await eventually(known)
        stream = await read(client, f"{START}/stream", headers(), method="GET")
        again = await read(
            client, f"{START}/stream", headers(**{"last-event-id": f"{stream.run}:1"}), method="GET"
        )

    assert again.events == stream.events[1:]
