"""``SECRET_KEY`` is rotated on two services under load, as README.md says, and nobody is logged out."""

import asyncio
import secrets
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle, islice

import httpx
import pytest
from msgspec import Struct, field

from tests.people import Person, Tokens
from tests.processes import Start, free_port, wait_for_clean_exit, wait_until_serving
from tests.serving import open_client

USERS = 4

# SECRET_KEY and SECRET_KEY_PREVIOUS in each step. First every service verifies the new key, then every one signs with
# it, and at last the old one is forgotten.
OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)
STEPS = ((OLD, ""), (OLD, NEW), (NEW, OLD), (NEW, ""))


class Service(Struct):
    """One of the two services, and the client that leads to it."""

    client: httpx.AsyncClient
    port: int
    process: Process | None = None

    async def restart(self, start: Start, database_url: str, key: str, previous: str) -> None:
        if self.process:
            self.process.terminate()
            await wait_for_clean_exit(self.process, within=20)
        self.process = await start(
            "service", DATABASE_URL=database_url, PORT=str(self.port), SECRET_KEY=key, SECRET_KEY_PREVIOUS=previous
        )
        await wait_until_serving(self.client)


class Balancer(Struct):
    """Sends each request to the other service, and again if the service is being restarted, as a proxy does."""

    services: list[Service]
    responses: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    async def send(self, method: str, path: str, **options: object) -> httpx.Response:
        async with asyncio.timeout(30):
            for service in islice(cycle(self.services), self.responses % 2, None):
                with suppress(httpx.TransportError):
                    response = await service.client.request(method, path, **options)  # type: ignore[arg-type]
                    if response.status_code != 503:
                        self.responses += 1
                        if not response.is_success:
                            self.refused.append((f"{method} {path}", response.text))
                        return response
                await asyncio.sleep(0.01)
        raise AssertionError

    async def serve_more(self, requests: int) -> None:
        """Wait until the load has had some more responses."""
        last = self.responses + requests
        async with asyncio.timeout(30):
            while self.responses < last and not self.refused:
                await asyncio.sleep(0.01)

    async def use(self, tokens: Tokens, stopped: asyncio.Event) -> Tokens:
        """Read, write and refresh until the end of the load or the first refusal."""
        while not (stopped.is_set() or self.refused):
            await self.send("GET", "/users/me", headers=tokens.headers)
            await self.send("POST", "/posts", json={"title": "T", "content": "C"}, headers=tokens.headers)
            form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh}
            response = await self.send("POST", "/auth/token", data=form)
            if response.is_success:
                tokens = Tokens.received(tokens.client, response)
            await asyncio.sleep(0.02)
        return tokens

    @asynccontextmanager
    async def load(self, people: list[Tokens]) -> AsyncIterator[None]:
        """Use the services as all these people until the end of the block. Their tokens are replaced."""
        stopped = asyncio.Event()
        users = [asyncio.create_task(self.use(tokens, stopped)) for tokens in people]
        try:
            yield
        finally:
            stopped.set()
            people[:] = await asyncio.gather(*users)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_rotation_of_the_key_under_load_logs_nobody_out(start: Start, database_url: str) -> None:
    ports = [free_port(), free_port()]
    async with (
        open_client(f"http://127.0.0.1:{ports[0]}") as first,
        open_client(f"http://127.0.0.1:{ports[1]}") as second,
    ):
        services = [Service(first, ports[0]), Service(second, ports[1])]
        for service in services:
            await service.restart(start, database_url, *STEPS[0])
        people = [await Tokens.log_in(await Person.register(first, f"user{number}")) for number in range(USERS)]
        before = people[0]

        balancer = Balancer(services)
        for key, previous in STEPS[1:]:
            async with balancer.load(people):
                for service in services:
                    await service.restart(start, database_url, key, previous)
                    await balancer.serve_more(40)

        assert balancer.refused == []
        for tokens in people:
            assert (await second.get("/users/me", headers=tokens.headers)).json()["id"] == people.index(tokens) + 1
        # The old key is no longer valid.
        assert (await second.get("/users/me", headers=before.headers)).status_code == 401
