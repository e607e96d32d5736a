"""What the server makes of an app's responses: any app, on a connection by itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest

from service.server.connection import Connection
from service.server.state import Connections, Limits, State
from tests.raw_http import exchange, get

App = Callable[[Any, Any, Any], Awaitable[None]]


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    shared = Connections(Limits(keep_alive_seconds=75, client_timeout_seconds=20))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(app, shared, {}), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def responding(*bodies: bytes, headers: list[tuple[bytes, bytes]] | None = None, status: int = 200) -> App:
    """An app that sends a body in these parts."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    return app


async def ask(app: App, request: bytes) -> bytes:
    """The response to a request, with everything that comes until the connection is closed."""
    async with serving(app) as address:
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
        writer.write(request)
        response = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    return response


LAST = get(fields=b"Connection: close\r\n")


async def test_a_body_in_parts_is_chunked() -> None:
    response = await ask(responding(b"one", b"", b"three"), LAST)

    head, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\ntransfer-encoding: chunked" in head
    assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_the_end_of_the_connection_ends_a_body_in_parts_for_an_older_client() -> None:
    response = await ask(responding(b"one", b"three"), b"GET / HTTP/1.0\r\n\r\n")

    head, _, body = response.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"\r\nconnection: close" in head
    assert body == b"onethree"


async def test_a_body_in_parts_may_have_a_length() -> None:
    response = await ask(responding(b"one", b"three", headers=[(b"content-length", b"8")]), LAST)

    assert b"transfer-encoding" not in response
    assert response.endswith(b"\r\n\r\nonethree")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_content_has_no_body(status: int) -> None:
    async with serving(responding(b"body", status=status)) as address:
        first, second = await exchange(address, get() + LAST)

    assert (first.status, first.body, second.status) == (status, b"", status)
    assert "content-length" not in first.headers
    assert "transfer-encoding" not in first.headers


async def test_a_response_to_head_has_no_body() -> None:
    response = await ask(responding(b"body", headers=[(b"content-length", b"4")]), LAST.replace(b"GET", b"HEAD"))

    assert b"\r\ncontent-length: 4\r\n" in response
    assert response.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("body", [b"body", b""])
async def test_a_response_to_head_has_the_length_of_the_body_that_is_not_sent(body: bytes) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    head = await ask(app, LAST.replace(b"GET", b"HEAD"))

    # An app may leave out the body, so the length of an empty one says nothing.
    assert (b"\r\ncontent-length: 4\r\n" in head) == bool(body)
    assert b"transfer-encoding" not in head
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("length", [b"2", b"9"], ids=["too short", "too long"])
async def test_a_body_of_another_length_than_announced_is_cut_off_and_logged(
    length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    response = await ask(responding(b"one", headers=[(b"content-length", length)]), LAST)

    assert not response.endswith(b"\r\n\r\none") or length == b"9"
    assert "the body is not as long as its Content-Length" in caplog.text


async def test_a_control_character_in_a_field_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    response = await ask(responding(headers=[(b"x", b"a\r\nset-cookie: b")]), LAST)

    assert response.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in response
    assert "control character" in caplog.text


async def test_an_app_that_fails_or_says_nothing_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ZeroDivisionError

    async def silent(_scope: Any, _receive: Any, _send: Any) -> None:
        pass

    for app in (failing, silent):
        assert (await ask(app, LAST)).startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in caplog.text
    assert "returned without a response" in caplog.text


async def test_who_listens_for_the_client_hears_of_the_end_of_the_response() -> None:
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())
        listening = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})
        heard.append(await listening)

    await ask(app, LAST)

    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


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
    server = await asyncio.get_running_loop().create_server(lambda: Connection(app, shared, {}), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(LAST)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()

    assert set(entered) == {State.CLOSED}


async def test_requests_of_one_connection_share_no_context_variable() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(variable.get())
        variable.set("of the request before")
        await responding(b"x")(scope, receive, send)

    await ask(app, get() + get() + LAST)

    assert seen == ["", "", ""]
