"""What is recorded about a request whose response does not come from its handler."""

import asyncio
import errno
import io
import sys
from typing import Any

import msgspec
import pytest

from service.observability import recording
from service.observability.access_log import AccessLog
from service.observability.families import FAMILIES, REQUESTS
from service.observability.metrics import Metrics
from service.observability.observing import Observers
from service.observability.recording import Recording
from service.server.connection import Connection
from service.server.exchange import CLIENT_GONE
from service.server.state import Connections, Limits
from tests.conftest import settings_of
from tests.exchanges import ended
from tests.raw_http import Client, get
from tests.records import Record, accesses, parse


class Hanging:
    """An app that does not respond, on a server whose requests are recorded."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.shared = Connections(Limits(keep_alive_seconds=75, client_timeout_seconds=20))
        self.metrics = Metrics({})
        self.written = io.BytesIO()
        self.log = AccessLog("json", self.written, shared=False)
        self.shared.record = self.record = Recording(self.metrics, self.log)

    async def __call__(self, _scope: Any, _receive: Any, _send: Any) -> None:
        self.arrived.set()
        await asyncio.Event().wait()

    def recorded(self) -> list[Record]:
        """The lines of the access log. The metrics have as many requests."""
        self.log.flush()
        records = parse(self.written.getvalue().decode())
        [requests] = self.metrics.histograms
        assert sum(sum(numbers[:-1]) for numbers in requests.numbers.values()) == len(records)
        return records

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
    assert accesses(app.recorded()) == [("GET", None, 503, None)]


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

    records = app.recorded()
    assert accesses(records) == [("GET", None, CLIENT_GONE, None)]
    assert records[0]["client"] == "127.0.0.1"
    assert len(records[0]["request_id"]) == 21


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

    assert accesses(app.recorded()) == [("GET", None, 200, None)]


async def test_more_kinds_and_durations_than_are_remembered_are_all_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_MAX_REMEMBERED", 3)
    app = Hanging()
    users = [1, 2, None, 3, 4, 1, 0, 5, 2, None]

    for number, user_id in enumerate(users):
        app.record([ended(client=None, user_id=user_id, seconds=number / 10)])

    records = app.recorded()
    assert [record["user_id"] for record in records] == users
    assert all(100 * number <= record["duration_ms"] < 100 * number + 90 for number, record in enumerate(records))
    bounds = FAMILIES[REQUESTS].buckets
    [numbers] = app.metrics.histograms[0].numbers.values()
    assert numbers[-1] == pytest.approx(4.5, abs=0.1)
    assert sum(numbers[: bounds.index(0.5) + 1]) == 5


def test_all_durations_of_a_step_are_in_one_bucket() -> None:
    assert all((bound * recording._STEPS).is_integer() for bound in FAMILIES[REQUESTS].buckets)  # noqa: SLF001
