"""Faults of a pooler between the service and PostgreSQL, one function each. It returns when the pooler works again."""

import asyncio
import signal
from typing import Final

from tests.faults.database import Fault, Target, terminated
from tests.faults.database import restarted as postgresql_restarted


async def killed(target: Target) -> None:
    assert target.pooler
    target.pooler.stop(signal.SIGKILL)
    await asyncio.sleep(2)
    await asyncio.to_thread(target.pooler.start)


async def restarted(target: Target) -> None:
    assert target.pooler
    await asyncio.to_thread(target.pooler.stop, signal.SIGTERM)
    await asyncio.to_thread(target.pooler.start)


FAULTS: Final = (
    Fault("pooler_killed", "kill -9 of PgBouncer, back after 2 s", killed, behind_pooler=True),
    Fault("pooler_restarted", "PgBouncer restarted", restarted, behind_pooler=True),
    Fault("pooler_terminated", "every session of PgBouncer terminated", terminated, behind_pooler=True),
    Fault("pooler_database", "fast restart of PostgreSQL behind PgBouncer", postgresql_restarted, behind_pooler=True),
)
