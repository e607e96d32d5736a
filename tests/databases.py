"""A private database for each test."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg


def with_database(url: str, database: str) -> str:
    """The URL of another database on the same server."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{database}{'?' * bool(parts.query)}{parts.query}"


def with_role(url: str, role: str, password: str = "wrong") -> str:
    """The URL of the same database for another role."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


class Databases:
    """Creates and drops databases on the server that the tests use."""

    def __init__(self, url: str, admin: asyncpg.Pool) -> None:
        self.url = url
        self.admin = admin
        self.next: dict[str, asyncio.Task[str]] = {}
        self.dropping: list[asyncio.Task[str]] = []
        self.templates: list[str] = []

    @asynccontextmanager
    async def private(self, template: str = "template0") -> AsyncIterator[str]:
        """The URL of a new clone of ``template``.

        In the background, the clone for the next test is created and this one is dropped.
        """
        name = await (self.next.pop(template, None) or self.create(template))
        self.next[template] = asyncio.create_task(self.create(template))
        yield with_database(self.url, name)
        self.dropping.append(asyncio.create_task(self.drop(name)))

    async def create(self, template: str) -> str:
        name = f"test_{uuid.uuid4().hex}"
        # For so small a template, file_copy takes half the time of the default strategy.
        await self.admin.execute(f'create database "{name}" template "{template}" strategy file_copy')
        return name

    async def drop(self, name: str) -> str:
        await self.admin.execute(f'drop database "{name}" with (force)')
        return name

    async def close(self) -> None:
        self.dropping += [asyncio.create_task(self.drop(await created)) for created in self.next.values()]
        await asyncio.gather(*self.dropping)
        for template in self.templates:
            await self.drop(template)
