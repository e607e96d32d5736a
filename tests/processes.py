"""Runs commands of this project as real processes."""

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.forks import ForkServer, running_fork_server
from tests.serving import open_client

Start = Callable[..., Awaitable[Process]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_of(tmp_path)


def environment_of(directory: Path) -> dict[str, str]:
    """The environment of the processes: a private data directory, a free port and cheap hashes."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "DATA_DIRECTORY": str(directory / "data"),
        "PORT": str(free_port()),
        "PASSWORD_MEMORY_KIB": "8",
        "PASSWORD_PASSES": "1",
    }


@pytest.fixture(scope="session")
async def fork_server() -> AsyncIterator[ForkServer]:
    async with running_fork_server() as server:
        yield server


@pytest.fixture
async def start(environment: dict[str, str], fork_server: ForkServer) -> AsyncIterator[Start]:
    """Runs a module in the environment of the test, and stops what still runs at the end of the test.

    The process is a fork of one that has imported the service. A test of the start itself uses ``start_python``.
    """

    async def run(*arguments: str, **more: str) -> Process:
        return await fork_server.fork(arguments, environment | more)

    async with stopping(run) as started:
        yield started


@pytest.fixture
async def start_python(environment: dict[str, str], repository: Path) -> AsyncIterator[Start]:
    """Runs ``python -m`` as ``start`` does, in a new interpreter."""

    async def run(*arguments: str, **more: str) -> Process:
        command = [sys.executable, "-m", *arguments]
        return await asyncio.create_subprocess_exec(
            *command, cwd=repository, env=environment | more, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )

    async with stopping(run) as started:
        yield started


@asynccontextmanager
async def stopping(run: Start) -> AsyncIterator[Start]:
    """Stop the processes that ``run`` has started. One that does not stop within 20 seconds is an error."""
    started: list[Process] = []

    async def run_and_keep(*arguments: str, **more: str) -> Process:
        process = await run(*arguments, **more)
        started.append(process)
        return process

    yield run_and_keep
    running = [process for process in started if process.returncode is None]
    try:
        for process in running:
            with suppress(ProcessLookupError):
                process.terminate()
                os.killpg(process.pid, signal.SIGCONT)  # a process that the test has stopped gets SIGTERM only now
        async with asyncio.timeout(20):
            await asyncio.gather(*(process.communicate() for process in running))
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
async def process_client(environment: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service that ``start`` runs."""
    async with open_client(f"http://127.0.0.1:{environment['PORT']}") as client:
        yield client


async def read_output(process: Process) -> str:
    """Wait until a process exits, and return the rest of its output."""
    text, _ = await asyncio.wait_for(process.communicate(), 30)
    return text.decode()


async def wait_for_clean_exit(process: Process, within: float) -> str:
    """Assert that a process exits ``within`` seconds with status 0, and return the rest of its output."""
    started = time.monotonic()
    output = await read_output(process)
    assert time.monotonic() - started < within
    assert process.returncode == 0, output
    return output


async def wait_for_workers(process: Process, without: int = 0) -> list[int]:
    """Wait until the service has two workers, not counting ``without``, and return their process ids."""
    async with asyncio.timeout(30):
        while True:
            children = [child for child in psutil.Process(process.pid).children() if child.pid != without]
            # multiprocessing's resource tracker is a child, too.
            commands = {child.pid: _command(child) for child in children}
            workers = [pid for pid, command in commands.items() if command and "resource_tracker" not in command]
            if len(workers) == 2:
                return workers
            await asyncio.sleep(0.05)


def _command(process: psutil.Process) -> str:
    """The command line of a process, which is empty after its end."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


async def read_until(process: Process, *words: str) -> str:
    """Read the output of a process until its lines have contained each of ``words``, in that order."""
    assert process.stdout
    output = ""
    for expected in words:
        while True:
            line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
            assert line, f"the process ended without {expected!r}:\n{output}"
            output += line
            if expected in line:
                break
    return output


async def wait_until_serving(client: httpx.AsyncClient) -> None:
    """Wait until the service responds. A worker logs that it runs slightly before it accepts connections."""
    async with asyncio.timeout(30):
        while True:
            with suppress(httpx.ConnectError):
                await client.get("/health/live")
                return
            await asyncio.sleep(0.02)


def pause(*processes: int) -> None:
    """Send SIGSTOP to processes and wait until they have stopped, which may be later. SIGCONT continues them."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    last = time.monotonic() + 10
    stopped = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}  # or it has ended by itself
    while not {psutil.Process(pid).status() for pid in processes} <= stopped:
        assert time.monotonic() < last
        time.sleep(0.001)


def client_ports(process: Process, port: int) -> set[int]:
    """The ports of the clients that are connected to ``port`` of a service or of its workers."""
    service = psutil.Process(process.pid)
    return {
        connection.raddr.port
        for member in (service, *service.children(recursive=True))
        for connection in member.net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
    }


def peer_ports(pid: int) -> set[int]:
    """The remote ports of the TCP connections of a process."""
    return {known.raddr.port for known in psutil.Process(pid).net_connections("tcp") if known.raddr}
