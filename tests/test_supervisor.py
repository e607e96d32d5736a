"""Two workers and their supervisor."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from contextlib import ExitStack
from statistics import median

import httpx
import psutil
import pytest

from tests.processes import (
    Start,
    pause,
    peer_ports,
    read_until,
    wait_for_clean_exit,
    wait_for_workers,
    wait_until_serving,
)
from tests.raw_http import Client, get


async def start_two(start: Start, database_url: str, **settings: str) -> Process:
    process = await start("service", DATABASE_URL=database_url, WORKERS="2", **settings)
    for _ in range(2):
        await read_until(process, "Application startup complete")
    return process


def still_running(tree: list[psutil.Process]) -> list[psutil.Process]:
    """The processes that do not exit by themselves within 5 s."""
    _, alive = psutil.wait_procs(tree, timeout=5)
    return list(alive)


@pytest.mark.long
async def test_a_worker_that_hangs_is_replaced(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start_two(start, database_url)
    await wait_until_serving(process_client)
    hung, other = await wait_for_workers(process)

    pause(hung)
    serving = await wait_for_workers(process, without=hung)
    async with asyncio.timeout(10):
        while psutil.pid_exists(hung):
            await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        while not all(_listens(pid) for pid in serving):
            await asyncio.sleep(0.05)

    assert other in serving
    for _ in range(20):
        with Client(str(process_client.base_url)) as client:
            assert await client.status_of(get()) == 200
    tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert "Traceback" not in await wait_for_clean_exit(process, within=5)
    assert still_running(tree) == []


def _listens(pid: int) -> bool:
    return any(known.status == psutil.CONN_LISTEN for known in psutil.Process(pid).net_connections("tcp"))


@pytest.mark.long
async def test_a_worker_that_hangs_does_not_keep_the_supervisor_from_exiting(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start_two(start, database_url)
    await wait_until_serving(process_client)
    tree = psutil.Process(process.pid).children(recursive=True)
    _, last = await wait_for_workers(process)

    pause(last)
    process.send_signal(signal.SIGINT)

    assert "Traceback" not in await wait_for_clean_exit(process, within=15)
    assert still_running(tree) == []


async def test_connections_are_balanced_and_yet_a_worker_with_many_accepts_another_at_once(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start_two(start, database_url)
    address = str(process_client.base_url)
    few, many = await wait_for_workers(process)
    smaller_shares = []
    for _ in range(5):
        with ExitStack() as stack:
            for _ in range(64):
                stack.enter_context(Client(address))
            async with asyncio.timeout(10):
                while sum(counts := [_connections(few), _connections(many)]) < 64:
                    await asyncio.sleep(0.05)
        smaller_shares.append(min(counts) / 64)
        async with asyncio.timeout(10):
            while _connections(few) or _connections(many):
                await asyncio.sleep(0.05)
    # Nearly one half on an idle machine. Without balancing, one worker mostly gets nearly all of them.
    assert median(smaller_shares) > 0.2, smaller_shares

    with ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in range(60)]
        for client in clients:
            assert await client.status_of(get()) == 200
        ports = peer_ports(few)
        for client in clients:
            if client.socket.getsockname()[1] in ports:
                client.socket.close()
        async with asyncio.timeout(10):
            while peer_ports(few) & ports:
                await asyncio.sleep(0.01)
        pause(few)  # the other accepts every new connection
        took = []
        for _ in range(50):
            started = time.monotonic()
            with Client(address) as client:
                assert await client.status_of(get()) == 200
            took.append(time.monotonic() - started)
        os.kill(few, signal.SIGCONT)

    assert sorted(took)[10] < 0.004, sorted(took)


def _connections(pid: int) -> int:
    return sum(known.status == psutil.CONN_ESTABLISHED for known in psutil.Process(pid).net_connections("tcp"))


async def test_ctrl_c_reaches_all_processes_and_still_drains(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start_two(start, database_url, DRAIN_SECONDS="2")
    await wait_until_serving(process_client)
    tree = psutil.Process(process.pid).children(recursive=True)

    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    async with asyncio.timeout(1):
        while (await process_client.get("/health/ready")).status_code == 200:
            await asyncio.sleep(0.01)
    served = 0
    while time.monotonic() - started < 1.5:
        with Client(str(process_client.base_url)) as client:
            assert await client.status_of(get(b"/posts")) == 200
            served += 1
        await asyncio.sleep(0.05)

    assert "Traceback" not in await wait_for_clean_exit(process, within=5)
    assert served > 5
    assert still_running(tree) == []
