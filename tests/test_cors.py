"""Pages of other origins: what CORS_ORIGINS allows them, what they can read, and what nobody else gets."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec
import pytest
from litestar import Response
from litestar.exceptions import HTTPException

from service.app import create_app
from service.database.database import Database
from service.http.cors import parse_origins
from service.http.routes import get
from service.queries import posts
from service.settings import Settings
from tests.conftest import Serve
from tests.people import assert_problem
from tests.raw_http import exchange
from tests.serving import Share, SharedApp, open_client

if TYPE_CHECKING:  # a slow import
    from playwright.async_api import Page

APP: Final = "https://app.example"
OTHER: Final = "https://other.example"
ASK: Final = "Access-Control-Request-Method"
ALLOWED: Final = "access-control-allow-origin"
EXPOSED: Final = {"X-Request-ID", "Link", "Location", "ETag", "Retry-After", "Idempotency-Replayed", "WWW-Authenticate"}


@get("/varies", public=True)
async def varies() -> Response[str]:
    return Response("text", headers={"Vary": "Accept-Language"})


@get("/fails", public=True)
async def fails() -> None:
    raise HTTPException("Not now", status_code=418)


async def served(serve: Serve, settings: Settings, origins: str) -> str:
    app = create_app(msgspec.structs.replace(settings, cors_origins=parse_origins(origins)))
    app.register(varies)
    app.register(fails)
    return await serve(app)


@pytest.fixture(scope="session")
async def running_app(share: Share) -> SharedApp:
    return await share(varies, fails, cors_origins=parse_origins(f"{APP}, https://second.example:8443"))


def cors_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


def assert_readable(response: httpx.Response, origin: str = APP) -> None:
    """A page of ``origin`` can read the response and its header fields, and no cache gives it to another."""
    assert response.headers.get_list(ALLOWED) == [origin]
    assert response.headers["access-control-allow-credentials"] == "true"
    assert set(response.headers["access-control-expose-headers"].split(", ")) == EXPOSED
    assert "Origin" in response.headers.get_list("vary")


async def test_without_the_setting_nothing_is_added(serve: Serve, settings: Settings) -> None:
    async with open_client(await serve(create_app(settings))) as client:
        read = await client.get("/posts", headers={"Origin": APP})
        asked = await client.options("/posts", headers={"Origin": APP, ASK: "POST"})

    for response in (read, asked):
        assert cors_headers(response) == {}
        assert "vary" not in response.headers
    assert (asked.status_code, asked.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/posts", 200),
        ("GET", "/posts", 200),
        ("GET", "/posts?limit=0", 422),
        ("GET", "/posts/1", 404),
        ("GET", "/nothing", 404),
        ("GET", "/users/me", 401),
        ("POST", "/posts", 401),
        ("PUT", "/posts", 405),
        ("POST", "/auth/token", 415),
        ("POST", "/auth/register", 413),
        ("GET", "/fails", 418),
        ("OPTIONS", "/posts", 204),
        ("GET", "/health/ready", 200),
    ],
)
async def test_a_listed_page_can_read_every_response(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    sent: dict[str, Any] = {"headers": {"Origin": APP}}
    if path == "/auth/register":
        sent["json"] = {"username": "x" * 2_000_000}
    elif path == "/auth/token":
        sent["json"] = {}

    response = await client.request(method, path, **sent)

    assert response.status_code == status, response.text
    assert_readable(response)


async def test_each_listed_origin_gets_its_own_name(client: httpx.AsyncClient) -> None:
    for origin in (APP, "https://second.example:8443"):
        assert_readable(await client.get("/posts", headers={"Origin": origin}), origin)


@pytest.mark.parametrize(
    "origin",
    [
        OTHER,
        "null",
        "*",
        "",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://evilapp.example",
        "https://app-example",
        f"{APP}, {OTHER}",
        f"{APP}/",
    ],
)
async def test_other_pages_get_nothing(client: httpx.AsyncClient, origin: str) -> None:
    read = await client.get("/posts", headers={"Origin": origin})
    asked = await client.options("/posts", headers={"Origin": origin, ASK: "POST"})

    assert read.status_code == 200
    for response in (read, asked):
        assert cors_headers(response) == {}
        assert response.headers["vary"] == "Origin"
    assert asked.headers["allow"] == "GET, HEAD, OPTIONS, POST"


async def test_a_cache_tells_origins_apart(client: httpx.AsyncClient) -> None:
    assert (await client.get("/posts")).headers["vary"] == "Origin"

    varying = await client.get("/varies", headers={"Origin": APP})

    assert varying.headers.get_list("vary", split_commas=True) == ["Accept-Language", "Origin"]


@pytest.mark.parametrize("path", ["/posts", "/users/me", "/posts/1", "/nothing", "/posts/1%2F2"])
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "PUT"])
async def test_a_preflight_is_answered_for_every_path(client: httpx.AsyncClient, path: str, method: str) -> None:
    headers = {"Origin": APP, ASK: method, "Access-Control-Request-Headers": "authorization,content-type,x-other"}

    response = await client.options(path, headers=headers)

    assert (response.status_code, response.content) == (204, b"")
    assert_readable(response)
    assert method in response.headers["access-control-allow-methods"].split(", ")
    assert response.headers["access-control-allow-headers"] == "authorization,content-type,x-other"
    assert response.headers["access-control-max-age"] == "600"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_malformed_list_of_header_names_is_not_repeated(client: httpx.AsyncClient) -> None:
    asked = {"Origin": APP, ASK: "GET", "Access-Control-Request-Headers": "a: b"}

    response = await client.options("/posts", headers=asked)

    assert response.status_code == 204
    assert "access-control-allow-headers" not in response.headers


async def test_an_options_request_that_is_no_preflight_is_answered_as_ever(client: httpx.AsyncClient) -> None:
    response = await client.options("/posts", headers={"Origin": APP})

    assert (response.status_code, response.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert_readable(response)


async def test_every_origin_never_comes_with_credentials(serve: Serve, settings: Settings) -> None:
    async with open_client(await served(serve, settings, "*")) as client:
        read = await client.get("/posts", headers={"Origin": OTHER, "Cookie": "a=b"})
        asked = await client.options("/posts", headers={"Origin": OTHER, ASK: "POST"})
        without = await client.get("/posts")

    for response in (read, asked, without):
        assert response.headers.get_list(ALLOWED) == ["*"]
        assert "access-control-allow-credentials" not in response.headers
        assert "vary" not in response.headers
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "access-control-allow-methods" not in without.headers


async def test_a_page_can_read_a_500(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(db: Database, post_id: int) -> None:
        raise RuntimeError(db, post_id)

    monkeypatch.setattr(posts, "select", broken)

    response = await client.get("/posts/7", headers={"Origin": APP})

    assert_problem(response, 500, "internal_server_error")
    assert_readable(response)


async def test_a_page_can_read_that_the_service_is_overloaded(serve: Serve, settings: Settings) -> None:
    app = create_app(msgspec.structs.replace(settings, cors_origins=(APP,), max_requests=0))
    async with open_client(await serve(app)) as client:
        response = await client.get("/posts", headers={"Origin": APP})

    assert_problem(response, 503, "overloaded")
    assert_readable(response)


async def test_a_page_can_read_that_its_body_took_too_long(serve: Serve, settings: Settings) -> None:
    address = await served(serve, msgspec.structs.replace(settings, client_timeout_seconds=0.5), APP)
    head = f"POST /auth/register HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\nContent-Length: 9\r\n"

    [answer] = await exchange(address, f"{head}Content-Type: application/json\r\n\r\n{{".encode())

    assert (answer.status, answer.headers.get(ALLOWED)) == (408, APP)


async def test_a_fast_route_stays_fast(serve: Serve, settings: Settings) -> None:
    app = create_app(msgspec.structs.replace(settings, cors_origins=(APP,)))
    await serve(app)

    handlers = {str(handler): handler for route in app.routes for handler in getattr(route, "route_handlers", ())}

    assert any(getattr(handler, "is_fast", False) for name, handler in handlers.items() if "read_post" in name)


SCRIPT: Final = """async ([address, method, path, options]) => {
    const response = await fetch(address + path, {method, ...options});
    const names = ["x-request-id", "location", "link", "www-authenticate", "etag"];
    const headers = Object.fromEntries(names.map(name => [name, response.headers.get(name)]));
    return {status: response.status, headers, body: await response.json().catch(() => null)};
}"""


async def start_site() -> tuple[asyncio.Server, str]:
    """An empty page on an origin of its own."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def fetch(page: "Page", address: str, method: str, path: str, **options: Any) -> Any:
    return await page.evaluate(SCRIPT, [address, method, path, options])


async def test_a_page_of_another_origin_uses_the_service(
    browser_page: "Page", serve: Serve, settings: Settings
) -> None:
    site, origin = await start_site()
    other_site, other_origin = await start_site()
    address = await served(serve, settings, origin)
    page = browser_page
    await page.goto(origin)
    json = {"Content-Type": "application/json"}

    body = msgspec.json.encode({"username": "alice", "email": "alice@example.com", "password": "correct horse"})
    registered = await fetch(page, address, "POST", "/auth/register", headers=json, body=body.decode())
    assert (registered["status"], registered["headers"]["location"]) == (201, f"../users/{registered['body']['id']}")
    assert registered["headers"]["x-request-id"]

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    login = await fetch(
        page, address, "POST", "/auth/token", headers=form, body="username=alice&password=correct+horse",
        credentials="include",
    )  # fmt: skip
    bearer = {"Authorization": f"Bearer {login['body']['access_token']}"}

    for title in ("One", "Two"):
        post = {"title": title, "content": "Hello."}
        headers = json | bearer | {"Idempotency-Key": title}
        created = await fetch(page, address, "POST", "/posts", headers=headers, body=msgspec.json.encode(post).decode())
        assert created["status"] == 201
    listed = await fetch(page, address, "GET", "/posts?limit=1")
    assert 'rel="next"' in listed["headers"]["link"]
    changed = await fetch(page, address, "PATCH", "/posts/1", headers=json | bearer, body='{"title": "Changed"}')
    assert (changed["status"], changed["body"]["title"]) == (200, "Changed")
    deleted = await fetch(page, address, "DELETE", "/posts/1", headers=bearer)
    assert deleted["status"] == 204

    refused = await fetch(page, address, "GET", "/users/me", headers={"Authorization": "Bearer x"})
    assert (refused["status"], refused["body"]["code"]) == (401, "invalid_token")
    assert refused["headers"]["www-authenticate"].startswith("Bearer")
    missing = await fetch(page, address, "PATCH", "/nothing", headers=json | bearer, body="{}")
    assert (missing["status"], missing["body"]["request_id"]) == (404, missing["headers"]["x-request-id"])

    await page.goto(other_origin)
    for method, path in (("GET", "/posts"), ("DELETE", "/posts/2")):
        with pytest.raises(Exception, match="Failed to fetch"):
            await fetch(page, address, method, path, headers=bearer)
    async with open_client(address) as client:
        assert (await client.get("/posts/2")).status_code == 200
    site.close()
    other_site.close()
