"""Commands of this project as real processes."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

Start = Callable[..., Awaitable[Process]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Cheap, private, and of this machine only what programs need to run."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "DATA_DIRECTORY": str(tmp_path / "data"),
        "PORT": str(free_port()),
        "PASSWORD_MEMORY_KIB": "8",
        "PASSWORD_PASSES": "1",
    }


@pytest.fixture
async def start(environment: dict[str, str], repository: Path) -> AsyncIterator[Start]:
    """Runs ``python -m`` with the environment of the test; whatever still runs at its end is stopped."""
    started: list[Process] = []

    async def run(*arguments: str, **more: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            cwd=repository,
            env=environment | more,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.communicate(), 10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
async def visitor(environment: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{environment['PORT']}", timeout=30) as client:
        yield client


async def output(process: Process) -> str:
    """All that it says until it ends."""
    text, _ = await asyncio.wait_for(process.communicate(), 30)
    return text.decode()


async def read_until(process: Process, words: str) -> str:
    assert process.stdout
    said = ""
    while words not in said:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert line, said
        said += line.decode()
    return said


async def answers(visitor: httpx.AsyncClient) -> None:
    """Return once the service does: with several workers, the first to start listens a moment later than it says."""
    async with asyncio.timeout(30):
        while True:
            with suppress(httpx.ConnectError):
                await visitor.get("/health/live")
                return


def clients_of(process: Process, port: int) -> set[int]:
    """The ports of the clients that are connected with a service on ``port``, or with its workers."""
    service = psutil.Process(process.pid)
    return {
        connection.raddr.port
        for member in (service, *service.children(recursive=True))
        for connection in member.net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
    }
