"""uvicorn's server, with deadlines for its clients and a drain at the stop."""

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Final

import uvicorn
from litestar.types import ASGIApp

from service.app import create_app
from service.http.headers import Field
from service.observability.observing import Observers
from service.observability.snapshots import Snapshots
from service.server.connection import Connection
from service.server.edge import fields_for, wrap
from service.server.state import TICK_SECONDS, Connections, Limits
from service.settings import Settings

logger = logging.getLogger(__name__)

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Nearly every object that a request makes is freed by its reference count, so the collector runs rarely.
GC_THRESHOLD: Final = 50_000

MAX_UNSENT_BYTES: Final = 128 * 1024  # in the kernel; a client has to read as much within CLIENT_TIMEOUT_SECONDS
BACKLOG: Final = 2048  # connections that may wait to be accepted
REQUESTS_PER_ACCEPT: Final = 16  # requests in flight per additional connection accepted in a turn of the event loop
ACCEPT_RETRY_SECONDS: Final = 1  # after a failure, such as too many open files
ACCEPT_GRACE: Final = 0.1  # seconds for the first request of the connections that were accepted last
IN_FLIGHT_SECONDS: Final = 5  # for the requests in flight at the end of the drain
SHUTDOWN_SECONDS: Final = 7  # until connections are closed in any state
LINGER_SECONDS_AT_SHUTDOWN: Final = 1


class Config(uvicorn.Config):
    """uvicorn's configuration for an app and its settings."""

    def __init__(self, settings: Settings, app: Any = None, log_config: dict[str, Any] | None = None) -> None:
        """``app`` replaces the one that each process builds from the settings."""
        self.settings = settings
        self.snapshots = Snapshots(settings.workers) if settings.metrics_port else None
        super().__init__(
            partial(wrap, app, settings) if app else partial(build, settings),
            factory=True,
            loop="uvloop",
            http=Connection,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=log_config,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # see edge.py
            workers=settings.workers,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )


def build(settings: Settings) -> ASGIApp:
    return wrap(create_app(settings), settings)


class Server(uvicorn.Server):
    """Accepts connections, checks their deadlines, and drains before it stops."""

    config: Config
    server_state: Connections

    def __init__(self, config: Config, slot: int = 0) -> None:
        """``slot`` is the number of the worker."""
        super().__init__(config)
        self.settings = config.settings
        self.limits = Limits(
            keep_alive_seconds=self.settings.keep_alive_seconds,
            client_timeout_seconds=self.settings.client_timeout_seconds,
        )
        self.server_state = Connections(self.limits)
        self.server_state.fields_for = fields_for(self.settings)
        self.observers = Observers(self.settings, config.snapshots, slot)
        self.server_state.run, self.server_state.record = self.observers.run, self.observers.record
        self._drain_until = 0.0
        self.opening: set[asyncio.Task[Any]] = set()  # accepted connections before connection_made

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve in this process. Signals are captured first: what a handler raises in the event loop could be lost."""
        with self.capture_signals():
            super().run(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal. uvicorn would raise it again at the end, and the exit code would not be 0."""
        for number in STOP_SIGNALS:
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signal calls it
        """Start the drain; a second signal ends it."""
        self._drain_until = 0 if self.should_exit else time.monotonic() + self.settings.drain_seconds
        self.should_exit = True

    async def main_loop(self) -> None:
        # The objects that exist now live as long as the process, so the collector can skip them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        await super().main_loop()

    async def on_tick(self, counter: int) -> bool:
        stop = await super().on_tick(counter)
        self.observers.on_tick(counter)
        self.server_state.default_headers = [Field(*field) for field in self.server_state.default_headers]
        if stop and not self.server_state.closing:
            if self.settings.drain_seconds:
                logger.info("Draining for %g s", self.settings.drain_seconds)
            self.server_state.closing = True
            self.lifespan.state["stopping"] = True  # for the app, in the state of every request
        return stop and time.monotonic() >= self._drain_until

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        [self.listener] = sockets or []
        self.observers.attach(self.config.loaded_app)
        self.listener.settimeout(0)  # the listener of a worker has lost this setting
        await super().startup([])
        self.deadlines = self.loop.create_task(self._check_deadlines())
        self.loop.add_reader(self.listener, self.on_readable)
        host, port, *_ = self.listener.getsockname()
        logger.info("Uvicorn running on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def on_readable(self) -> None:
        """At least one connection is in the backlog."""
        self.accept()

    def accept(self) -> bool:
        """Accept connections from the backlog; returns whether it may hold more.

        The event loop's own server accepts one connection per turn. With a thousand requests in flight a turn takes
        50 ms, and new clients would wait for seconds. With few requests, another worker can accept the next one.
        """
        try:
            for _ in range(1 + len(self.server_state.tasks) // REQUESTS_PER_ACCEPT):
                connection, _ = self.listener.accept()
                self._open(connection)
        except (BlockingIOError, ConnectionAbortedError):
            return False  # the backlog is empty, or the client has disconnected
        except OSError as error:
            logger.warning("cannot accept a connection: %s", error)
            self.pause_accepting(ACCEPT_RETRY_SECONDS)
            return False
        return True

    def pause_accepting(self, seconds: float) -> None:
        self.loop.remove_reader(self.listener)
        self.loop.call_later(seconds, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if self.listener.fileno() != -1:
            self.loop.add_reader(self.listener, self.on_readable)
            self.accept()

    def _open(self, connection: socket.socket) -> None:
        protocol = partial(Connection, self.config.loaded_app, self.server_state, self.lifespan.state)
        task = self.loop.create_task(self.loop.connect_accepted_socket(protocol, connection))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def _check_deadlines(self) -> None:
        state = self.server_state
        while True:
            await asyncio.sleep(TICK_SECONDS)
            state.ticks += 1
            overdue = [connection for connection in state.connections if connection.deadline <= state.ticks]
            if overdue:
                # In two turns the event loop reads the data that has arrived already.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            for connection in overdue:
                try:
                    connection.check_deadline()
                except Exception:
                    logger.exception("a connection is aborted because its deadline could not be checked")
                    connection.abort()
            connection = None  # type: ignore[assignment]  # otherwise the last one is not freed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's name
        """Serve the clients that have connected, then close every connection."""
        self.server_state.closing = True
        self.loop.remove_reader(self.listener)
        while self.accept():
            pass
        self.listener.close()
        await asyncio.sleep(ACCEPT_GRACE)
        self.limits.linger_seconds = LINGER_SECONDS_AT_SHUTDOWN
        self.server_state.limit(self.limits)
        self.loop.call_later(IN_FLIGHT_SECONDS, self._abort_in_flight)
        await super().shutdown([])
        self.observers.close()
        self.deadlines.cancel()
        with suppress(asyncio.CancelledError):
            await self.deadlines

    def _abort_in_flight(self) -> None:
        tasks = list(self.server_state.tasks)  # also of clients that have disconnected
        for connection in list(self.server_state.connections):
            connection.abort_in_flight()
        for task in tasks:
            task.cancel()
            # uvicorn must not wait for the task: a statement is cancelled only when the database responds.
            self.server_state.tasks.discard(task)


def listen(settings: Settings) -> socket.socket:
    """Listen on the address of the settings. Raises ``SystemExit`` with the reason if that fails."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also right after another process has used the port
    # Connections inherit it. With megabytes in the kernel, the progress of a slow client could not be seen.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
    listener.settimeout(0)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise SystemExit(f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}") from error
    return listener
