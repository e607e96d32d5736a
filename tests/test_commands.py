"""The command line and ``just up``, as real processes."""

import asyncio
import secrets
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import psutil
import pytest

from service.database import schema
from service.development import data_directory
from tests.databases import with_database, with_role
from tests.people import Person
from tests.processes import Start, free_port, read_output, read_until, wait_until_serving
from tests.serving import open_client
from tests.waiting import WAITERS


async def test_migrate_applies_the_schema_once(start_python: Start, start: Start, empty_database: str) -> None:
    first = await start_python("service", "migrate", DATABASE_URL=empty_database)
    said = await read_output(first)
    assert [line.partition("applied ")[2] for line in said.splitlines()] == [
        f"sql/{file.name}" for file in schema.read_files()
    ]

    second = await start("service", "migrate", DATABASE_URL=empty_database)
    assert "all files were applied before" in await read_output(second)

    assert (first.returncode, second.returncode) == (0, 0)


async def test_concurrent_migrations_all_succeed(start: Start, empty_database: str) -> None:
    processes = [await start("service", "migrate", DATABASE_URL=empty_database) for _ in range(4)]

    outputs = [await read_output(process) for process in processes]

    assert [process.returncode for process in processes] == [0] * 4
    applied = [
        line.partition("applied ")[2] for text in outputs for line in text.splitlines() if "applied sql/" in line
    ]
    assert sorted(applied) == [f"sql/{file.name}" for file in schema.read_files()]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_service_serves_and_stops_on_sigterm(
    start_python: Start, process_client: httpx.AsyncClient, database_url: str, workers: str
) -> None:
    process = await start_python("service", DATABASE_URL=database_url, WORKERS=workers, ACCESS_LOG="on")
    text = await read_until(process, *["Application startup complete"] * int(workers))
    await wait_until_serving(process_client)

    alice = await Person.register(process_client, "alice")
    post = await alice.publish()
    assert await alice.read(post["id"]) == post
    processes = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    text += await read_output(process)

    assert process.returncode == 0
    assert "Traceback" not in text
    assert " WARNING " not in text
    assert " service.access: GET     /posts/{post_id}  " in text
    assert still_running(processes) == []


async def test_all_invalid_settings_are_named_and_nothing_starts(start: Start) -> None:
    process = await start("service", PORT="none", SECRET_KEY="short")

    text = await read_output(process)

    assert process.returncode == 1
    assert text.splitlines()[0] == "The settings are not valid:"
    assert {line.split(":")[0] for line in text.splitlines()[1:]} == {"DATABASE_URL", "PORT", "SECRET_KEY"}


async def test_uvicorn_can_run_the_app_factory(
    start_python: Start, environment: dict[str, str], process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start_python(
        "uvicorn", "--factory", "service.app:create_app", "--port", environment["PORT"], DATABASE_URL=database_url
    )
    await read_until(process, "Uvicorn running on")

    assert (await process_client.get("/posts")).json() == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://nobody@127.0.0.1:1/app", "The database cannot be reached: "),
        ("postgresql://nobody@no-such-host.invalid/app", "The database cannot be reached: "),
    ],
)
async def test_migrate_reports_an_unreachable_database_in_one_line(start: Start, url: str, words: str) -> None:
    process = await start("service", "migrate", DATABASE_URL=url)

    text = await read_output(process)

    assert process.returncode == 1
    assert text.startswith(words)
    assert len(text.splitlines()) == 1


async def test_the_service_does_not_start_on_an_empty_database(start: Start, empty_database: str) -> None:
    process = await start("service", DATABASE_URL=empty_database)

    text = await read_output(process)

    assert process.returncode == 1
    assert "run `python -m service migrate` first" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("command", ["service", "service.development"])
async def test_a_port_in_use_is_reported_in_one_line(
    start: Start, environment: dict[str, str], database_url: str, command: str, workers: str
) -> None:
    with socket.create_server(("127.0.0.1", int(environment["PORT"]))):
        process = await start(command, DATABASE_URL=database_url, WORKERS=workers)
        text = await read_output(process)

    assert process.returncode == 1
    assert text.splitlines()[-1] == f"Cannot listen on 127.0.0.1, port {environment['PORT']}: Address already in use"
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "words"),
    [("203.0.113.7", "Cannot assign requested address"), ("no-such-host.invalid", "not known")],
)
async def test_a_host_that_is_not_this_machine_is_reported_in_one_line(
    start: Start, environment: dict[str, str], database_url: str, host: str, words: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, HOST=host)
    text = await read_output(process)

    assert process.returncode == 1
    assert text.startswith(f"Cannot listen on {host}, port {environment['PORT']}: ")
    assert words in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["service"], ["service", "migrate"]])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: with_database(url, "no_such_database"), 'database "no_such_database" does not exist'),
        (lambda url: with_role(url, "no_such_role"), "no_such_role"),
    ],
    ids=["database", "role"],
)
async def test_a_database_that_refuses_the_connection_is_reported_in_one_line(
    start: Start, database_url: str, arguments: list[str], change: Callable[[str], str], words: str
) -> None:
    process = await start(*arguments, DATABASE_URL=change(database_url))

    text = await read_output(process)

    assert process.returncode == 1
    assert words in text
    assert len(text.splitlines()) == 1


async def test_migrate_reports_a_server_that_is_not_postgresql_in_one_line(start: Start, address: str) -> None:
    process = await start(
        "service", "migrate", DATABASE_URL=address.replace("http://", "postgresql://nobody@") + "/app"
    )

    text = await read_output(process)

    assert process.returncode == 1
    assert text.startswith("The database refuses the connection: ")
    assert len(text.splitlines()) == 1


async def test_the_service_starts_without_its_database_and_logs_a_warning(
    start: Start, process_client: httpx.AsyncClient
) -> None:
    process = await start("service", DATABASE_URL="postgresql://nobody@127.0.0.1:1/app")
    text = await read_until(process, "Uvicorn running on")

    live, ready = await process_client.get("/health/live"), await process_client.get("/health/ready")

    [warning] = [line for line in text.splitlines() if "WARNING" in line]
    assert "starting all the same, the service connects when it can: The database cannot be reached: " in warning
    assert (live.status_code, ready.status_code) == (200, 503)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_migrate_stops_on_a_signal_while_it_waits_for_another_migration(
    start: Start, empty_database: str, number: signal.Signals
) -> None:
    holder = await asyncpg.connect(empty_database)
    await holder.execute("select pg_advisory_lock($1)", schema.LOCK_KEY)
    process = await start("service", "migrate", DATABASE_URL=empty_database)
    async with asyncio.timeout(30):
        while not await holder.fetchval(WAITERS):
            assert process.returncode is None

    process.send_signal(number)
    text = await read_output(process)
    await holder.close()

    assert text == ""
    assert process.returncode == 128 + number


async def test_services_with_one_data_directory_share_a_generated_key(start: Start, database_url: str) -> None:
    ports = [free_port() for _ in range(4)]
    processes = [await start("service", DATABASE_URL=database_url, PORT=str(port)) for port in ports]
    for process in processes:
        await read_until(process, "Uvicorn running on")

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(f"http://127.0.0.1:{port}")) for port in ports]
        alice = await Person.register(clients[0], "alice")
        accounts = [(await client.get("/users/me", headers=alice.headers)).json() for client in clients]

    assert accounts == [alice.account] * 4


@pytest.mark.parametrize("command", ["service", "service.development"])
async def test_a_data_directory_that_is_not_writable_is_reported_in_one_line(
    start: Start, tmp_path: Path, command: str
) -> None:
    (tmp_path / "data").touch()
    url = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/app"} if command == "service" else {}

    process = await start(command, **url)
    text = await read_output(process)

    assert process.returncode == 1
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("DATA_DIRECTORY: cannot ")
    assert f"{tmp_path / 'data'} (" in text


async def test_just_up_reports_data_that_postgresql_cannot_use(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data" / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")

    process = await start("service.development")
    text = await read_output(process)

    assert process.returncode == 1
    assert "Traceback" not in text
    reason, log = text.splitlines()[-2:]
    assert reason == f"PostgreSQL does not start on {data}:"
    assert "postgresql.conf" in log


async def test_an_unknown_command_is_refused(start: Start) -> None:
    process = await start("service", "serve")

    usage, error = (await read_output(process)).splitlines()
    assert usage.startswith("usage: python -m service [-h] ")
    assert error.startswith("python -m service: error: argument command: invalid choice: 'serve' (choose from ")
    assert process.returncode == 2


async def test_just_up_needs_no_settings_and_leaves_no_process_behind(
    start: Start, process_client: httpx.AsyncClient
) -> None:
    process = await start("service.development")
    text = await read_until(process, "Uvicorn running on")
    alice = await Person.register(process_client, "alice")

    assert await running_after(process, text, signal.SIGINT) == []
    for words in ("embedded PostgreSQL", "/docs", "Ctrl-C"):
        assert words in text
    assert alice.id == 1


@pytest.mark.usefixtures("created_data")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_just_up_leaves_no_process_behind_on_any_signal(
    start: Start, process_client: httpx.AsyncClient, number: signal.Signals
) -> None:
    process = await start("service.development")
    text = await read_until(process, "Uvicorn running on")
    await Person.register(process_client, "alice")

    assert await running_after(process, text, number) == []


async def running_after(process: Process, text: str, number: signal.Signals) -> list[psutil.Process]:
    """Send a signal to a ``just up`` that has printed ``text``; returns what still runs after its end."""
    processes = psutil.Process(process.pid).children(recursive=True)
    processes += [found for found in psutil.process_iter() if _is_embedded_server(found, text)]
    assert processes
    process.send_signal(number)
    await read_output(process)
    return still_running(processes)


def still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The processes that do not end by themselves within 5 seconds."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    return list(alive)


def _is_embedded_server(process: psutil.Process, text: str) -> bool:
    """Whether a process belongs to the embedded server of a ``just up`` that has printed ``text``."""
    directory = text.split("its data in ", 1)[1].splitlines()[0]
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return "postgres" in process.name() and process.cwd() == directory
    return False


@pytest.mark.usefixtures("created_data")
async def test_the_data_of_just_up_survive_a_restart(start: Start, process_client: httpx.AsyncClient) -> None:
    process = await start("service.development")
    await read_until(process, "Uvicorn running on")
    alice = await Person.register(process_client, "alice")
    post = await alice.publish()
    process.send_signal(signal.SIGINT)
    await read_output(process)

    process = await start("service.development")
    await read_until(process, "Uvicorn running on")

    assert await alice.read(post["id"]) == post
    assert (await process_client.get("/users/me", headers=alice.headers)).json() == alice.account


@pytest.mark.usefixtures("created_data")
async def test_just_up_takes_over_the_database_of_one_that_was_killed(
    start: Start, process_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    process = await start("service.development")
    text = await read_until(process, "Uvicorn running on")
    alice = await Person.register(process_client, "alice")
    url = data_directory.url_of(tmp_path / "data" / "postgres")
    process.kill()
    await process.wait()

    process = await start("service.development")
    await read_until(process, "Uvicorn running on")
    kept = await process_client.get("/users/me", headers=alice.headers)
    servers = [found for found in psutil.process_iter() if _is_embedded_server(found, text)]
    process.send_signal(signal.SIGINT)
    await read_output(process)

    assert kept.json() == alice.account
    assert servers
    assert url
    assert not directory_exists(url)
    assert still_running(servers) == []


def directory_exists(url: str) -> bool:
    """Whether the directory of a Unix socket exists."""
    return Path(parse_qs(urlsplit(url).query)["host"][0]).is_dir()


@pytest.mark.usefixtures("created_data")
async def test_a_second_just_up_on_the_same_data_is_refused(start: Start, process_client: httpx.AsyncClient) -> None:
    await read_until(await start("service.development"), "Uvicorn running on")

    second = await start("service.development", PORT=str(free_port()))
    text = await read_output(second)

    assert (second.returncode, len(text.splitlines())) == (1, 1)
    assert text.startswith("Another `just up` uses ")
    assert (await process_client.get("/health/ready")).status_code == 200


async def test_just_up_uses_database_url(
    start: Start, process_client: httpx.AsyncClient, empty_database: str, tmp_path: Path
) -> None:
    process = await start("service.development", DATABASE_URL=empty_database, SECRET_KEY=secrets.token_hex(32))
    text = await read_until(process, "Uvicorn running on")
    await Person.register(process_client, "alice")

    connection = await asyncpg.connect(empty_database)
    count = await connection.fetchval("select count(*) from users")
    await connection.close()

    assert count == 1
    assert "Database  DATABASE_URL" in text
    assert not (tmp_path / "data").exists()


async def test_the_search_index_is_rebuilt_in_another_language(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    # A parameter that asyncpg does not know.
    german = {"DATABASE_URL": f"{database_url}&keepalives=1", "SEARCH_LANGUAGE": "german"}
    process = await start("service", **german)
    await read_until(
        process, "SEARCH_LANGUAGE is german, but the index of the posts is in simple", "Application startup complete"
    )
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    post = await alice.publish("Zwei Häuser")
    assert (await process_client.get("/posts?q=haus")).json() == []

    rebuilding = await start("service", "reindex-search", **german)
    assert "the index of the posts is in german" in await read_output(rebuilding)

    # The process that serves uses the new language, without a restart.
    assert (await process_client.get("/posts?q=haus")).json() == [post]
    assert rebuilding.returncode == 0


@pytest.mark.parametrize("command", [[], ["reindex-search"]], ids=["serve", "reindex-search"])
async def test_an_unknown_search_language_is_refused(start: Start, database_url: str, command: list[str]) -> None:
    process = await start("service", *command, DATABASE_URL=database_url, SEARCH_LANGUAGE="klingon")

    text = await read_output(process)

    assert process.returncode == 1
    assert 'SEARCH_LANGUAGE: text search configuration "klingon" does not exist' in text


async def test_a_search_index_is_not_rebuilt_before_the_schema_is_applied(start: Start, empty_database: str) -> None:
    process = await start("service", "reindex-search", DATABASE_URL=empty_database)

    text = await read_output(process)

    assert process.returncode == 1
    assert "the database has no search yet: run `python -m service migrate` first" in text
