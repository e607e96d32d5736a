"""Fixtures: a template database built once from sql/, and for each test a clone of it with the real app."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from litestar import Litestar

from service.app import create_app
from service.database import schema
from service.server import server
from service.settings import Settings
from tests import browser, poolers, postgres, proxies
from tests.browser import browser_page  # noqa: F401 - a fixture
from tests.databases import Databases, with_database
from tests.people import Person
from tests.poolers import pgbouncer  # noqa: F401 - a fixture
from tests.processes import environment, process_client, start  # noqa: F401 - fixtures
from tests.proxies import haproxy, nginx, nginx_with_prefix, run_proxy  # noqa: F401 - fixtures

POSTGRES = pytest.StashKey[postgres.Postgres]()

# Programs that a machine may lack, by the fixtures that run them.
PROGRAMS = {
    "browser_page": browser.CHROMIUM,
    "curl": shutil.which("curl"),
    "haproxy": proxies.HAPROXY,
    "nginx": proxies.NGINX,
    "nginx_with_prefix": proxies.NGINX,
    "pgbouncer": poolers.PGBOUNCER,
}

# Fixtures that start processes: the tests that use them get the marker `process`.
PROCESS_FIXTURES = {"start", "postgres", "browser_page", "pgbouncer", "run_proxy", "run_schemathesis"}

Serve = Callable[[Litestar], Awaitable[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-examples", default=10, help="how many examples schemathesis tries per operation")
    parser.addoption("--fuzz-seed", default=1, help="the seed of schemathesis")


def pytest_configure(config: pytest.Config) -> None:
    if given := getattr(config, "workerinput", None):  # a worker of pytest-xdist: all of them share one server
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
        *(f"{name}: {PROGRAMS[name] or absent}" for name in ("curl", "haproxy", "nginx", "pgbouncer")),
    ]


@pytest.hookimpl(tryfirst=True)  # before pytest evaluates `-m`
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = {fixture for fixture, program in PROGRAMS.items() if not program}
    deselected = []
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & PROCESS_FIXTURES:
            item.add_marker("process")
        if fixtures & missing:
            deselected.append(item)
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


@pytest.fixture(scope="session")
async def databases(pytestconfig: pytest.Config) -> AsyncIterator[Databases]:
    url = pytestconfig.stash[POSTGRES].url
    async with asyncpg.create_pool(url, min_size=1, max_size=3) as admin:
        created = Databases(url, admin)
        yield created
        await created.close()


@pytest.fixture
async def empty_database(databases: Databases) -> AsyncIterator[str]:
    """The URL of a database without a schema."""
    async with databases.private() as url:
        yield url


@pytest.fixture(scope="session")
async def template(databases: Databases) -> str:
    name = await databases.create("template0")
    await schema.migrate(with_database(databases.url, name))
    databases.templates.append(name)
    return name


@pytest.fixture
async def database_url(databases: Databases, template: str) -> AsyncIterator[str]:
    async with databases.private(template) as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database of the test that bypasses the service."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of the app under test, with Argon2 at its cheapest and without limits of failed logins."""
    return Settings(
        database_url=database_url,
        secret_key=b"k" * 32,
        password_memory_kib=8,
        password_passes=1,
        login_failures_per_account=0,
        login_failures_per_address=0,
    )


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves an app on a free port as in production, and returns its address."""
    running: list[server.Server] = []

    async def serve_one(app: Litestar) -> str:
        config = server.Config(app.state.settings, app, log_config=None)
        config.load()
        started = server.Server(config)
        started.lifespan = config.lifespan_class(config)
        listener = server.listen(msgspec.structs.replace(started.settings, port=0))
        await started.startup(sockets=[listener])
        running.append(started)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve_one
    for started in running:
        # As Server.shutdown does, but without its pauses for clients: they have gone by now.
        started.loop.remove_reader(started.listener)
        started.listener.close()
        started.deadlines.cancel()
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
