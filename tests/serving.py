"""Apps that are served as in production, and the client for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, Self

import asyncpg
import httpx
import msgspec
from litestar import Litestar

from service.database import batching
from service.server import server


class Share(Protocol):
    async def __call__(self, *handlers: Any, **settings: Any) -> "SharedApp": ...


SELECT_TABLES = (
    "select quote_ident(relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
)
RESTART_SEQUENCES = (
    "select setval(oid, 1, false) from pg_class where relkind = 'S' and relnamespace = 'public'::regnamespace"
)


def open_client(address: str) -> httpx.AsyncClient:
    """A client for plain HTTP. It loads no certificates: that takes longer than most tests."""
    return httpx.AsyncClient(base_url=address, verify=False, timeout=30)  # noqa: S501 - plain HTTP


@asynccontextmanager
async def serving(app: Litestar) -> AsyncIterator[server.Server]:
    """Serve an app on a free port."""
    config = server.Config(app.state.settings, app, log_config=None)
    config.load()
    started = server.Server(config)
    started.lifespan = config.lifespan_class(config)
    listener = server.listen(msgspec.structs.replace(started.settings, port=0))
    await started.startup(sockets=[listener])
    yield started
    # Like Server.shutdown, but without waiting for clients: they are disconnected by now.
    started.loop.remove_reader(started.listener)
    started.listener.close()
    started.deadlines.cancel()
    await started.lifespan.shutdown()


def address_of(running: server.Server) -> str:
    return f"http://127.0.0.1:{running.listener.getsockname()[1]}"


class SharedApp:
    """An app that one test after the other uses. Building an app and its database takes longer than most tests."""

    def __init__(self, app: Litestar, running: server.Server, connection: asyncpg.Connection, clean: str) -> None:
        self.app = app
        self.address = address_of(running)
        self.database_url: str = app.state.settings.database_url
        self.connection = connection
        self._server = running
        self._clean = clean

    @asynccontextmanager
    async def for_a_test(self) -> AsyncIterator[Self]:
        """Begin with an empty database; at the end, leave no request, no connection and no transaction behind."""
        await self.connection.execute(self._clean)
        yield self
        await self._disconnect()
        await self.connection.reset()

    async def _disconnect(self) -> None:
        async with asyncio.timeout(20):
            while self._is_busy():
                for connection in list(self._server.server_state.connections):
                    connection.abort()
                await asyncio.sleep(0)

    def _is_busy(self) -> bool:
        state = self._server.server_state
        writes = batching._background_tasks  # noqa: SLF001 - also those of requests that were cancelled
        return bool(state.connections or state.tasks or self._server.opening or writes)


@asynccontextmanager
async def sharing(app: Litestar) -> AsyncIterator[SharedApp]:
    connection = await asyncpg.connect(app.state.settings.database_url)
    # Tables in which the schema has inserted rows stay as they are.
    empty = [
        name
        for (name,) in await connection.fetch(SELECT_TABLES)
        if not await connection.fetchval(f"select exists (select from {name})")  # noqa: S608 - a quoted name
    ]
    async with serving(app) as running:
        # For the few rows of a test, this is ten times as fast as `truncate`.
        deletions = [f"delete from {name}" for name in empty]  # noqa: S608 - a quoted name
        yield SharedApp(app, running, connection, "; ".join([*deletions, RESTART_SEQUENCES]))
    await connection.close()
