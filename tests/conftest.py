"""Fixtures: a template database built once from sql/, and for each test a clone of it with the real app."""

import asyncio
import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import uvloop
from litestar import Litestar

from service.app import create_app
from service.database import schema
from service.server import server
from service.settings import Settings
from tests import browser, compose, denied, poolers, postgres, proxies, sandbox, system_calls
from tests.browser import browser_page, chromium, page_with_profile, playwright  # noqa: F401 - fixtures
from tests.data_directories import cluster_data, created_data, initialized  # noqa: F401 - fixtures
from tests.databases import Databases, with_database
from tests.people import Person
from tests.poolers import pgbouncer  # noqa: F401 - a fixture
from tests.processes import environment, fork_server, process_client, start, start_python  # noqa: F401 - fixtures
from tests.proxies import haproxy, nginx, nginx_cache, nginx_tls, nginx_with_prefix, run_proxy  # noqa: F401 - fixtures
from tests.sandbox import sandbox_command  # noqa: F401 - a fixture
from tests.serving import Share, SharedApp, address_of, serving, sharing
from tests.transport import Transport

POSTGRES = pytest.StashKey[postgres.Postgres]()

# Programs that a machine may lack, by the fixtures that run them.
PROGRAMS = {
    "playwright": browser.CHROMIUM,
    "curl": shutil.which("curl"),
    "docker_compose": None,  # pytest_configure finds it
    "haproxy": proxies.HAPROXY,
    "just": shutil.which("just"),
    "nginx": proxies.NGINX,
    "nginx_tls": proxies.NGINX and proxies.OPENSSL,
    "nginx_cache": proxies.NGINX,
    "nginx_with_prefix": proxies.NGINX,
    "openssl": shutil.which("openssl"),
    "pgbouncer": poolers.PGBOUNCER,
    "prlimit": shutil.which("prlimit"),
    "promtool": shutil.which("promtool"),
    "root": str(os.geteuid() == 0 or ""),
    "sandbox_command": sandbox.SYSTEMD_ANALYZE and system_calls.LIBSECCOMP,
    "seccomp": denied.MODULE,
    "systemd_analyze": sandbox.SYSTEMD_ANALYZE,
}

# Fixtures that start processes: the tests that use them get the marker `process`.
PROCESS_FIXTURES = {
    "fork_server",
    "start_python",
    "postgres",
    "playwright",
    "pgbouncer",
    "run_proxy",
    "run_schemathesis",
}

Serve = Callable[[Litestar], Awaitable[str]]

# Tests with one of these fixtures have a database of their own, and an app of their own, if any.
PRIVATE_FIXTURES = {"database_url", "settings"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-examples", default=5, help="how many examples schemathesis tries per operation")
    parser.addoption("--fuzz-seed", default=1, help="the seed of schemathesis")


@pytest.hookimpl(tryfirst=True)  # before pytest decides where tmp_path is
def pytest_configure(config: pytest.Config) -> None:
    if given := getattr(config, "workerinput", None):  # a worker of pytest-xdist: all of them share one server
        config.stash[POSTGRES] = postgres.Postgres(given["postgres"], given["postgres"])
        PROGRAMS["docker_compose"] = given["docker_compose"]
        return
    PROGRAMS["docker_compose"] = compose.find()
    if not config.option.collectonly:
        with ExitStack() as stack:
            if not config.option.basetemp:
                # For root, PostgreSQL runs as another user. In pytest's own directory, the start of another pytest
                # would take the access of that user away.
                parent = tempfile.TemporaryDirectory(
                    prefix="pytest-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"), ignore_cleanup_errors=True
                )
                config.option.basetemp = f"{stack.enter_context(parent)}/tests"
            config.stash[POSTGRES] = stack.enter_context(postgres.started())
            config.add_cleanup(stack.pop_all().close)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker takes seconds to start. More than three pay only if there are tests that wait for processes."""
    return 3 if config.option.markexpr == "not process" else 5


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["postgres"] = node.config.stash[POSTGRES].url
    node.workerinput["docker_compose"] = PROGRAMS["docker_compose"]


def pytest_report_header(config: pytest.Config) -> list[str]:
    described = config.stash.get(POSTGRES, None)
    absent = "not installed, its tests are left out"
    return [
        f"PostgreSQL: {described.description if described else 'not started'}",
        f"Chromium: {PROGRAMS['playwright'] or absent}",
        *(
            f"{name}: {PROGRAMS[name] or absent}"
            for name in (
                "curl",
                "docker_compose",
                "haproxy",
                "just",
                "nginx",
                "openssl",
                "pgbouncer",
                "prlimit",
                "promtool",
                "seccomp",
                "systemd_analyze",
            )
        ),
        f"nginx with TLS: {PROGRAMS['nginx_tls'] or 'openssl or nginx ' + absent}",
        f"libseccomp: {PROGRAMS['sandbox_command'] or absent}",
        f"root: {'yes' if PROGRAMS['root'] else 'no, the tests that need it are left out'}",
    ]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the collection creates lives until the end, so Python's garbage collector skips it, as in the service."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(server.GC_THRESHOLD)
        gc.enable()


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
    # First the tests that take long, so that none of them is the last to end. Then those with processes: they wait most
    # of their time, while the others use the processor. pytest-xdist gives each worker one part of the list.
    order = [("long" in item.keywords, "process" in item.keywords) for item in items]
    parts = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    groups = [
        [item for item, kind in zip(items, order, strict=True) if kind == wanted and item not in deselected]
        for wanted in ((True, True), (True, False), (False, True), (False, False))
    ]
    items[:] = [
        item
        for part in range(parts)
        for group in groups
        for item in group[len(group) * part // parts : len(group) * (part + 1) // parts]
    ]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}  # as in production, and faster than asyncio's own


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
def settings(database_url: str) -> Settings:
    return settings_of(database_url)


def settings_of(database_url: str = "postgresql://127.0.0.1:1/none") -> Settings:
    """The settings of the app under test, with Argon2 at its cheapest and without limits of failed logins.

    Without a URL there is no database, for tests that build an app and do not serve it.
    """
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
    async with AsyncExitStack() as stack:

        async def serve_one(app: Litestar) -> str:
            return address_of(await stack.enter_async_context(serving(app)))

        yield serve_one


@pytest.fixture(scope="session")
async def share(databases: Databases, template: str) -> AsyncIterator[Share]:
    """Serves an app for several tests, with more handlers and other settings if there are any."""
    async with AsyncExitStack() as stack:

        async def share_one(*handlers: Any, **settings: Any) -> SharedApp:
            common = settings_of(await stack.enter_async_context(databases.private(template)))
            app = create_app(msgspec.structs.replace(common, **settings))
            for handler in handlers:
                app.register(handler)
            return await stack.enter_async_context(sharing(app))

        yield share_one


@pytest.fixture(scope="session")
async def running_app(share: Share) -> SharedApp:
    """The app that tests share. A module whose tests need other handlers or settings has one of its own."""
    return await share()


@pytest.fixture
async def shared_app(running_app: SharedApp) -> AsyncIterator[SharedApp]:
    async with running_app.for_a_test() as shared:
        yield shared


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> SharedApp | None:
    """The app that tests share, unless the test needs a database of its own."""
    if not PRIVATE_FIXTURES.isdisjoint(request.node.fixturenames):
        return None
    app: SharedApp = request.getfixturevalue("shared_app")
    return app


@pytest.fixture
async def private_address(serve: Serve, settings: Settings) -> str:
    return await serve(create_app(settings))


@pytest.fixture
def address(request: pytest.FixtureRequest, shared: SharedApp | None) -> str:
    """The address of the app of the test."""
    found: str = shared.address if shared else request.getfixturevalue("private_address")
    return found


@pytest.fixture
def url_for_db(request: pytest.FixtureRequest, shared: SharedApp | None) -> str:
    """The URL of the database of the test."""
    found: str = shared.database_url if shared else request.getfixturevalue("database_url")
    return found


@pytest.fixture
async def private_db(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def db(request: pytest.FixtureRequest, shared: SharedApp | None) -> asyncpg.Connection:
    """A connection to the database of the test that bypasses the service."""
    return shared.connection if shared else request.getfixturevalue("private_db")


@pytest.fixture
async def client(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, transport=Transport()) as opened:
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
def promtool() -> str:
    assert PROGRAMS["promtool"]
    return PROGRAMS["promtool"]


@pytest.fixture
def openssl() -> str:
    assert PROGRAMS["openssl"]
    return PROGRAMS["openssl"]


@pytest.fixture
def prlimit() -> str:
    assert PROGRAMS["prlimit"]
    return PROGRAMS["prlimit"]


@pytest.fixture
def seccomp() -> str:
    """The module that runs another one while the kernel refuses some system calls."""
    assert PROGRAMS["seccomp"]
    return PROGRAMS["seccomp"]


@pytest.fixture
def docker_compose() -> list[str]:
    assert PROGRAMS["docker_compose"]
    return [PROGRAMS["docker_compose"], "compose"]


@pytest.fixture
def systemd_analyze() -> str:
    assert PROGRAMS["systemd_analyze"]
    return PROGRAMS["systemd_analyze"]


@pytest.fixture
def just() -> str:
    assert PROGRAMS["just"]
    return PROGRAMS["just"]


@pytest.fixture
def root() -> None:
    """For tests that only root can run."""


@pytest.fixture
def repository() -> Path:
    return Path(__file__).parent.parent
