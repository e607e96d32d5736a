"""Signals that reach the service while it starts, serves, drains and stops."""

import asyncio
import os
import re
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from service import __main__ as commands
from service.app import create_app
from service.server import server
from service.settings import Settings
from tests.people import Person
from tests.processes import Start, read_output, read_until, wait_for_clean_exit, wait_until_serving
from tests.waiting import wait_for_blocked_session

CTRL_C = {0, 130, -signal.SIGINT}  # a clean exit, and the exit codes that a shell takes for Ctrl-C


def press_ctrl_c(process: Process) -> None:
    """Send SIGINT to the process group, as a terminal does."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)


async def keep_pressing_ctrl_c(process: Process, pause: float) -> str:
    """Press Ctrl-C every ``pause`` seconds until the process exits, and return the rest of its output."""
    output = asyncio.create_task(read_output(process))
    while not output.done():
        press_ctrl_c(process)
        await asyncio.sleep(pause)
    return await output


def assert_interrupted(process: Process, said: str) -> None:
    """Assert an exit code of ``CTRL_C`` and no traceback, except for one of the interpreter's own start."""
    frames = re.findall(r'File "([^"]+)"', said)
    assert [frame for frame in frames if not frame.startswith("<frozen ")] == [], said
    assert process.returncode in CTRL_C, said


def postgres_processes(directory: Path) -> list[psutil.Process]:
    """The processes of the embedded PostgreSQL whose data are below a directory. They have a session of their own."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "postgres" in process.name() and Path(process.cwd()).is_relative_to(directory):
                found.append(process)
    return found


def found(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """The data directory of the service. An embedded PostgreSQL that still runs at the end of the test is killed."""
    yield tmp_path / "data"
    for process in postgres_processes(tmp_path):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.parametrize(
    ("command", "workers", "reached"),
    [
        ("service", "1", [" asyncio\n"]),
        ("service", "1", [" service.server.supervisor\n"]),  # the last import
        ("service.development", "1", [" asyncio\n"]),
        ("service", "2", ["Started parent process", " asyncio\n"]),  # of a worker
    ],
)
async def test_ctrl_c_during_the_imports_writes_no_traceback(
    start_python: Start, database_url: str, command: str, workers: str, reached: list[str]
) -> None:
    # The interpreter reports each import. A program cannot handle a signal before it has imported `signal`.
    process = await start_python(command, DATABASE_URL=database_url, WORKERS=workers, PYTHONPROFILEIMPORTTIME="1")
    said = await read_until(process, "| service\n", "| signal\n", *reached)

    press_ctrl_c(process)

    assert_interrupted(process, said + await read_output(process))


@pytest.mark.parametrize("command", ["service", "service.development"])
async def test_ctrl_c_while_it_waits_for_the_database_writes_no_traceback(start: Start, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)  # noqa: FBT003 - as the method is
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/app"
        process = await start(command, DATABASE_URL=url, DATABASE_TIMEOUT_SECONDS="50")
        connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(silent), 30)

        press_ctrl_c(process)

        assert_interrupted(process, await read_output(process))
        connection.close()


@pytest.mark.parametrize(
    ("command", "workers", "reached"),
    [
        ("service", "1", "Waiting for application startup"),
        ("service.development", "1", "Waiting for application startup"),
        ("service", "2", "Started parent process"),
    ],
)
async def test_ctrl_c_during_the_start_writes_no_traceback(
    start: Start, database_url: str, command: str, workers: str, reached: str
) -> None:
    process = await start(command, DATABASE_URL=database_url, WORKERS=workers)
    said = await read_until(process, reached)

    press_ctrl_c(process)

    assert_interrupted(process, said + await read_output(process))


class SignalsOnDeletion:
    """Sends a signal to this process while Python ignores exceptions."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_is_not_lost_where_python_ignores_exceptions(fails: bool) -> None:  # noqa: FBT001 - a parameter
    async def work() -> None:
        SignalsOnDeletion()
        if fails:
            raise RuntimeError
        await asyncio.sleep(50)

    before = signal.signal(signal.SIGINT, commands.exit_on_signal)
    try:
        with pytest.raises(SystemExit) as caught:
            commands.run_until_signal(work())
        handler = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    assert caught.value.code == 130
    assert handler is commands.exit_on_signal


def test_a_signal_while_the_event_loop_is_made_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/app", secret_key=b"k" * 32, port=0)
    config = server.Config(settings, create_app(settings), log_config=None)
    make_loop = config.get_loop_factory()
    assert make_loop

    def make_loop_and_signal() -> asyncio.AbstractEventLoop:
        SignalsOnDeletion()
        return make_loop()

    monkeypatch.setattr(config, "get_loop_factory", lambda: make_loop_and_signal)
    before = {number: signal.getsignal(number) for number in server.STOP_SIGNALS}
    commands.handle_stop_signals(commands.exit_on_signal)
    try:
        server.Server(config).run([server.listen(settings)])  # it would serve until the test times out
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("made", "repeated"),
    [("postgres.new-*/PG_VERSION", False), ("postgres.new-*/base/4", True), ("postgres/postmaster.pid", False)],
)
async def test_ctrl_c_while_the_embedded_database_is_created_leaves_no_process_and_no_broken_data(
    directory: Path, start: Start, made: str, *, repeated: bool
) -> None:
    process = await start("service.development")
    async with asyncio.timeout(30):
        while not found(directory, made):
            await asyncio.sleep(0.001)

    if repeated:
        said = await keep_pressing_ctrl_c(process, 0.002)
    else:
        press_ctrl_c(process)
        said = await read_output(process)

    assert_interrupted(process, said)
    assert psutil.wait_procs(postgres_processes(directory), timeout=5)[1] == []
    assert found(directory, "postgres.new-*") == []
    if found(directory, "postgres"):  # otherwise the next start would create it as the first one did
        again = await start("service.development")
        await read_until(again, "Uvicorn running")


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.3])
async def test_a_second_ctrl_c_writes_no_traceback(
    start: Start, process_client: httpx.AsyncClient, database_url: str, pause: float
) -> None:
    process = await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)

    press_ctrl_c(process)
    await asyncio.sleep(pause)
    press_ctrl_c(process)

    assert_interrupted(process, await read_output(process))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_repeated_ctrl_c_writes_no_traceback(
    start: Start, process_client: httpx.AsyncClient, database_url: str, workers: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, WORKERS=workers)
    await wait_until_serving(process_client)
    tree = psutil.Process(process.pid).children(recursive=True)

    said = await keep_pressing_ctrl_c(process, 0.005)

    assert_interrupted(process, said)
    assert psutil.wait_procs(tree, timeout=5)[1] == []


@pytest.mark.usefixtures("created_data")
async def test_repeated_ctrl_c_still_stops_the_embedded_database(
    directory: Path, start: Start, process_client: httpx.AsyncClient
) -> None:
    process = await start("service.development")
    await wait_until_serving(process_client)
    tree = postgres_processes(directory)

    said = await keep_pressing_ctrl_c(process, 0.05)

    assert tree
    assert_interrupted(process, said)
    assert psutil.wait_procs(tree, timeout=5)[1] == []


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_hangup_drains(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection, workers: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, WORKERS=workers, DRAIN_SECONDS="1")
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    async with db.transaction():
        await db.execute("lock table posts in exclusive mode")
        publishing = asyncio.create_task(alice.publish())
        await wait_for_blocked_session(db)
        process.send_signal(signal.SIGHUP)
        started = time.monotonic()
        async with asyncio.timeout(5):
            while (await process_client.get("/health/ready")).status_code == 200:
                await asyncio.sleep(0.01)
        assert (await process_client.get("/users/me", headers=alice.headers)).json() == alice.account
    post = await publishing

    assert "Traceback" not in await wait_for_clean_exit(process, within=5)
    assert time.monotonic() - started > 0.9
    assert await db.fetchval("select title from posts where id = $1", post["id"]) == post["title"]


@pytest.mark.parametrize(
    ("workers", "first", "second"),
    [
        ("1", signal.SIGHUP, signal.SIGHUP),
        ("1", signal.SIGTERM, signal.SIGTERM),
        ("1", signal.SIGTERM, signal.SIGINT),
        ("2", signal.SIGTERM, signal.SIGHUP),
    ],
)
async def test_a_second_signal_of_any_kind_ends_the_drain(
    start: Start,
    process_client: httpx.AsyncClient,
    database_url: str,
    workers: str,
    first: signal.Signals,
    second: signal.Signals,
) -> None:
    process = await start("service", DATABASE_URL=database_url, WORKERS=workers, DRAIN_SECONDS="50")
    await wait_until_serving(process_client)

    process.send_signal(first)
    async with asyncio.timeout(5):
        while (await process_client.get("/health/ready")).status_code == 200:
            await asyncio.sleep(0.01)
    process.send_signal(second)

    assert "Traceback" not in await wait_for_clean_exit(process, within=8)
