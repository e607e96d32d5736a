"""A template database built once from sql/, and for each test a clone of it with the real app before it."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import pytest
import uvicorn
from litestar import Litestar

from service import server
from service.app import create_app
from service.database import schema
from service.settings import Settings
from tests import browser, postgres, proxies
from tests.browser import browser_page  # noqa: F401 - a fixture
from tests.people import Person
from tests.processes import environment, start, visitor  # noqa: F401 - fixtures
from tests.proxies import haproxy, nginx, run_proxy  # noqa: F401 - fixtures

POSTGRES = pytest.StashKey[postgres.Postgres]()

# Programs that a machine may lack, by the fixtures that run them.
PROGRAMS = {
    "browser_page": browser.CHROMIUM,
    "curl": shutil.which("curl"),
    "haproxy": proxies.HAPROXY,
    "nginx": proxies.NGINX,
}

Serve = Callable[[Litestar], Awaitable[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-examples", default=10, help="how much schemathesis tries on each operation")
    parser.addoption("--fuzz-seed", default=1, help="what its random numbers begin with")


def pytest_configure(config: pytest.Config) -> None:
    if given := getattr(config, "workerinput", None):  # one of several processes, which share the server
        config.stash[POSTGRES] = postgres.Postgres(given["postgres"], given["postgres"])
    elif not config.option.collectonly:
        with ExitStack() as stack:
            config.stash[POSTGRES] = stack.enter_context(postgres.started())
            config.add_cleanup(stack.pop_all().close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["postgres"] = node.config.stash[POSTGRES].url


def pytest_report_header(config: pytest.Config) -> list[str]:
    described = config.stash.get(POSTGRES, None)
    absent = "not installed, its tests are left out"
    return [
        f"PostgreSQL: {described.description if described else 'not started'}",
        f"Chromium: {PROGRAMS['browser_page'] or absent}",
        *(f"{name}: {PROGRAMS[name] or absent}" for name in ("curl", "haproxy", "nginx")),
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = {fixture for fixture, program in PROGRAMS.items() if not program}
    left_out = [item for item in items if missing.intersection(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def named(url: str, database: str) -> str:
    """The same server, another database."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{database}{'?' * bool(parts.query)}{parts.query}"


class Databases:
    """Makes and drops databases on the server under test."""

    def __init__(self, url: str, admin: asyncpg.Pool) -> None:
        self.url = url
        self.admin = admin
        self.ready: dict[str, asyncio.Task[str]] = {}
        self.dropping: list[asyncio.Task[str]] = []
        self.templates: list[str] = []

    @asynccontextmanager
    async def one(self, template: str = "template0") -> AsyncIterator[str]:
        """A database of its own; yields its URL. The next of the kind is made, and it is dropped, on the side."""
        name = await (self.ready.pop(template, None) or self.create(template))
        self.ready[template] = asyncio.create_task(self.create(template))
        yield named(self.url, name)
        self.dropping.append(asyncio.create_task(self.drop(name)))

    async def create(self, template: str) -> str:
        name = f"test_{uuid.uuid4().hex}"
        await self.admin.execute(f'create database "{name}" template "{template}"')
        return name

    async def drop(self, name: str) -> str:
        await self.admin.execute(f'drop database "{name}" with (force)')
        return name

    async def close(self) -> None:
        self.dropping += [asyncio.create_task(self.drop(await ready)) for ready in self.ready.values()]
        await asyncio.gather(*self.dropping)
        for template in self.templates:
            await self.drop(template)


@pytest.fixture(scope="session")
async def databases(pytestconfig: pytest.Config) -> AsyncIterator[Databases]:
    url = pytestconfig.stash[POSTGRES].url
    async with asyncpg.create_pool(url, min_size=1, max_size=3) as admin:
        made = Databases(url, admin)
        yield made
        await made.close()


@pytest.fixture
async def empty_database(databases: Databases) -> AsyncIterator[str]:
    """The URL of a database without any schema."""
    async with databases.one() as url:
        yield url


@pytest.fixture(scope="session")
async def template(databases: Databases) -> str:
    name = await databases.create("template0")
    await schema.migrate(named(databases.url, name))
    databases.templates.append(name)
    return name


@pytest.fixture
async def database_url(databases: Databases, template: str) -> AsyncIterator[str]:
    async with databases.one(template) as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A look into the database past the service."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Argon2 at its cheapest."""
    return Settings(
        database_url=database_url,
        secret_key=b"k" * 32,
        password_memory_kib=8,
        password_passes=1,
    )


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves an app on a free port as production does, and returns its address."""
    running: list[server.Server] = []

    async def serve_one(app: Litestar) -> str:
        config = uvicorn.Config(app, log_config=None, **server.OPTIONS)
        config.load()
        started = server.Server(config)
        started.lifespan = config.lifespan_class(config)
        listener = server.listen(msgspec.structs.replace(started.settings, port=0))
        await started.startup(sockets=[listener])
        running.append(started)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve_one
    for started in running:
        # What uvicorn's own shutdown does, without its pause for clients: they are gone by now.
        started.loop.remove_reader(started.listener)
        started.listener.close()
        await started.lifespan.shutdown()


@pytest.fixture
async def address(serve: Serve, settings: Settings) -> str:
    return await serve(create_app(settings))


@pytest.fixture
async def client(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, verify=False, timeout=30) as opened:  # noqa: S501 - plain HTTP
        yield opened


@pytest.fixture
async def alice(client: httpx.AsyncClient) -> Person:
    return await Person.register(client, "alice")


@pytest.fixture
async def mallory(client: httpx.AsyncClient) -> Person:
    return await Person.register(client, "mallory")


@pytest.fixture
def curl() -> str:
    assert PROGRAMS["curl"]
    return PROGRAMS["curl"]


@pytest.fixture
def repository() -> Path:
    return Path(__file__).parent.parent
