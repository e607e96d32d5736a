"""How the server sends the responses of any ASGI app."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from service.server.connection import Connection
from service.server.state import Connections, Limits, State
from tests.raw_http import CLOSING_GET, exchange, get

App = Callable[[Any, Any, Any], Awaitable[None]]


@asynccontextmanager
async def serving(app: App, shared: Connections | None = None) -> AsyncIterator[str]:
    shared = shared or Connections(Limits(keep_alive_seconds=75, client_timeout_seconds=20))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(app, shared, {}), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def responding(*bodies: bytes, headers: list[tuple[bytes, bytes]] | None = None, status: int = 200) -> App:
    """An app that sends these parts of a body."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    return app


async def send_request(app: App, request: bytes) -> bytes:
    """Send a request, and return everything that arrives until the connection is closed."""
    async with serving(app) as address:
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
        writer.write(request)
        response = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    return response


async def test_a_body_in_parts_is_chunked() -> None:
    response = await send_request(responding(b"one", b"", b"three"), CLOSING_GET)

    head, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\ntransfer-encoding: chunked" in head
    assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_the_end_of_the_connection_ends_a_body_in_parts_for_an_older_client() -> None:
    response = await send_request(responding(b"one", b"three"), b"GET / HTTP/1.0\r\n\r\n")

    head, _, body = response.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"\r\nconnection: close" in head
    assert body == b"onethree"


async def test_a_body_in_parts_may_have_a_length() -> None:
    response = await send_request(responding(b"one", b"three", headers=[(b"content-length", b"8")]), CLOSING_GET)

    assert b"transfer-encoding" not in response
    assert response.endswith(b"\r\n\r\nonethree")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_content_has_no_body(status: int) -> None:
    async with serving(responding(b"body", status=status)) as address:
        first, second = await exchange(address, get() + CLOSING_GET)

    assert (first.status, first.body, second.status) == (status, b"", status)
    assert "content-length" not in first.headers
    assert "transfer-encoding" not in first.headers


async def test_a_response_to_head_has_no_body() -> None:
    response = await send_request(
        responding(b"body", headers=[(b"content-length", b"4")]), CLOSING_GET.replace(b"GET", b"HEAD")
    )

    assert b"\r\ncontent-length: 4\r\n" in response
    assert response.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("body", [b"body", b""])
async def test_a_response_to_head_has_the_length_of_the_body_that_is_not_sent(body: bytes) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    head = await send_request(app, CLOSING_GET.replace(b"GET", b"HEAD"))

    # An app may omit the body, so an empty one has no length.
    assert re.findall(rb"content-length: (\d+)", head) == ([b"4"] if body else [])
    assert b"transfer-encoding" not in head
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("length", [b"2", b"9"], ids=["too short", "too long"])
async def test_a_body_of_another_length_than_announced_is_cut_off_and_logged(
    length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    response = await send_request(responding(b"one", headers=[(b"content-length", length)]), CLOSING_GET)

    assert not response.endswith(b"\r\n\r\none") or length == b"9"
    assert "the body is not as long as its Content-Length" in caplog.text


async def test_a_control_character_in_a_field_causes_a_500(caplog: pytest.LogCaptureFixture) -> None:
    response = await send_request(responding(headers=[(b"x", b"a\r\nset-cookie: b")]), CLOSING_GET)

    assert response.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in response
    assert "control character" in caplog.text


async def test_an_app_that_fails_or_sends_no_response_causes_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ZeroDivisionError

    async def silent(_scope: Any, _receive: Any, _send: Any) -> None:
        pass

    for app in (failing, silent):
        assert (await send_request(app, CLOSING_GET)).startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in caplog.text
    assert "returned without a response" in caplog.text


async def test_an_app_that_waits_for_the_client_gets_http_disconnect_after_its_response() -> None:
    messages: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})
        messages.append(await waiting)

    await send_request(app, CLOSING_GET)

    assert [message["type"] for message in messages] == ["http.request", "http.disconnect"]


async def test_a_connection_that_is_aborted_before_its_response_is_written_stays_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered: list[State] = []
    enter = Connection._enter  # noqa: SLF001 - the one function that changes the state

    def record(connection: Connection, state: State) -> None:
        entered.append(state)
        enter(connection, state)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await responding()(scope, receive, send)
        [connection] = shared.connections
        entered.clear()
        connection.abort()

    monkeypatch.setattr(Connection, "_enter", record)
    shared = Connections(Limits(keep_alive_seconds=75, client_timeout_seconds=20))
    async with serving(app, shared) as address:
        assert await exchange(address, CLOSING_GET) == []

    assert set(entered) == {State.CLOSED}


async def test_requests_of_one_connection_share_no_context_variable() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(variable.get())
        variable.set("of the request before")
        await responding(b"x")(scope, receive, send)

    await send_request(app, get() + get() + CLOSING_GET)

    assert seen == ["", "", ""]
