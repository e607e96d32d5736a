"""Processes that stop or die while requests are in flight."""

import asyncio
import os
import signal
import socket
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import httpx
import psutil
import pytest

from tests.people import Person, assert_problem
from tests.processes import (
    Start,
    client_ports,
    free_port,
    read_until,
    wait_for_clean_exit,
    wait_for_workers,
    wait_until_serving,
)
from tests.proxies import StartProxy
from tests.serving import open_client
from tests.waiting import until, wait_for_blocked_session


async def test_new_requests_are_served_while_it_drains(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, DRAIN_SECONDS="1")
    await wait_until_serving(process_client)

    process.send_signal(signal.SIGTERM)
    started, responses = time.monotonic(), set()
    async with asyncio.timeout(10):
        while (ready := await process_client.get("/health/ready")).status_code == 200:
            await asyncio.sleep(0)
    with suppress(httpx.ConnectError):
        while True:
            response = await process_client.get("/posts")
            responses.add((response.status_code, response.headers.get("connection")))
            await asyncio.sleep(0.01)
    drained = time.monotonic() - started

    assert_problem(ready, 503, "stopping")
    assert responses == {(200, "close")}
    assert 0.9 < drained < 6
    assert "Traceback" not in await wait_for_clean_exit(process, within=5)


async def test_a_request_in_flight_is_completed(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")

    async with db.transaction():
        await db.execute("lock table posts in exclusive mode")
        publishing = asyncio.create_task(alice.publish())
        await wait_for_blocked_session(db)
        process.send_signal(signal.SIGTERM)
        await read_until(process, "Waiting for connections to close")
    post = await publishing

    assert "Traceback" not in await wait_for_clean_exit(process, within=3)
    assert await db.fetchval("select title from posts where id = $1", post["id"]) == post["title"]


async def test_a_request_that_takes_too_long_gets_a_503(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await start("service", DATABASE_URL=database_url, DATABASE_TIMEOUT_SECONDS="30")
    await wait_until_serving(process_client)

    async with db.transaction():
        await db.execute("lock table posts in access exclusive mode")
        reading = asyncio.create_task(process_client.get("/posts"))
        await wait_for_blocked_session(db)
        process.send_signal(signal.SIGTERM)
        response = await reading
        await wait_for_clean_exit(process, within=4)

    assert_problem(response, 503, "stopping")
    assert response.headers["retry-after"] == "1"


async def test_it_stops_while_passwords_are_hashed(
    start: Start, process_client: httpx.AsyncClient, environment: dict[str, str], database_url: str
) -> None:
    environment |= {"PASSWORD_MEMORY_KIB": "19456", "PASSWORD_PASSES": "2", "LOGIN_FAILURES_PER_ACCOUNT": "0"}
    process = await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)
    form = {"username": "nobody", "password": "not the right one"}

    logins = [asyncio.create_task(process_client.post("/auth/token", data=form)) for _ in range(10)]
    await asyncio.wait(logins, return_when=asyncio.FIRST_COMPLETED)
    process.send_signal(signal.SIGTERM)
    statuses = {(await login).status_code for login in logins}

    assert statuses == {401}
    assert "Traceback" not in await wait_for_clean_exit(process, within=3)


async def test_it_stops_while_the_database_does_not_respond(start: Start, process_client: httpx.AsyncClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/app"
        process = await start("service", DATABASE_URL=url, DATABASE_TIMEOUT_SECONDS="1")
        await wait_until_serving(process_client)
        reading = asyncio.create_task(process_client.get("/posts"))
        await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)

        assert_problem(await reading, 503, "database_unavailable")
        assert "Traceback" not in await wait_for_clean_exit(process, within=3)


async def test_a_worker_that_is_killed_is_replaced_even_if_the_first_start_fails(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, WORKERS="2")
    await wait_until_serving(process_client)
    killed, _ = await wait_for_workers(process)
    supervisor = psutil.Process(process.pid)
    _, hard = limits = supervisor.rlimit(psutil.RLIMIT_NOFILE)

    supervisor.rlimit(psutil.RLIMIT_NOFILE, (supervisor.num_fds(), hard))
    os.kill(killed, signal.SIGKILL)
    await read_until(process, f"Child process [{killed}] died", "cannot start a worker: ")
    supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)

    await wait_for_workers(process, without=killed)
    async with open_client(str(process_client.base_url)) as another:
        assert (await another.get("/posts")).status_code == 200
    process.send_signal(signal.SIGTERM)
    await wait_for_clean_exit(process, within=10)


async def test_workers_do_not_outlive_their_supervisor(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, WORKERS="2")
    await wait_until_serving(process_client)
    workers = [psutil.Process(pid) for pid in await wait_for_workers(process)]

    process.kill()

    assert psutil.wait_procs(workers, timeout=5)[1] == []


async def restart_in_turn(
    start: Start, start_proxy: StartProxy, environment: dict[str, str], database_url: str
) -> Counter[str]:
    """Restart two instances behind a proxy, and return how often each response came."""
    environment |= {"SECRET_KEY": os.urandom(32).hex(), "DATABASE_URL": database_url}
    ports = [free_port(), free_port()]

    async def start_instance(number: int, drain_seconds: int) -> Process:
        process = await start("service", PORT=str(ports[number]), DRAIN_SECONDS=str(drain_seconds))
        await read_until(process, "Uvicorn running")
        return process

    first, second = await start_instance(0, drain_seconds=2), await start_instance(1, drain_seconds=3)
    proxy = await start_proxy(*ports)
    responses = Counter[str]()
    async with open_client(proxy.address) as client:
        alice = await Person.register(client, "alice")

        async def read() -> None:
            response = await client.get("/posts")
            responses[f"GET {response.status_code}"] += 1

        async def write() -> None:
            response = await client.post("/posts", json={"title": "T", "content": "C"}, headers=alice.headers)
            responses[f"POST {response.status_code}"] += 1

        async def repeat(request: Callable[[], Awaitable[None]]) -> None:
            while not over.is_set():
                await request()
                await asyncio.sleep(0.05)

        over = asyncio.Event()
        load = [asyncio.create_task(repeat(request)) for request in (read, write) * 4]
        first.send_signal(signal.SIGTERM)
        await wait_for_clean_exit(first, within=6)
        first = await start_instance(0, drain_seconds=0)
        await until(lambda: has_clients(first, ports[0]), 10)
        over.set()
        await asyncio.gather(*load)

        # The proxy must not keep idle connections until the end of the drain: the service closes them while the proxy
        # is paused, and POSTs that the proxy then sends on them are lost.
        await asyncio.gather(*(read() for _ in range(16)))
        second.send_signal(signal.SIGTERM)
        await asyncio.sleep(2)
        proxy.pause()
        writes = [asyncio.create_task(write()) for _ in range(16)]
        await wait_for_clean_exit(second, within=6)
        proxy.resume()
        await asyncio.gather(*writes)
    return responses


async def has_clients(process: Process, port: int) -> bool:
    return bool(client_ports(process, port))


@pytest.mark.long
async def test_two_behind_nginx_are_restarted_in_turn_without_a_failed_request(
    start: Start, nginx: StartProxy, environment: dict[str, str], database_url: str, db: asyncpg.Connection
) -> None:
    responses = await restart_in_turn(start, nginx, environment, database_url)

    assert set(responses) == {"GET 200", "POST 201"}, responses
    assert await db.fetchval("select count(*) from posts") == responses["POST 201"]


@pytest.mark.long
async def test_two_behind_haproxy_are_restarted_in_turn_without_a_failed_request(
    start: Start, haproxy: StartProxy, environment: dict[str, str], database_url: str, db: asyncpg.Connection
) -> None:
    responses = await restart_in_turn(start, haproxy, environment, database_url)

    assert set(responses) == {"GET 200", "POST 201"}, responses
    assert await db.fetchval("select count(*) from posts") == responses["POST 201"]
