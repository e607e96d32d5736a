"""uvicorn as this service runs it."""

import asyncio
import gc
import logging
import socket
import time
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import uvicorn
from litestar import Litestar

from service.app import create_app
from service.protocol import Protocol, State
from service.settings import Settings

logger = logging.getLogger(__name__)

LOGGING: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}


# How many objects more than were freed have to be made before the youngest are looked through: nearly all
# that a request makes is freed by its reference counts alone.
GC_THRESHOLD: Final = 50_000

_BACKLOG: Final = 2048  # connections that may wait to be accepted
_RESPITE: Final = 1  # seconds until another try when no more connections can be opened
_CLOSE: Final = (b"connection", b"close")
_LIMIT: Final = 5  # seconds for what still runs at the end
_LAST_WORDS: Final = 0.1  # seconds for connections that were just made, and requests on them


# What holds however the server is started, by the tests as well.
OPTIONS: Final[dict[str, Any]] = {
    "http": Protocol,
    "ws": "none",
    "lifespan": "on",
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": _LIMIT,
    # The client's address is the peer's; nobody may claim another by a header.
    "proxy_headers": False,
}


class Server(uvicorn.Server):
    """uvicorn's server that drains before it stops, and looks after its clients."""

    server_state: State
    at_a_time = 64  # connections that are accepted, so that those who are connected have their turn

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = State()
        self.app: Litestar = config.app  # type: ignore[assignment]
        self.settings: Settings = self.app.state.settings
        self.server_state.room = self.settings.max_requests
        self.stop_at = 0.0
        self._opening: dict[Protocol, asyncio.Task[Any]] = {}  # connections that are taken over

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; the second ends that."""
        self.stop_at = 0 if self.should_exit else time.monotonic() + self.settings.drain_seconds
        self.app.state.stopping = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            now, timeout = self.loop.time(), self.settings.client_timeout_seconds
            held_up = sum([client.look_after(now, timeout) for client in self._clients()])
            self.server_state.room = self.settings.max_requests + held_up
        told = await super().on_tick(counter)
        if told:
            self._ask_to_leave()
        return told and time.monotonic() >= self.stop_at

    def _clients(self) -> list[Protocol]:
        return list(self.server_state.connections)  # type: ignore[arg-type]

    def _ask_to_leave(self) -> None:
        """Every answer from now on is the last on its connection."""
        state = self.server_state
        if _CLOSE not in state.default_headers:
            state.default_headers = [*state.default_headers, _CLOSE]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        [self.listener] = sockets or []
        await super().startup([])
        self.loop.add_reader(self.listener, self.somebody_waits)
        host, port, *_ = self.listener.getsockname()
        logger.info("Uvicorn running on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def somebody_waits(self) -> None:
        self.accept_waiting()

    def accept_waiting(self) -> None:
        """Take over the connections that wait.

        The event loop's own server takes one a turn. With a thousand requests under way a turn takes a twentieth of a
        second, and who connects then would wait for seconds.
        """
        try:
            for _ in range(self.at_a_time):
                if not self.accept():
                    break
        except OSError as error:
            logger.warning("cannot accept a connection: %s", error)
            self.pause_accepting(_RESPITE)

    def pause_accepting(self, seconds: float) -> None:
        self.loop.remove_reader(self.listener)
        self.loop.call_later(seconds, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if self.listener.fileno() != -1:
            self.loop.add_reader(self.listener, self.somebody_waits)
            self.accept_waiting()

    def accept(self) -> bool:
        """Take over one connection that waits, if any does. Raises ``OSError``, as when too many are open."""
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # nobody, or who has gone already
            return False
        protocol = Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        opening = self.loop.create_task(self.loop.connect_accepted_socket(lambda: protocol, connection))
        self._opening[protocol] = opening
        opening.add_done_callback(lambda _: self._opening.pop(protocol))
        return True

    def count_connections(self) -> int:
        connections = self.server_state.connections
        return len(connections) + len(self._opening.keys() - connections)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve those who are already connected before the connections are closed."""
        self._ask_to_leave()
        self.loop.remove_reader(self.listener)
        with suppress(OSError):
            while self.accept():
                pass
        self.listener.close()
        await asyncio.sleep(_LAST_WORDS)
        self.loop.call_later(_LIMIT - 0.5, self._give_up)
        await super().shutdown(sockets)

    def _give_up(self) -> None:
        for client in self._clients():
            client.give_up()


def listen(settings: Settings) -> socket.socket:
    """Listen on the address of the settings; ends the process with a line where that cannot be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also when the last one has just ended
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for its connections
    listener.settimeout(0)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise SystemExit(f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}") from error
    return listener


def configuration(settings: Settings) -> uvicorn.Config:
    """Build the app in the process that serves it, and keep the garbage collector off what lives as long as that."""
    config = uvicorn.Config(create_app(settings), loop="uvloop", log_config=LOGGING, **OPTIONS)
    config.load()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    return config
