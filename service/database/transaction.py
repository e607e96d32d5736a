"""Several statements that take effect together or not at all."""

from typing import Any

import asyncpg
from asyncpg import Connection

Rows = list[asyncpg.Record]


class Transaction:
    """Runs statements on one connection, one after the other. ``Database.transaction()`` begins and ends it.

    Its statements raise asyncpg's errors. After one of them has failed, PostgreSQL refuses all others.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.failure: Exception | None = None

    async def commit(self) -> None:
        """Commit, or raise the error of the statement that failed: PostgreSQL would roll back without an error."""
        if self.failure:
            raise self.failure
        await self.run("commit")

    async def run(self, statement: str, *arguments: Any) -> Rows:
        try:
            return await self._connection.fetch(statement, *arguments)
        except Exception as error:
            self.failure = error
            raise

    async def write_row(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """Run a statement that writes, and return its first row."""
        rows = await self.run(statement, *arguments)
        return rows[0] if rows else None
