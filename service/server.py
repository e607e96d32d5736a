"""uvicorn as this service runs it."""

import asyncio
import gc
from http import HTTPStatus
from typing import Any, Final

import msgspec
import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import create_app
from service.problems import MEDIA_TYPE, describe_status
from service.settings import Settings

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


class GatheredWrites:
    """A transport that hands over in one system call what is written to it in one turn of the event loop.

    uvicorn writes the head and the body of a response by themselves.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self.is_closing = transport.is_closing  # asked for with every response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written:
            written, self._written = self._written, []
            self._transport.write(b"".join(written))


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol on such a transport, and with our body where a request is no HTTP at all."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(GatheredWrites(transport, self.loop))  # type: ignore[arg-type]

    def send_400_response(self, msg: str) -> None:
        body = msgspec.json.encode(describe_status(HTTPStatus.BAD_REQUEST, msg))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()


# What holds however the server is started, by the tests as well.
OPTIONS: Final[dict[str, Any]] = {
    "http": Protocol,
    "ws": "none",
    "lifespan": "on",
    "access_log": False,
    "server_header": False,
    # Seconds for what runs when the process is told to stop; a client who never sends the rest of a body gets no more.
    "timeout_graceful_shutdown": 5,
    # The client's address is the peer's; nobody may claim another by a header.
    "proxy_headers": False,
}


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Every worker builds the app from the same environment."""
    uvicorn.run(
        "service.server:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        log_config=LOGGING,
        **OPTIONS,
    )


def application() -> Litestar:
    """Build the app in the process that serves it, and keep the garbage collector off what lives as long as that."""
    app = create_app()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    return app
