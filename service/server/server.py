"""uvicorn's server, with deadlines for its clients and a drain before it stops."""

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

from service.app import create_app
from service.http.headers import Field
from service.observability.observing import Observers
from service.observability.snapshots import Snapshots
from service.server.connection import Connection
from service.server.shedding import LoadShedding
from service.server.state import TICK_SECONDS, Connections, Limits
from service.settings import Settings

logger = logging.getLogger(__name__)

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Nearly every object that a request makes is freed by its reference count, so the collector runs rarely.
GC_THRESHOLD: Final = 50_000

MAX_UNSENT_BYTES: Final = 128 * 1024  # in the kernel; what a client has to read within CLIENT_TIMEOUT_SECONDS
BACKLOG: Final = 2048  # connections that may wait to be accepted
REQUESTS_PER_ACCEPT: Final = 16  # requests in flight for which one more connection is accepted in a turn of the loop
ACCEPT_RETRY_SECONDS: Final = 1  # after a failure, such as too many open files
ACCEPT_GRACE: Final = 0.1  # seconds for the requests of connections that were accepted last
IN_FLIGHT_SECONDS: Final = 5  # for the requests that run when the drain ends
SHUTDOWN_SECONDS: Final = 7  # until connections are closed in whatever state they are
LINGER_SECONDS_AT_SHUTDOWN: Final = 1


class Config(uvicorn.Config):
    """uvicorn's configuration for an app and its settings."""

    def __init__(self, settings: Settings, app: Any = None, log_config: dict[str, Any] | None = None) -> None:
        """``app`` replaces the one that each process builds from the settings."""
        self.settings = settings
        self.snapshots = Snapshots(settings.workers) if settings.metrics_port else None
        super().__init__(
            partial(LoadShedding, app, settings.max_requests) if app else partial(build, settings),
            factory=True,
            loop="uvloop",
            http=Connection,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=log_config,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody may claim another address than the peer's
            workers=settings.workers,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )


def build(settings: Settings) -> LoadShedding:
    return LoadShedding(create_app(settings), settings.max_requests)


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
        self.observers = Observers(self.settings, config.snapshots, slot)
        self.server_state.run = self.observers.run
        self._drain_until = 0.0
        self.opening: set[asyncio.Task[Any]] = set()  # accepted connections that are not made yet

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal. uvicorn raises it again at the end; here the process ends in any case, without a word."""
        for number in STOP_SIGNALS:
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signal calls it
        """Begin to drain; a second signal ends the drain."""
        self._drain_until = 0 if self.should_exit else time.monotonic() + self.settings.drain_seconds
        self.should_exit = True

    async def main_loop(self) -> None:
        # What exists by now lives as long as the process: the collector need not look at it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        await super().main_loop()

    async def on_tick(self, counter: int) -> bool:
        stop = await super().on_tick(counter)
        self.observers.on_tick(counter)
        self.server_state.default_headers = [Field(*field) for field in self.server_state.default_headers]
        if stop and not self.server_state.closing:
            logger.info("Draining for %d s", self.settings.drain_seconds)
            self.server_state.closing = True
            self.lifespan.state["stopping"] = True  # for the app, in the state of every request
        return stop and time.monotonic() >= self._drain_until

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        [self.listener] = sockets or []
        self.observers.attach(self.config.loaded_app)
        self.listener.settimeout(0)  # a worker gets the listener without it
        await super().startup([])
        self.deadlines = self.loop.create_task(self._check_deadlines())
        self.loop.add_reader(self.listener, self.on_readable)
        host, port, *_ = self.listener.getsockname()
        logger.info("Uvicorn running on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def on_readable(self) -> None:
        """A connection waits to be accepted."""
        self.accept()

    def accept(self) -> bool:
        """Accept connections that wait; returns whether there may be more.

        The event loop's own server accepts one a turn. With a thousand requests in flight a turn takes 50 ms, and new
        clients would wait for seconds. With few, one a turn leaves the next one to another worker.
        """
        try:
            for _ in range(1 + len(self.server_state.tasks) // REQUESTS_PER_ACCEPT):
                connection, _ = self.listener.accept()
                self._open(connection)
        except (BlockingIOError, ConnectionAbortedError):
            return False  # none is left, or the client has gone
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
                # Two turns of the loop, in which it reads what has arrived already.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            for connection in overdue:
                try:
                    connection.check_deadline()
                except Exception:
                    logger.exception("a connection is aborted, its deadline could not be checked")
                    connection.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's name
        """Serve those who have connected, then close every connection."""
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
        tasks = list(self.server_state.tasks)  # also of clients that have gone
        for connection in list(self.server_state.connections):
            connection.abort_in_flight()
        for task in tasks:
            task.cancel()
            # uvicorn need not wait for it: a statement is only cancelled when its database responds.
            self.server_state.tasks.discard(task)


def listen(settings: Settings) -> socket.socket:
    """Listen on the address of the settings; ends the process with a line where that cannot be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also when the last one has just ended
    # For its connections: without it, megabytes in the kernel would hide whether a slow client reads at all.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
    listener.settimeout(0)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise SystemExit(f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}") from error
    return listener
