"""The sample upstream keeps the contract: paths, shapes, statuses and refusals."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest

from tests.servers.clinic_server import CASE_TEXT, RunningClinic, running_clinic


@pytest.fixture
def stranger(clinic: RunningClinic) -> Iterator[httpx.Client]:
    """A client without a token."""
    with clinic.client(None) as client:
        yield client


@pytest.fixture
def case(api: httpx.Client) -> dict[str, object]:
    made: dict[str, object] = api.post("/api/cases", json={"case_text": CASE_TEXT}).json()
    return made


def test_a_case_is_made_with_201_and_its_exact_fields(api: httpx.Client):
    """The order of the fields, raw UTF-8, a length and no chunks: what a relay must not change."""
    made = api.post("/api/cases", json={"case_text": CASE_TEXT})

    assert made.status_code == 201
    assert list(made.json()) == [
        "case_text",
        "id",
        "user_id",
        "current_stage",
        "is_complete",
        "created_at",
        "updated_at",
    ]
    assert made.json()["is_complete"] is False and made.json()["updated_at"] is None
    assert made.json()["created_at"].endswith("Z")
    assert "°".encode() in made.content
    assert made.headers["content-length"] == str(len(made.content))
    assert not {"transfer-encoding", "etag", "set-cookie", "cache-control"} & set(made.headers)


def test_cases_are_listed_newest_change_first(api: httpx.Client):
    """A change moves a case to the front; `skip` and `limit` cut the list, `total` does not care."""
    first, second = (api.post("/api/cases", json={"case_text": text}).json()["id"] for text in ("one", "two"))
    api.patch(f"/api/cases/{first}", json={"case_text": "renamed"})

    listed = api.get("/api/cases").json()
    part = api.get("/api/cases", params={"skip": 1, "limit": 1}).json()

    assert [case["id"] for case in listed["cases"]][:2] == [first, second]
    assert [case["id"] for case in part["cases"]] == [second]
    assert part["total"] == listed["total"]


def test_a_patch_changes_what_it_names(api: httpx.Client, case: dict[str, object]):
    """The frontend's "rename" is a patch of the case text."""
    changed = api.patch(f"/api/cases/{case['id']}", json={"is_complete": True}).json()

    assert changed["is_complete"] is True
    assert changed["case_text"] == CASE_TEXT
    assert changed["updated_at"] is not None


def test_a_deleted_case_leaves_nothing(api: httpx.Client, case: dict[str, object]):
    """204 without a body; its messages go with it."""
    path = f"/api/cases/{case['id']}"
    api.post(f"{path}/messages", json={"role": "user", "content": "hello"})

    gone = api.delete(path)

    assert (gone.status_code, gone.content) == (204, b"")
    assert api.get(path).status_code == 404


def test_messages_are_kept_in_order_and_twice_if_sent_twice(api: httpx.Client, case: dict[str, object]):
    """There is no protection against a repeated POST."""
    path = f"/api/cases/{case['id']}/messages"
    for _ in range(2):
        said = api.post(path, json={"role": "user", "content": "hello"})

    chat = api.get(path).json()

    assert said.status_code == 201
    assert list(said.json()) == ["role", "content", "id", "case_id", "created_at"]
    assert [message["content"] for message in chat["messages"]] == ["hello", "hello"]
    assert chat["total"] == 2


def test_without_a_token_the_answer_is_422(stranger: httpx.Client):
    """Not 401: the header is treated as a missing field."""
    refused = stranger.get("/api/cases")

    assert refused.status_code == 422
    assert refused.json() == {
        "detail": [
            {"type": "missing", "loc": ["header", "authorization"], "msg": "Field required", "input": None}
        ]
    }


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ("Basic abc", "Invalid authentication scheme"),
        ("Bearer", "Token is missing"),
        ("Bearer nonsense", "Could not validate credentials: Not enough segments"),
    ],
)
def test_a_bad_token_is_401(stranger: httpx.Client, header: str, detail: str):
    """With the challenge that goes with it."""
    refused = stranger.get("/api/auth/me", headers={"authorization": header})

    assert (refused.status_code, refused.json()) == (401, {"detail": detail})
    assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        ({"exp": datetime.now(UTC) - timedelta(minutes=1)}, "Token has expired"),
        ({"aud": "others"}, "Could not validate credentials: Audience doesn't match"),
        ({"sub": "ada"}, "Could not validate credentials: the subject is not a UUID"),
    ],
)
def test_a_signed_token_must_also_fit(
    clinic: RunningClinic, stranger: httpx.Client, claims: dict[str, object], detail: str
):
    """Expiry, audience and subject are checked; the issuer is not."""
    headers = {"authorization": f"Bearer {clinic.token(**claims)}"}

    refused = stranger.get("/api/auth/me", headers=headers)

    assert (refused.status_code, refused.json()) == (401, {"detail": detail})


def test_the_first_call_makes_the_user(clinic: RunningClinic):
    """Even a GET; one name is one user for every worker."""
    name = f"user-{uuid4()}"
    with clinic.client(name) as api:
        user = api.get("/api/auth/me").json()

        assert user["email"] == f"{name}@clinic.example"
        assert api.get("/api/auth/user-id").json() == {"user_id": user["id"]}
        verified = api.post("/api/auth/verify").json()
        assert verified["valid"] is True and verified["user"]["id"] == user["id"]


def test_the_profile_lies_under_a_doubled_prefix(api: httpx.Client):
    """The frontend asks `/api/users/me` and gets 404, as it always has."""
    changed = api.put("/api/users/users/me", json={"job_title": "GP"})

    assert changed.json()["job_title"] == "GP"
    assert api.get("/api/users/users/me").json()["job_title"] == "GP"
    assert set(api.get("/api/users/users/me/stats").json()) == {"total_cases", "completed_cases"}
    assert api.get("/api/users/me").status_code == 404


@pytest.mark.parametrize(
    ("method", "purpose"), [("GET", "access"), ("PATCH", "update"), ("DELETE", "delete")]
)
def test_another_users_case_is_403(clinic: RunningClinic, case: dict[str, object], method: str, purpose: str):
    """The sentence says what was tried."""
    with clinic.client("mallory") as other:
        refused = other.request(method, f"/api/cases/{case['id']}", json={})

    assert refused.status_code == 403
    assert refused.json() == {"detail": f"Not authorized to {purpose} this case"}


def test_an_unknown_case_is_404(api: httpx.Client):
    """The id is in the sentence."""
    unknown = str(uuid4())

    refused = api.get(f"/api/cases/{unknown}/details")

    assert (refused.status_code, refused.json()) == (404, {"detail": f"Case with ID {unknown} not found"})


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "loc"),
    [
        ("GET", "/api/cases/not-an-id", None, "uuid_parsing", ["path", "case_id"]),
        ("GET", "/api/cases?limit=many", None, "int_parsing", ["query", "limit"]),
        ("POST", "/api/cases", None, "missing", ["body"]),
        ("POST", "/api/cases", b"{}", "missing", ["body", "case_text"]),
        ("POST", "/api/cases", b'{"case_text": 1}', "string_type", ["body", "case_text"]),
        ("POST", "/api/cases", b"{not json", "json_invalid", ["body", 1]),
    ],
)
def test_what_is_wrong_is_422_and_says_where(
    api: httpx.Client, method: str, path: str, content: bytes | None, kind: str, loc: list[object]
):
    """One entry for each thing that is wrong."""
    refused = api.request(method, path, content=content, headers={"content-type": "application/json"})

    assert refused.status_code == 422
    [problem] = refused.json()["detail"]
    assert (problem["type"], problem["loc"]) == (kind, loc)


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/api/nothing/here", 404, "Not Found"),
        ("GET", "/api/health/live", 404, "Not Found"),
        ("PUT", "/api/cases", 405, "Method Not Allowed"),
        ("POST", "/api/contact", 500, "Email service is not configured"),
    ],
)
def test_other_refusals_are_json_too(api: httpx.Client, method: str, path: str, status: int, detail: str):
    """`detail` is a sentence there, a list in a 422."""
    letter = {"name": "A", "email": "a@b.example", "subject": "s", "message": "m"}

    refused = api.request(method, path, json=letter)

    assert (refused.status_code, refused.json()) == (status, {"detail": detail})


def test_head_is_405_where_get_is_200(api: httpx.Client):
    """Frameworks that add no HEAD by themselves do the same."""
    assert api.head("/health").status_code == 405


def test_a_trailing_slash_redirects_to_the_host_the_client_named(stranger: httpx.Client):
    """An absolute address, so a proxy that passes on another Host shows it to the client."""
    moved = stranger.get("/api/cases/", headers={"host": "clinic.example"})

    assert moved.status_code == 307
    assert moved.headers["location"] == "http://clinic.example/api/cases"
    assert moved.content == b""


def test_what_is_public_needs_no_token(stranger: httpx.Client):
    """Health, greeting, description, documentation and the stages' names."""
    paths = ("/", "/health", "/docs", "/api/openapi.json", "/api/stages/mapping")
    answers = {path: stranger.get(path) for path in paths}

    assert {answer.status_code for answer in answers.values()} == {200}
    assert answers["/health"].json() == {"status": "healthy", "database": "connected", "version": "1.0.0"}
    assert "/api/cases/{case_id}/workflow/start" in answers["/api/openapi.json"].json()["paths"]
    assert len(answers["/api/stages/mapping"].json()["mapping"]) == 10


def test_a_preflight_is_answered_for_known_headers_only(stranger: httpx.Client):
    """A header the API does not know is refused in plain text, whatever it is for."""
    asked = {"origin": "http://localhost:5173", "access-control-request-method": "POST"}

    known = stranger.options(
        "/api/cases", headers={**asked, "access-control-request-headers": "authorization"}
    )
    unknown = stranger.options(
        "/api/cases", headers={**asked, "access-control-request-headers": "last-event-id"}
    )

    assert known.status_code == 200
    assert known.headers["access-control-max-age"] == "600"
    assert known.headers["access-control-allow-credentials"] == "true"
    assert (unknown.status_code, unknown.text) == (400, "Disallowed CORS headers")


def test_only_content_length_is_exposed_across_origins(api: httpx.Client):
    """Whatever a proxy adds stays invisible to scripts of another origin unless it exposes it."""
    answer = api.get("/health", headers={"origin": "http://localhost:5173"})

    assert answer.headers["access-control-allow-origin"] == "http://localhost:5173"
    assert answer.headers["access-control-expose-headers"] == "Content-Length"


def test_settings_change_origins_mail_and_the_demos_endpoints():
    """From the environment. A letter is written after its answer; demo tokens are off by default."""
    letter = {"name": "A", "email": "a@b.example", "subject": "s", "message": "é"}
    environ = {"CUSTOM_FRONTEND_URL": "https://clinic.example", "CLINIC_MAIL": "1", "CLINIC_DEMO": "0"}

    with running_clinic(environ=environ) as clinic, clinic.client() as api:
        named = api.get("/health", headers={"origin": "https://clinic.example"})
        default = api.get("/health", headers={"origin": "http://localhost:5173"})
        sent = api.post("/api/contact", json=letter)
        # A kept connection takes the next request only when the background work of the last is over.
        api.get("/health")

        assert {api.get(path).status_code for path in ("/demo/token?user=ada", "/demo/flag")} == {404}
        assert "access-control-allow-origin" in named.headers
        assert "access-control-allow-origin" not in default.headers
        assert sent.json() == {"message": "Your message has been sent."}
        assert json.loads((clinic.data_dir / "outbox.jsonl").read_text()) == letter
