"""What is recorded about a request whose response does not come from its handler."""

import asyncio
import errno
import io
import sys
from typing import Any

import msgspec
import pytest

from service.observability.observing import Observers, Recording
from service.observability.seen import Seen
from service.server.connection import Connection
from service.server.exchange import CLIENT_GONE
from service.server.state import Connections, Limits
from tests.conftest import settings_of
from tests.raw_http import Client, get


class Hanging:
    """An app that does not respond, on a server whose requests are recorded."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.arrived = asyncio.Event()
        self.shared = Connections(Limits(keep_alive_seconds=75, client_timeout_seconds=20))
        self.shared.record = Recording([self.seen.extend])

    async def __call__(self, _scope: Any, _receive: Any, _send: Any) -> None:
        self.arrived.set()
        await asyncio.Event().wait()

    async def serve(self) -> tuple[asyncio.Server, str]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self, self.shared, {}), "127.0.0.1", 0)
        return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Abort the requests in flight as the server does when it stops."""
        tasks = list(self.shared.tasks)
        for connection in list(self.shared.connections):
            connection.abort_in_flight()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_request_that_is_cut_off_by_a_stop_is_recorded_once() -> None:
    app = Hanging()
    server, address = await app.serve()
    async with server:
        with Client(address) as client:
            await client.send(get(b"/posts"))
            await app.arrived.wait()
            await app.stop()
            answer = await client.read_response()

    assert answer.status == 503
    assert [(method, status) for (method, _, status), *_ in app.seen] == [("GET", 503)]


class Full(io.RawIOBase):
    """A file on a full disk."""

    def writable(self) -> bool:
        return True

    def write(self, _: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_log_that_cannot_be_written_does_not_stop_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(Full()))  # type: ignore[type-var]
    observers = Observers(msgspec.structs.replace(settings_of(), access_log="on"), None, 0)
    app = Hanging()
    app.shared.record = observers.record
    server, address = await app.serve()
    async with server:
        with Client(address) as client:
            await client.send(get(b"/posts"))
            await app.arrived.wait()
            await app.stop()
            assert (await client.read_response()).status == 503

    observers.on_tick(0)  # uvicorn's main loop, which an error would end

    with pytest.raises(OSError, match="No space left"):
        observers.close()


async def test_a_request_of_a_client_that_has_gone_is_recorded() -> None:
    app = Hanging()
    server, address = await app.serve()
    async with server:
        with Client(address) as client:
            await client.send(get(b"/posts"))
            await app.arrived.wait()
            client.reset()
            while app.shared.connections:
                await asyncio.sleep(0)
        await app.stop()

    [((method, route, status), seconds, client_address, user_id, request_id)] = app.seen
    assert (method, route, status, client_address, user_id) == ("GET", "", CLIENT_GONE, "127.0.0.1", None)
    assert seconds > 0
    assert len(request_id) == 21


async def test_a_request_whose_handler_fails_after_its_response_is_recorded_once() -> None:
    app = Hanging()

    async def respond_and_fail(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        await asyncio.sleep(0.01)
        raise RuntimeError("after the response")

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(respond_and_fail, app.shared, {}), "127.0.0.1", 0)
    async with server:
        with Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            await client.send(get(b"/posts"))
            assert (await client.read_response()).status == 200
            while app.shared.tasks:
                await asyncio.sleep(0)

    [((method, _, status), *_)] = app.seen
    assert (method, status) == ("GET", 200)
