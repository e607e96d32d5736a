"""Every error has the same kind of body: a problem (RFC 9457)."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from litestar.params import FromQuery
from msgspec import Struct

from service import errors
from service.app import create_app
from service.database.database import Database
from service.http.routes import get
from service.queries import posts
from service.settings import Settings
from tests.bodies import FORM, JSON, MEBIBYTE, TEXT
from tests.conftest import Serve
from tests.databases import Databases
from tests.people import Person, assert_problem, is_ready
from tests.serving import open_client
from tests.tables import all_rows
from tests.waiting import until


class Failure(Struct):
    status: int
    code: str
    method: str
    path: str
    content: bytes | None = None
    headers: dict[str, str] = {}
    detail: str | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path} {self.code}"


POST = b'{"title": "T", "content": "C"}'

FAILURES = [
    Failure(400, "not_json", "POST", "/posts", b"", JSON),
    Failure(400, "not_json", "POST", "/posts", b"{", JSON),
    Failure(400, "not_json", "POST", "/posts", b'{"title": "T", "content": "C"}}', JSON),
    Failure(400, "not_json", "POST", "/posts", b"{'title': 'T', 'content': 'C'}", JSON),
    Failure(400, "not_json", "POST", "/posts", b'{"title": NaN, "content": "C"}', JSON),
    Failure(400, "not_json", "POST", "/posts", b'{"title": "\xff", "content": "C"}', JSON),
    Failure(400, "not_json", "POST", "/posts", b'{"title": "T", "content": "C", "other": "\xff"}', JSON),
    Failure(400, "not_json", "POST", "/posts", json.dumps({"title": "T"}).encode("utf-16"), JSON),
    Failure(400, "not_json", "POST", "/posts", b'{"title": "\\ud800", "content": "C"}', JSON),
    Failure(400, "not_json", "POST", "/posts", b'{"title": "T", "content": "C", "other": "\\udc00"}', JSON),
    Failure(400, "not_json", "POST", "/posts", b"[" * 100_000, JSON),
    Failure(400, "not_json", "POST", "/posts", b'{"title": ' + b"[" * 100_000, JSON),
    Failure(400, "not_json", "PATCH", "/posts/{post_id}", b"", JSON),
    Failure(400, "not_json", "POST", "/auth/register", b"null and void", JSON),
    Failure(400, "not_form", "POST", "/auth/token", b"username=\xff&password=x", FORM),
    Failure(400, "not_form", "POST", "/auth/token", b"username=%ff&password=x", FORM),
    Failure(400, "not_form", "POST", "/auth/token", b"&".join(b"a=1" for _ in range(101)), FORM),
    Failure(400, "not_form", "POST", "/auth/token", b"nonsense", {"Content-Type": "multipart/form-data; boundary=x"}),
    Failure(400, "not_form", "POST", "/auth/token", b"nonsense", {"Content-Type": "multipart/form-data"}),
    Failure(
        400,
        "not_form",
        "POST",
        "/auth/token",
        b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\n\xff\r\n--x--\r\n',
        {"Content-Type": "multipart/form-data; boundary=x"},
    ),
    Failure(400, "unsupported_grant_type", "POST", "/auth/token", b"grant_type=client_credentials", FORM),
    Failure(401, "not_authenticated", "GET", "/users/me", detail="Not authenticated"),
    Failure(401, "invalid_token", "GET", "/users/me", None, {"Authorization": "Bearer x"}),
    Failure(401, "not_authenticated", "POST", "/posts", b"{", {"Authorization": ""}),
    Failure(404, "not_found", "GET", "/nothing/here", detail="Not Found"),
    Failure(404, "not_found", "GET", "/docs/../../etc/passwd"),
    Failure(404, "not_found", "GET", "/docs/%2e%2e%2fpyproject.toml"),
    Failure(404, "not_found", "GET", "/posts/1/2"),
    Failure(404, "post_not_found", "GET", "/posts/999", detail="Post not found"),
    Failure(404, "user_not_found", "GET", "/users/999", detail="User not found"),
    Failure(405, "method_not_allowed", "PUT", "/posts/{post_id}", detail="Method Not Allowed"),
    Failure(405, "method_not_allowed", "DELETE", "/posts"),
    Failure(405, "method_not_allowed", "GET", "/auth/token"),
    Failure(405, "method_not_allowed", "TRACE", "/"),
    Failure(413, "body_too_large", "POST", "/posts", POST + b" " * MEBIBYTE, JSON, "The body is over 1 MiB"),
    Failure(413, "body_too_large", "POST", "/auth/register", b"{" * (MEBIBYTE + 1), JSON),
    Failure(413, "body_too_large", "POST", "/auth/token", b"x" * (MEBIBYTE + 1), FORM),
    Failure(415, "wrong_content_type", "POST", "/posts", POST, TEXT),
    Failure(415, "wrong_content_type", "POST", "/posts", POST, FORM),
    Failure(415, "wrong_content_type", "PATCH", "/posts/{post_id}", POST, TEXT),
    Failure(415, "wrong_content_type", "POST", "/auth/register", POST, TEXT),
    Failure(415, "wrong_content_type", "POST", "/auth/token", b"{}", JSON),
    Failure(415, "content_coding_not_supported", "POST", "/posts", POST, JSON | {"Content-Encoding": "gzip"}),
    Failure(415, "content_coding_not_supported", "POST", "/posts", POST, JSON | {"Content-Encoding": "identity, BR"}),
    Failure(415, "content_coding_not_supported", "PATCH", "/posts/{post_id}", POST, {"Content-Encoding": "deflate"}),
    Failure(415, "content_coding_not_supported", "POST", "/auth/register", POST, JSON | {"Content-Encoding": "zstd"}),
    Failure(415, "content_coding_not_supported", "POST", "/auth/token", b"a=b", FORM | {"Content-Encoding": "gzip"}),
    Failure(422, "invalid_fields", "POST", "/posts", b"[]", JSON),
    Failure(422, "invalid_fields", "GET", "/posts?limit=0"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
async def test_every_error_has_a_problem_body_and_changes_nothing(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, failure: Failure
) -> None:
    post = await alice.publish()
    before = await all_rows(db)

    response = await client.request(
        failure.method,
        failure.path.format(post_id=post["id"]),
        content=failure.content,
        headers=(alice.headers if "Authorization" not in failure.headers and failure.status != 401 else {})
        | failure.headers,
    )

    assert_problem(response, failure.status, failure.code, failure.detail)
    assert await all_rows(db) == before
    assert (await client.get("/")).status_code == 200


async def test_the_limit_applies_to_a_chunked_body_too(client: httpx.AsyncClient, alice: Person) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    response = await client.post("/posts", content=chunks(), headers=alice.headers | JSON)

    assert_problem(response, 413, "body_too_large")


async def test_a_body_of_exactly_one_mebibyte_is_accepted(client: httpx.AsyncClient, alice: Person) -> None:
    frame = b'{"title": "T", "content": ""}'
    body = frame[:-2] + b"c" * (MEBIBYTE - len(frame)) + frame[-2:]

    response = await client.post("/posts", content=body, headers=alice.headers | JSON)

    assert len(body) == MEBIBYTE
    assert response.status_code == 201
    assert len(response.json()["content"]) == MEBIBYTE - len(frame)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json", None],
)
async def test_every_json_content_type_is_accepted(
    client: httpx.AsyncClient, alice: Person, content_type: str | None
) -> None:
    post = await alice.publish()
    headers = alice.headers | ({"Content-Type": content_type} if content_type else {})

    response = await client.patch(f"/posts/{post['id']}", content=b'{"title": "New"}', headers=headers)

    assert (response.status_code, response.json()["title"]) == (200, "New")


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
async def test_the_identity_coding_is_accepted_and_others_are_refused(
    client: httpx.AsyncClient, alice: Person, coding: str
) -> None:
    headers = alice.headers | JSON | {"Content-Encoding": coding}

    assert (await client.post("/posts", content=POST, headers=headers)).status_code == 201
    refused = await client.post("/posts", content=POST, headers=headers | {"Content-Encoding": "gzip"})
    assert refused.headers["accept-encoding"] == "identity"


async def test_the_last_value_of_a_repeated_key_counts(client: httpx.AsyncClient, alice: Person) -> None:
    body = b'{"title": "first", "content": "C", "title": "last"}'

    response = await client.post("/posts", content=body, headers=alice.headers | JSON)

    assert response.json()["title"] == "last"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/posts", "GET, HEAD, OPTIONS, POST"),
        ("/posts/1", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/posts/abc", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/users/me", "GET, HEAD, OPTIONS, PATCH"),
        ("/users/me/sessions", "DELETE, GET, HEAD, OPTIONS"),
        ("/users/me/sessions/1", "DELETE, OPTIONS"),
        ("/users/me/password", "OPTIONS, POST"),
        ("/auth/revoke", "OPTIONS, POST"),
        ("/users/1", "GET, HEAD, OPTIONS"),
        ("/auth/token", "OPTIONS, POST"),
        ("/auth/register", "OPTIONS, POST"),
        ("/docs", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_and_405_list_the_allowed_methods(client: httpx.AsyncClient, path: str, allowed: str) -> None:
    options = await client.options(path)
    refused = await client.request("PUT", path)

    assert (options.status_code, options.content) == (204, b"")
    assert_problem(refused, 405, "method_not_allowed")
    for response in (options, refused):
        assert ", ".join(sorted(response.headers["allow"].split(", "))) == allowed


async def test_head_returns_the_headers_of_get_without_the_body(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()
    headers = alice.headers | {"X-Request-ID": "the-same"}

    for path in ("/", "/posts", f"/posts/{post['id']}", f"/users/{alice.id}", "/users/me", "/docs", "/posts/999"):
        get = await client.get(path, headers=headers)
        head = await client.head(path, headers=headers)

        assert (head.status_code, head.headers, head.content) == (get.status_code, get.headers, b"")


async def test_a_bug_is_a_500_that_does_not_reveal_its_cause(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(db: Database, post_id: int) -> None:
        raise RuntimeError(f"the inside of post {post_id} on {db}")

    monkeypatch.setattr(posts, "select", broken)

    response = await client.get("/posts/7")

    assert_problem(response, 500, "internal_server_error", "An unexpected error occurred in the service")
    assert "inside" not in response.text
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "GET /posts/7" in record.getMessage()
    assert "RuntimeError: the inside of post 7" in caplog.text


async def test_an_unavailable_database_is_a_503_and_the_service_recovers_by_itself(
    serve: Serve, settings: Settings, databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    name = urlsplit(settings.database_url).path.removeprefix("/")
    async with open_client(await serve(create_app(settings))) as client:
        alice = await Person.register(client, "alice")
        await databases.admin.execute(f'alter database "{name}" with allow_connections false')
        await databases.admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)

        for response in [
            await client.get("/posts"),
            await client.get("/users/me", headers=alice.headers),
            await client.post("/posts", json={"title": "T", "content": "C"}, headers=alice.headers),
            await client.post("/auth/token", data={"username": "alice", "password": alice.password}),
            await client.get("/health/ready"),
        ]:
            assert_problem(response, 503, "database_unavailable")
            assert int(response.headers["retry-after"]) >= 1
        live = await client.get("/health/live")

        await databases.admin.execute(f'alter database "{name}" with allow_connections true')
        await until(lambda: is_ready(client), 1)
        post = await alice.publish()

    assert live.status_code == 200
    assert post["user_id"] == alice.id
    messages = [
        record.getMessage().partition(":")[0] for record in caplog.records if record.name == "service.database.pool"
    ]
    # They may follow one about a statement that was running.
    assert messages[-2:] == ["the database is unavailable", "the database is available again"]
    assert len(messages) <= 3


async def test_a_client_that_disconnects_is_not_logged_as_an_error(
    client: httpx.AsyncClient, address: str, alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /posts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\nContent-Length: 100\r\n\r\n{{"
    writer.write(head.encode())
    await writer.drain()
    await client.get("/")
    writer.close()
    await writer.wait_closed()

    assert (await client.get("/posts")).json() == []
    assert await reader.read() == b""
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    "request_line", [b"nonsense", b"BREW /posts HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET / HTTP/9.9", b"GET  HTTP/1.1"]
)
async def test_malformed_http_gets_a_problem_body_too(address: str, request_line: bytes) -> None:
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    writer.write(request_line + b"\r\nHost: x\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (400, "bad_request")


def test_an_error_may_carry_headers_of_its_own() -> None:
    plain, own = errors.TooManyPasswords(), errors.TooManyPasswords(headers={"Retry-After": "7", "X-Why": "queue"})

    assert (plain.headers, own.headers) == ({"Retry-After": "1"}, {"Retry-After": "7", "X-Why": "queue"})
    assert errors.TooManyPasswords.headers == {"Retry-After": "1"}


async def test_the_headers_of_one_error_are_those_of_its_response(serve: Serve, settings: Settings) -> None:
    @get("/limited", public=True)
    async def limited(seconds: FromQuery[int]) -> None:
        raise errors.TooManyPasswords(headers={"Retry-After": str(seconds)})

    app = create_app(settings)
    app.register(limited)
    async with open_client(await serve(app)) as client:
        for seconds in ("3", "5"):
            response = await client.get(f"/limited?seconds={seconds}")

            assert_problem(response, 503, "too_many_passwords")
            assert response.headers["retry-after"] == seconds


def test_every_error_class_has_a_code_of_its_own() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    kinds = [kind for kind in classes if issubclass(kind, errors.ServiceError) and kind is not errors.ServiceError]

    assert len(kinds) > 10
    for kind in kinds:
        assert 400 <= kind.status < 600
        assert kind.code == kind.code.lower()
        assert ("WWW-Authenticate" in kind.headers) == (kind.status == 401)
        assert ("Retry-After" in kind.headers) == (kind.status in {429, 503})
    codes = [kind.code for kind in kinds if kind.code != "not_owner"]  # one code for update and delete
    assert len(codes) == len(set(codes))
