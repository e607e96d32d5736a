"""The header fields that every response has, and the request id."""

import logging
import re
from typing import Any

import httpx
import litestar
import msgspec
import pytest
from litestar.types import Receive, Scope, Send

from service.app import create_app
from service.database.database import Database
from service.observability import logs
from service.queries import posts
from service.settings import Settings
from tests import manual
from tests.conftest import Serve
from tests.people import Person, assert_problem
from tests.raw_http import exchange, get
from tests.serving import Share, SharedApp, open_client

POLICY = "default-src 'none'; frame-ancestors 'none'"
GENERATED = re.compile(r"[A-Za-z0-9._-]{1,64}")


def assert_common_headers(response: httpx.Response, cache_control: str) -> None:
    names = [name.lower() for name, _ in response.headers.raw]
    assert len(names) == len(set(names)), names
    assert GENERATED.fullmatch(response.headers["x-request-id"])
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    if not response.url.path.startswith("/docs"):
        assert response.headers["content-security-policy"] == POLICY
    assert response.headers["cache-control"] == cache_control


@pytest.mark.parametrize(
    ("method", "path", "status", "cache_control"),
    [
        ("GET", "/", 200, "no-cache"),
        ("HEAD", "/", 200, "no-cache"),
        ("OPTIONS", "/", 204, "no-cache"),
        ("PUT", "/", 405, "no-cache"),
        ("GET", "/nothing/here", 404, "no-cache"),
        ("POST", "/auth/register", 201, "no-store"),
        ("POST", "/auth/register", 409, "no-store"),
        ("POST", "/auth/token", 200, "no-store"),
        ("POST", "/auth/token", 415, "no-store"),
        ("GET", "/auth/token", 405, "no-cache"),
        ("GET", "/users/me", 200, "no-store"),
        ("GET", "/users/me", 401, "no-store"),
        ("GET", "/users/1", 200, "no-cache"),
        ("GET", "/users/999", 404, "no-cache"),
        ("POST", "/posts", 201, "no-cache"),
        ("POST", "/posts", 401, "no-cache"),
        ("POST", "/posts", 422, "no-cache"),
        ("GET", "/posts", 200, "no-cache"),
        ("GET", "/posts?limit=0", 422, "no-cache"),
        ("GET", "/posts/1", 200, "no-cache"),
        ("PATCH", "/posts/1", 200, "no-cache"),
        ("DELETE", "/posts/1", 204, "no-cache"),
        ("GET", "/health/live", 200, "no-store"),
        ("GET", "/health/ready", 200, "no-store"),
        ("GET", "/openapi.json", 200, "no-cache"),
        ("GET", "/docs", 200, "no-cache"),
        ("GET", "/docs/", 200, "no-cache"),
        ("GET", "/docs/swagger-ui.css", 200, "max-age=3600, public"),
        ("HEAD", "/docs/swagger-ui.css", 200, "max-age=3600, public"),
        ("GET", "/docs/nothing.css", 404, "no-cache"),
    ],
)
async def test_every_route_sends_the_common_headers(
    client: httpx.AsyncClient, alice: Person, method: str, path: str, status: int, cache_control: str
) -> None:
    await alice.publish()
    sent: dict[str, Any] = {"headers": {} if status == 401 else alice.headers}
    if path == "/auth/register":
        sent["json"] = {
            "username": "bob" if status == 201 else "alice",
            "email": "bob@example.com",
            "password": "p" * 8,
        }
    elif path == "/auth/token" and status == 200:
        sent["data"] = {"username": "alice", "password": alice.password}
    elif path == "/auth/token":
        sent["json"] = {}
    elif method in {"POST", "PATCH"}:
        sent["json"] = {} if status == 422 else {"title": "T", "content": "C"}

    response = await client.request(method, path, **sent)

    assert response.status_code == status, response.text
    assert_common_headers(response, cache_control)


@litestar.get("/plain", public=True)
async def plain() -> litestar.Response[str]:
    headers = {"Cache-Control": "public, max-age=5", "X-Request-ID": "of the handler"}
    return litestar.Response("text", media_type="text/plain", headers=headers)


@litestar.asgi("/mounted", is_mount=True, copy_scope=True, public=True)
async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": ((b"Cache-Control", b"public"),)})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.fixture(scope="session")
async def module_app(share: Share) -> SharedApp:
    return await share(manual.Manual, plain, mounted)


@pytest.mark.parametrize(
    ("path", "cache_control"),
    [
        ("/plain", "public, max-age=5"),
        ("/mounted", "public"),
        ("/manual/html", "no-cache"),
        ("/manual/cookie", "no-cache"),
        ("/manual/json-cookie", "no-cache"),
        ("/manual/nothing", "no-cache"),
        ("/manual/not-modified", "no-cache"),
        ("/manual/not-modified-cookie", "no-cache"),
        ("/manual/cached-head", "max-age=60"),
        ("/manual/stream", "no-cache"),
        ("/manual/redirect", "no-cache"),
        ("/manual/guarded", "no-cache"),
        ("/manual/handled", "no-cache"),
        ("/manual/unavailable", "no-cache"),
        ("/manual/stamped", "no-cache"),
        ("/manual/stamped?fail=true", "no-cache"),
        ("/manual/before?instead=1", "no-cache"),
        ("/manual/after", "no-cache"),
        ("/manual/sync?number=1", "no-cache"),
        ("/manual/sync", "no-cache"),
        ("/manual/number/x", "no-cache"),
    ],
)
async def test_responses_of_litestar_have_the_common_headers(
    module_app: SharedApp, path: str, cache_control: str
) -> None:
    async with module_app.for_a_test() as shared, open_client(shared.address) as client:
        assert_common_headers(await client.get(path), cache_control)


async def test_a_cached_response_has_the_id_of_its_own_request(serve: Serve, settings: Settings) -> None:
    app = create_app(settings)
    app.register(manual.Manual)
    async with open_client(await serve(app)) as client:
        for path in ("/manual/cached", "/manual/cached-json"):
            for sent in ("first", "second"):
                response = await client.get(path, headers={"X-Request-ID": sent})

                assert_common_headers(response, "no-cache")
                assert response.headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["a", "A-z_0.9", "x" * 64])
async def test_the_request_id_of_the_client_is_returned(client: httpx.AsyncClient, sent: str) -> None:
    found = await client.get("/", headers={"X-Request-ID": sent})
    missing = await client.get("/posts/1", headers={"X-Request-ID": sent})

    assert found.headers["x-request-id"] == missing.headers["x-request-id"] == sent
    assert missing.json()["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "a/b", "\xe9", '"', "a,b"])
async def test_an_invalid_request_id_is_replaced(client: httpx.AsyncClient, sent: str) -> None:
    response = await client.get("/", headers=[(b"X-Request-ID", sent.encode("latin-1"))])

    assert GENERATED.fullmatch(response.headers["x-request-id"])
    assert response.headers["x-request-id"] != sent


async def test_generated_ids_differ(client: httpx.AsyncClient) -> None:
    ids = [(await client.get("/")).headers["x-request-id"] for _ in range(20)]

    assert len(set(ids)) == 20


async def test_the_log_contains_the_request_id_of_a_500(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(db: Database, post_id: int) -> None:
        raise RuntimeError(db, post_id)

    monkeypatch.setattr(posts, "select", broken)
    monkeypatch.setattr(caplog.handler, "filters", [logs.RequestIds()])  # as the service's own handler has it

    response = await client.get("/posts/7")

    assert_problem(response, 500, "internal_server_error")
    assert_common_headers(response, "no-cache")
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert vars(record)["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "host_missing"),
        (get(fields=b"X: " + b"x" * 100_000 + b"\r\n"), 431, "request_header_fields_too_large"),
    ],
    ids=["not HTTP", "no Host", "a head that is too large"],
)
async def test_errors_of_the_server_have_the_common_headers(address: str, sent: bytes, status: int, code: str) -> None:
    [response] = await exchange(address, sent)

    problem = msgspec.json.decode(response.body)
    assert (response.status, problem["code"]) == (status, code)
    assert problem["request_id"] == response.headers["x-request-id"]
    assert_common_headers(
        httpx.Response(response.status, headers=response.headers, request=httpx.Request("GET", address)), "no-store"
    )


async def test_malformed_requests_have_different_ids(address: str) -> None:
    first, second = [await exchange(address, b"nonsense\r\n\r\n") for _ in range(2)]

    assert first[0].headers["x-request-id"] != second[0].headers["x-request-id"]
