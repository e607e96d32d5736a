"""Deletes expired sessions, failed logins, known addresses and idempotency keys in the background."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

from service.database.database import Database
from service.errors import DatabaseUnavailable
from service.queries import expired
from service.security.logins import REGISTRATION_WINDOW
from service.structs.auth import LoginRules

# Seconds between two runs of a process: random, so that processes do not run together.
_INTERVAL: Final = (60, 180)

BATCH_ROWS: Final = 500

# Seconds between two batches, in which other statements have the database for themselves.
_PAUSE: Final = 0.05


class Cleanup:
    """Deletes expired rows, a batch at a time. What expires is never used again, so nothing waits for this."""

    def __init__(self, db: Database, rules: LoginRules) -> None:
        window = max(rules.window, REGISTRATION_WINDOW)
        self._deletions: Sequence[Callable[[], Awaitable[int]]] = (
            partial(expired.delete_sessions, db, BATCH_ROWS),
            partial(expired.delete_login_failures, db, BATCH_ROWS, window),
            partial(expired.delete_known_addresses, db, BATCH_ROWS, rules.address_known_for),
            partial(expired.delete_idempotency_keys, db, BATCH_ROWS),
        )

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Run until the end of the block."""
        running = asyncio.create_task(self._run_repeatedly())
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def _run_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*_INTERVAL))  # noqa: S311 - nothing secret
            with suppress(DatabaseUnavailable):  # it has been logged; the next run continues
                await self.run()

    async def run(self) -> None:
        """Delete all rows that have expired. Raises ``DatabaseUnavailable``."""
        for delete in self._deletions:
            deleted = BATCH_ROWS
            while deleted == BATCH_ROWS:
                deleted = await delete()
                await asyncio.sleep(_PAUSE)
