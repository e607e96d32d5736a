"""curl, requests, httpx, aiohttp, http.client, Chromium, nginx and HAProxy, each as its users run it."""

import asyncio
import os
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import chain, product
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import pytest
from msgspec import Struct

from tests.databases import Databases
from tests.forks import ForkServer
from tests.http_clients import CLIENTS, CONNECTIONS, Send, httpx_client
from tests.people import Person
from tests.processes import (
    Start,
    client_ports,
    environment_of,
    free_port,
    read_output,
    read_until,
    stopping,
    wait_until_serving,
)
from tests.proxies import StartProxy
from tests.serving import open_client
from tests.waiting import until

if TYPE_CHECKING:  # a slow import
    from playwright.async_api import Page

IDLE_SECONDS = (1, 3, 6)
# nginx accepts up to 1 MiB by default.
ONE_MB = b" " * 1_000_000
EIGHT_MB = b" " * 8_000_000


class Service(Struct):
    """A running service with two workers."""

    process: Process
    port: int
    database_url: str


@pytest.fixture(scope="module")
async def shared_service(
    databases: Databases, template: str, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """A service for all tests, whose log contains no traceback at the end."""
    async with databases.private(template) as url:
        environment = environment_of(tmp_path_factory.mktemp("service")) | {"DATABASE_URL": url, "WORKERS": "2"}
        async with stopping(lambda *arguments: fork_server.fork(arguments, environment)) as start:
            process = await start("service")
            output = asyncio.create_task(read_all(process))  # a full pipe would block the service
            async with open_client(f"http://127.0.0.1:{environment['PORT']}") as client:
                await wait_until_serving(client)
            yield Service(process, int(environment["PORT"]), url)
            process.terminate()
            assert "Traceback" not in await asyncio.wait_for(output, 30)


async def read_all(process: Process) -> str:
    assert process.stdout
    return (await process.stdout.read()).decode()


@pytest.fixture
async def service(shared_service: Service) -> Service:
    """The service with an empty database."""
    db = await asyncpg.connect(shared_service.database_url)
    await db.execute("delete from users")
    await db.close()
    return shared_service


@pytest.fixture
async def process_client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(f"http://127.0.0.1:{service.port}") as client:
        yield client


@pytest.fixture
async def alice(process_client: httpx.AsyncClient) -> Person:
    return await Person.register(process_client, "alice")


@pytest.fixture
async def instances(start: Start, database_url: str) -> AsyncIterator[dict[int, Process]]:
    """Two services by their ports, whose logs contain no traceback at the end."""
    ports = [free_port(), free_port()]
    processes = [await start("service", DATABASE_URL=database_url, PORT=str(port)) for port in ports]
    for process in processes:
        await read_until(process, "Uvicorn running")
    yield dict(zip(ports, processes, strict=True))
    for process in processes:
        process.terminate()
    for process in processes:
        assert "Traceback" not in await read_output(process)


class Pool(Struct):
    """A client whose connections are idle for some seconds between two bursts of requests."""

    name: str
    idle_seconds: int
    send: Send

    async def burst(self, number: int) -> list[str]:
        """Read and write on all connections at once; returns the titles of the new posts."""
        titles = [f"{self.name}, {self.idle_seconds} s, {number}, {index}" for index in range(CONNECTIONS)]
        posts = [self.send({"title": title, "content": "C"}) for title in titles]
        reads = [self.send(None) for _ in titles]
        statuses = await asyncio.gather(*posts, *reads)
        assert statuses == [201] * len(posts) + [200] * len(reads), self.name
        return titles

    async def second_burst(self) -> list[str]:
        await asyncio.sleep(self.idle_seconds)
        return await self.burst(2)


async def assert_idle_connections_are_kept(pools: list[Pool], services: dict[int, Process], database_url: str) -> None:
    """Send two bursts through each pool. No request may fail, every post must be stored once."""

    def connected() -> set[int]:
        return {client for port, process in services.items() for client in client_ports(process, port)}

    async def connected_for_long() -> set[int]:
        """Leaves out the connections of HAProxy's health checks."""
        now = connected()
        await asyncio.sleep(0.5)
        return now & connected()

    first = await asyncio.gather(*(pool.burst(1) for pool in pools))
    second_bursts = asyncio.gather(*(pool.second_burst() for pool in pools))
    before = await connected_for_long()
    second = await second_bursts
    after = connected()
    db = await asyncpg.connect(database_url)
    stored = await db.fetch("select title from posts")
    await db.close()

    assert len(before) > len(pools)
    assert before - after == set()
    assert sorted(row["title"] for row in stored) == sorted(chain(*first, *second))


@pytest.mark.long
async def test_idle_connections_of_client_pools_are_kept_and_every_post_is_stored_once(
    service: Service, process_client: httpx.AsyncClient, alice: Person
) -> None:
    async with AsyncExitStack() as stack:
        pools = [
            Pool(name, seconds, await stack.enter_async_context(client(str(process_client.base_url), alice.headers)))
            for (name, client), seconds in product(CLIENTS.items(), IDLE_SECONDS)
        ]
        await assert_idle_connections_are_kept(pools, {service.port: service.process}, service.database_url)


@pytest.mark.long
async def test_idle_connections_of_proxies_are_kept_and_every_post_is_stored_once(
    instances: dict[int, Process], nginx: StartProxy, haproxy: StartProxy, database_url: str
) -> None:
    async with AsyncExitStack() as stack:
        pools = []
        for seconds in IDLE_SECONDS:
            proxies = {
                "nginx": await nginx(*instances, keepalive_timeout="60s"),  # its default
                "haproxy": await haproxy(*instances),
            }
            for name, proxy in proxies.items():
                async with open_client(proxy.address) as client:
                    person = await Person.register(client, f"{name}{seconds}")
                send = await stack.enter_async_context(httpx_client(proxy.address, person.headers))
                pools.append(Pool(name, seconds, send))
        await assert_idle_connections_are_kept(pools, instances, database_url)


async def test_proxies_forward_an_early_response(
    instances: dict[int, Process], nginx: StartProxy, haproxy: StartProxy
) -> None:
    request = b"POST /posts HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(ONE_MB) + ONE_MB

    async def upload(address: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(address).port)
        writer.write(request)
        head = await reader.readline()
        writer.close()
        return head[9:12]

    statuses = Counter[bytes]()
    for proxy in (await nginx(*instances), await haproxy(*instances)):
        statuses.update(await asyncio.gather(*(upload(proxy.address) for _ in range(50))))

    assert statuses == {b"401": 100}


class Transfer(Struct):
    """What curl reports about one request."""

    http_code: int
    http_version: str
    num_connects: int
    size_upload: int
    time_total: float
    exitcode: int
    errormsg: str | None


async def run_curl(curl: str, *requests: list[str], sent: bytes = b"") -> list[Transfer]:
    """One run of curl with several requests; ``sent`` is its standard input."""
    arguments: list[str] = []
    for request in requests:
        arguments += ["--next"] * bool(arguments)
        arguments += ["--silent", "--noproxy", "*", "--output", os.devnull, "--write-out", "%{json}\\n", *request]
    with tempfile.TemporaryFile() as file:  # curl may end before it has read everything
        file.write(sent)
        file.seek(0)
        process = await asyncio.create_subprocess_exec(curl, *arguments, stdin=file, stdout=PIPE)
        printed, _ = await process.communicate()
    return [msgspec.json.decode(line, type=Transfer) for line in printed.splitlines()]


@pytest.fixture
def authorized(alice: Person) -> list[str]:
    """Options of curl for a request with a token and a JSON body."""
    return ["--header", f"Authorization: Bearer {alice.token}", "--header", "Content-Type: application/json"]


async def test_curl_sends_its_requests_on_one_connection(
    curl: str, process_client: httpx.AsyncClient, alice: Person, authorized: list[str]
) -> None:
    post = await alice.publish()
    posts, one = f"{process_client.base_url}/posts", f"{process_client.base_url}/posts/{post['id']}"

    transfers = await run_curl(
        curl,
        [posts, "--output", os.devnull, one],
        ["--http2", one],
        ["--http2", *authorized, "--data", '{"title": "Created by curl", "content": "C"}', posts],
        ["--request", "PATCH", *authorized, "--data", '{"title": "Edited by curl"}', one],
        ["--head", one],
        ["--request", "OPTIONS", posts],
        ["--request", "DELETE", *authorized, one],
        [one],
        [posts],
    )

    assert [transfer.http_code for transfer in transfers] == [200, 200, 200, 201, 200, 200, 204, 204, 404, 200]
    assert [transfer.num_connects for transfer in transfers] == [1, *[0] * 9]
    assert {transfer.http_version for transfer in transfers} == {"1.1"}
    [left] = (await process_client.get("/posts")).json()
    assert left["title"] == "Created by curl"


@pytest.mark.parametrize(
    "options",
    [
        ["--header", "Expect: 100-continue", "--expect100-timeout", "30", "--data-binary", "@-"],
        ["--upload-file", "-", "--request", "POST"],
    ],
    ids=["waits for 100", "in chunks"],
)
async def test_curl_uploads_a_large_body(
    curl: str, process_client: httpx.AsyncClient, authorized: list[str], options: list[str]
) -> None:
    content = "Large. " * 128_000
    post = msgspec.json.encode({"title": "T", "content": content})

    [transfer] = await run_curl(curl, [*authorized, *options, f"{process_client.base_url}/posts"], sent=post)

    assert transfer.http_code == 201, transfer
    assert transfer.time_total < 15
    [stored] = (await process_client.get("/posts")).json()
    assert stored["content"] == content


async def test_curl_with_expect_sends_no_body_after_an_error(
    curl: str, process_client: httpx.AsyncClient, authorized: list[str]
) -> None:
    url = f"{process_client.base_url}/posts"
    upload = ["--header", "Expect: 100-continue", "--expect100-timeout", "30", "--data-binary", "@-", url]

    [unauthorized] = await run_curl(curl, upload, sent=EIGHT_MB)
    [too_large] = await run_curl(curl, [*authorized, *upload], sent=EIGHT_MB)

    assert (unauthorized.http_code, unauthorized.size_upload) == (401, 0)
    assert (too_large.http_code, too_large.size_upload) == (413, 0)


async def test_curl_speaks_http_1_0(curl: str, process_client: httpx.AsyncClient, authorized: list[str]) -> None:
    posts = f"{process_client.base_url}/posts"

    transfers = await run_curl(
        curl,
        ["--http1.0", *authorized, "--data", '{"title": "T", "content": "C"}', posts],
        ["--http1.0", "--head", posts],
        ["--http1.0", posts],
    )

    assert [transfer.http_code for transfer in transfers] == [201, 200, 200]
    assert [transfer.num_connects for transfer in transfers] == [1, 1, 1]
    # The service closes the connection after the response, not at the keep-alive timeout.
    assert max(transfer.time_total for transfer in transfers) < 4
    assert len((await process_client.get("/posts")).json()) == 1


async def test_curl_reports_an_early_response(
    curl: str, process_client: httpx.AsyncClient, authorized: list[str]
) -> None:
    url = f"{process_client.base_url}/posts"
    with_length = ["--header", "Expect:", "--data-binary", "@-", url]
    in_chunks = ["--header", "Expect:", "--upload-file", "-", "--request", "POST", url]
    uploads = [with_length, in_chunks, [*authorized, *with_length], [*authorized, *in_chunks]]

    runs = await asyncio.gather(*(run_curl(curl, upload, sent=EIGHT_MB) for upload in uploads * 5))

    reported = Counter((transfer.http_code, transfer.exitcode) for [transfer] in runs)
    assert reported == {(401, 0): 10, (413, 0): 10}


async def test_clients_get_an_early_response(process_client: httpx.AsyncClient, alice: Person) -> None:
    statuses = Counter[tuple[str, int]]()
    for (name, client), headers in product(CLIENTS.items(), [{}, alice.headers]):
        async with client(str(process_client.base_url), headers) as send:
            uploads = (send({"title": "T", "content": "x" * 8_000_000}) for _ in range(CONNECTIONS))
            statuses.update((name, status) for status in await asyncio.gather(*uploads))

    assert statuses == dict.fromkeys(product(CLIENTS, [401, 413]), CONNECTIONS)


@pytest.mark.long
async def test_chromium_uses_the_api_after_its_connections_were_idle(
    page_with_profile: "Page", service: Service, process_client: httpx.AsyncClient
) -> None:
    page = page_with_profile
    failures: list[str] = []
    page.on("requestfailed", lambda request: failures.append(f"{request.url}: {request.failure}"))
    await page.add_init_script(NO_SWAGGER_UI)
    await page.goto(f"{process_client.base_url}/docs")
    loaded = client_ports(service.process, service.port)
    await page.evaluate(PRECONNECT)
    await until(lambda: has_more_clients(service, loaded), 10)

    before = client_ports(service.process, service.port)
    await asyncio.sleep(6)
    after = client_ports(service.process, service.port)
    statuses = await page.evaluate(SESSION)

    assert before - after == set()
    assert statuses == [200, 201, 200, 201, 200]
    assert failures == []
    [post] = (await process_client.get("/posts")).json()
    assert post["title"] == "From Chromium"


async def has_more_clients(service: Service, known: set[int]) -> bool:
    return bool(client_ports(service.process, service.port) - known)


# The page loads its files, and then stays empty: Swagger UI takes seconds to show it.
NO_SWAGGER_UI = 'Object.defineProperty(window, "SwaggerUIBundle", { get: () => () => {}, set: () => {} });'

# Chromium does not use the page's connections for requests without credentials, so it opens another one.
PRECONNECT = """() => {
    const link = document.createElement("link");
    link.rel = "preconnect";
    link.href = location.origin;
    link.crossOrigin = "anonymous";
    document.head.append(link);
}"""

# The first request is sent on the connection that PRECONNECT opened.
SESSION = """async () => {
    const statuses = [];
    const send = async (path, options) => {
        const response = await fetch(path, options);
        statuses.push(response.status);
        return await response.json();
    };
    const json = {"Content-Type": "application/json"};
    const account = {username: "alice", email: "alice@example.com", password: "correct horse"};
    await send("/posts", {credentials: "omit"});
    await send("/auth/register", {method: "POST", headers: json, body: JSON.stringify(account)});
    const grant = await send("/auth/token", {method: "POST", body: new URLSearchParams(account)});
    const headers = {...json, Authorization: `Bearer ${grant.access_token}`};
    const post = {title: "From Chromium", content: "C"};
    await send("/posts", {method: "POST", headers, body: JSON.stringify(post)});
    await send("/users/me", {headers});
    return statuses;
}"""
