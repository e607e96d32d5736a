"""The client and the scheme that a proxy reports. Only those of TRUSTED_PROXIES are believed."""

from typing import Any

import httpx
import litestar
import msgspec
import pytest

from service.app import create_app
from service.http.forwarded import parse_proxies
from service.settings import Settings
from tests.conftest import Serve
from tests.people import assert_problem
from tests.raw_http import exchange
from tests.serving import Share, SharedApp, open_client

HSTS = "strict-transport-security"


@litestar.get("/client", public=True, sync_to_thread=False)
def read_client(request: litestar.Request[Any, Any, Any]) -> dict[str, str | None]:
    return {"client": request.client.host if request.client else None, "scheme": request.url.scheme}


@pytest.fixture(scope="session")
async def running_app(share: Share) -> SharedApp:
    return await share(read_client, trusted_proxies=parse_proxies("127.0.0.1, 10.0.0.0/8"))


async def served(serve: Serve, settings: Settings, trusted: str) -> str:
    app = create_app(msgspec.structs.replace(settings, trusted_proxies=parse_proxies(trusted)))
    app.register(read_client)
    return await serve(app)


async def client_of(address: str, *fields: tuple[str, str]) -> Any:
    async with open_client(address) as client:
        return (await client.get("/client", headers=[*fields])).json()["client"]


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8, ::1, 192.0.2.1"])
async def test_nobody_else_is_believed(serve: Serve, settings: Settings, trusted: str) -> None:
    async with open_client(await served(serve, settings, trusted)) as client:
        response = await client.get("/client", headers={"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"})

    assert response.json() == {"client": "127.0.0.1", "scheme": "http"}
    assert HSTS not in response.headers


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, 10.1.2.3, 10.9.9.9"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),  # the client has sent the first one itself
        (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        (["10.1.2.3, 10.1.2.4"], "10.1.2.3"),  # a request of a proxy itself
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["203.0.113.7 ,10.1.2.3:80"], "203.0.113.7"),
        (["2001:DB8:0::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, ::ffff:10.1.2.3"], "203.0.113.7"),
        (["203.0.113.7, [::ffff:10.1.2.3]:80"], "203.0.113.7"),
        ([], "127.0.0.1"),
        ([""], "127.0.0.1"),
        ([","], "127.0.0.1"),
        (["unknown"], "127.0.0.1"),
        (["203.0.113.7, unknown"], "127.0.0.1"),
        (["203.0.113.7, unknown, 10.1.2.3"], "10.1.2.3"),
        (["203.0.113.7,"], "127.0.0.1"),
        (["203.0.113.777"], "127.0.0.1"),
        (["010.0.0.1"], "127.0.0.1"),
        (["fe80::1%eth0"], "127.0.0.1"),
        (["[2001:db8::7"], "2001:db8::7"),
        (["localhost:80"], "127.0.0.1"),
        (["<script>, 203.0.113.7"], "203.0.113.7"),
    ],
)
async def test_the_client_is_the_last_address_that_is_no_trusted_proxy(
    address: str, forwarded: list[str], client: str
) -> None:
    assert await client_of(address, *(("X-Forwarded-For", value) for value in forwarded)) == client


@pytest.mark.parametrize(
    "forwarded",
    [
        [("X-Forwarded-For", "198.51.100.1")] * 900 + [("X-Forwarded-For", "203.0.113.7")],
        [("X-Forwarded-For", "198.51.100.1," * 4000 + "203.0.113.7")],
        [("X-Forwarded-For", "198.51.100.1, 203.0.113.7" + ", 10.1.2.3" * 30)],
    ],
    ids=["many fields", "a long list", "a chain of proxies"],
)
async def test_what_a_client_adds_on_the_left_does_not_matter(address: str, forwarded: list[tuple[str, str]]) -> None:
    assert await client_of(address, *forwarded) == "203.0.113.7"


async def test_only_the_end_of_a_list_of_trusted_proxies_is_read(address: str) -> None:
    assert await client_of(address, ("X-Forwarded-For", "203.0.113.7" + ", 10.1.2.3" * 5000)) == "10.1.2.3"


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [
        (["https"], "https"),
        (["HTTPS"], "https"),
        (["http"], "http"),
        (["https", "http"], "http"),  # the client has sent the first one itself
        (["https, http"], "http"),
        (["http, https"], "https"),
        (["httpss"], "http"),
        ([""], "http"),
        ([], "http"),
    ],
)
async def test_https_is_remembered_by_browsers(client: httpx.AsyncClient, proto: list[str], scheme: str) -> None:
    response = await client.get("/client", headers=[("X-Forwarded-Proto", value) for value in proto])

    assert response.json()["scheme"] == scheme
    assert response.headers.get(HSTS) == ("max-age=31536000" if scheme == "https" else None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/posts", 200), ("GET", "/nothing", 404), ("PUT", "/", 405), ("POST", "/posts", 401), ("HEAD", "/", 200)],
)
async def test_every_response_to_https_says_so(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path, headers={"X-Forwarded-Proto": "https"})

    assert response.status_code == status
    assert response.headers.get_list(HSTS) == ["max-age=31536000"]


async def test_a_body_that_does_not_arrive_is_an_error_with_the_field(serve: Serve, settings: Settings) -> None:
    address = await served(serve, msgspec.structs.replace(settings, client_timeout_seconds=0.5), "127.0.0.1")
    head = b"POST /auth/register HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\nContent-Length: 9\r\n"

    [answer] = await exchange(address, head + b"Content-Type: application/json\r\n\r\n{")

    assert (answer.status, answer.headers.get(HSTS)) == (408, "max-age=31536000")


async def test_an_overloaded_service_says_so_too(serve: Serve, settings: Settings) -> None:
    app = create_app(msgspec.structs.replace(settings, trusted_proxies=("127.0.0.1/32",), max_requests=0))
    async with open_client(await serve(app)) as client:
        response = await client.get("/posts", headers={"X-Forwarded-Proto": "https"})

    assert_problem(response, 503, "overloaded")
    assert HSTS in response.headers


async def test_an_ipv4_proxy_is_recognised_on_a_socket_for_ipv6(serve: Serve, settings: Settings) -> None:
    address = await served(serve, msgspec.structs.replace(settings, host="::"), "127.0.0.0/8")

    assert await client_of(address, ("X-Forwarded-For", "203.0.113.7")) == "203.0.113.7"
    assert await client_of(address) == "127.0.0.1"
