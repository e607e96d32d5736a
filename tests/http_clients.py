"""HTTP clients that keep a pool of connections, behind one interface."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.client import HTTPConnection
from io import BytesIO
from queue import SimpleQueue
from urllib.parse import urlsplit

import httpx
import msgspec

from tests.people import Json

# Sends a post to /posts, or reads the posts if it gets None; returns the status.
Send = Callable[[Json | None], Awaitable[int]]
Client = Callable[[str, dict[str, str]], AbstractAsyncContextManager[Send]]

CONNECTIONS = 4


@asynccontextmanager
async def requests_session(address: str, headers: dict[str, str]) -> AsyncIterator[Send]:
    import requests  # noqa: PLC0415 - a slow import

    def send(post: Json | None) -> int:
        response = session.request("POST" if post else "GET", f"{address}/posts", json=post, headers=headers)
        return response.status_code

    with requests.Session() as session, ThreadPoolExecutor(CONNECTIONS) as threads:
        yield lambda post: asyncio.get_running_loop().run_in_executor(threads, send, post)


@asynccontextmanager
async def httpx_client(address: str, headers: dict[str, str]) -> AsyncIterator[Send]:
    async def send(post: Json | None) -> int:
        response = await client.request("POST" if post else "GET", "/posts", json=post)
        return response.status_code

    # By default httpx closes a connection after 5 s.
    limits = httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=60)
    async with httpx.AsyncClient(base_url=address, headers=headers, limits=limits, timeout=30) as client:
        yield send


@asynccontextmanager
async def aiohttp_session(address: str, headers: dict[str, str]) -> AsyncIterator[Send]:
    import aiohttp  # noqa: PLC0415 - a slow import

    async def send(post: Json | None) -> int:
        # A file, because aiohttp warns of large bodies as bytes.
        body = BytesIO(msgspec.json.encode(post)) if post else None
        fields = {"Content-Type": "application/json"}
        async with session.request("POST" if post else "GET", "/posts", data=body, headers=fields) as response:
            await response.read()
            return response.status

    connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=60)
    async with aiohttp.ClientSession(address, headers=headers, connector=connector) as session:
        yield send


@asynccontextmanager
async def http_client(address: str, headers: dict[str, str]) -> AsyncIterator[Send]:
    """The client of Python's library. It does not notice that the server has closed a connection."""
    idle = SimpleQueue[HTTPConnection]()
    for _ in range(CONNECTIONS):
        idle.put(HTTPConnection(urlsplit(address).netloc, timeout=30))

    def send(post: Json | None) -> int:
        connection = idle.get()
        try:
            if post:
                body, fields = msgspec.json.encode(post), {"Content-Type": "application/json"}
                connection.request("POST", "/posts", body, headers | fields)
            else:
                connection.request("GET", "/posts", headers=headers)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            idle.put(connection)

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        yield lambda post: asyncio.get_running_loop().run_in_executor(threads, send, post)
        while not idle.empty():
            idle.get().close()


CLIENTS: dict[str, Client] = {
    "requests": requests_session,
    "httpx": httpx_client,
    "aiohttp": aiohttp_session,
    "http.client": http_client,
}
