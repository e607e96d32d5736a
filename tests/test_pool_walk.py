"""A random walk over the events of a connection pool, compared with a small model of what it has lent."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import pytest

from service.database.pool import ConnectionPool
from service.database.pooled_connection import CHECK_TIMEOUT, MAX_UNCHECKED, PooledConnection, State
from service.errors import DatabaseUnavailable
from tests.faults import cluster
from tests.faults.cluster import Cluster
from tests.faults.database import SERVICE_SESSIONS, TERMINATE
from tests.faults.forwarder import Forwarder
from tests.waiting import until

SIZE = 3
STEPS = 120
TIMEOUT = 2
SLACK = 1


@pytest.fixture(scope="module")
async def postgres(cluster_data: Path) -> AsyncIterator[Cluster]:
    with cluster.started(data=cluster_data) as started:
        yield started


class Walk:
    """The events, and the model: the callers that wait and the connections that were lent."""

    def __init__(self, pool: ConnectionPool, forwarder: Forwarder, admin: asyncpg.Connection, seed: int) -> None:
        self.pool = pool
        self.forwarder = forwarder
        self.admin = admin
        self.chance = random.Random(seed)  # noqa: S311 - reproducible
        self.callers: list[asyncio.Task[PooledConnection]] = []
        self.lent: list[PooledConnection] = []
        self.history: list[str] = []

    async def step(self) -> None:
        often = [self.acquire] * 8 + [self.release, self.release_and_cancel] * 3 + [self.fail, self.use, self.wait] * 2
        event = self.chance.choice([*often, self.cancel, self.terminate, self.drop, self.refuse_writes, self.retire])
        self.history.append(event.__name__)
        await event()
        await asyncio.sleep(0)
        self.collect()
        self.compare()

    async def acquire(self) -> None:
        self.callers.append(asyncio.create_task(self.acquire_in_time()))

    async def acquire_in_time(self) -> PooledConnection:
        begun = monotonic()
        try:
            return await self.pool.acquire()
        finally:
            assert monotonic() - begun < TIMEOUT + CHECK_TIMEOUT + SLACK

    async def release(self) -> None:
        if self.lent:
            pooled = self.take()
            state = pooled.state
            self.pool.release(pooled)
            assert (pooled.state is State.CLOSED) == (state is not State.IN_USE)

    async def release_and_cancel(self) -> None:
        """Assign a connection to a caller that is cancelled before it gets it."""
        await self.release()
        if self.callers:
            self.callers[0].cancel()

    async def use(self) -> None:
        """Run a statement, and release the connection as ``Database`` does."""
        if not self.lent:
            return
        pooled = self.take()
        try:
            await pooled.connection.fetchval("select 1")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            self.pool.release_after(error, pooled)
        else:
            self.pool.release(pooled)

    async def fail(self) -> None:
        """Release a connection after an error of its statement."""
        if self.lent:
            errors = (TimeoutError(), asyncpg.UniqueViolationError(), asyncpg.ReadOnlySQLTransactionError())
            self.pool.release_after(self.chance.choice(errors), self.take())

    async def cancel(self) -> None:
        if self.callers:
            self.chance.choice(self.callers).cancel()

    async def wait(self) -> None:
        await asyncio.sleep(self.chance.choice([0.001, 0.01, 2 * MAX_UNCHECKED]))

    async def terminate(self) -> None:
        await self.admin.execute(TERMINATE)

    async def drop(self) -> None:
        self.forwarder.drop()

    async def refuse_writes(self) -> None:
        await self.admin.execute("alter database walked set default_transaction_read_only = on")
        await asyncio.sleep(0.05)
        await self.admin.execute("alter database walked reset default_transaction_read_only")

    async def retire(self) -> None:
        if self.pool.open:
            self.pool.retire(self.chance.choice(list(self.pool.open.values())))

    async def is_available(self) -> bool:
        try:
            self.pool.release(await self.pool.acquire())
        except DatabaseUnavailable:
            return False
        return True

    async def ask(self) -> tuple[PooledConnection, Any]:
        """Run a statement at once: a connection that is lent for long without one is taken for a broken one."""
        pooled = await self.pool.acquire()
        return pooled, await pooled.connection.fetchval("select 1")

    def take(self) -> PooledConnection:
        return self.lent.pop(self.chance.randrange(len(self.lent)))

    def collect(self) -> None:
        """What became of the callers."""
        for caller in [caller for caller in self.callers if caller.done()]:
            self.callers.remove(caller)
            if not caller.cancelled():
                with suppress(DatabaseUnavailable):
                    self.lent.append(caller.result())

    def compare(self) -> None:
        """The state of every connection agrees with the model."""
        idle = self.pool._idle  # noqa: SLF001 - compared with the model
        open_now = list(self.pool.open.values())
        assert len(set(map(id, self.lent))) == len(self.lent), "a connection was lent twice"
        assert {pooled.state for pooled in self.lent} <= {State.IN_USE, State.RETIRED, State.CLOSED}
        assert {pooled.state for pooled in idle} <= {State.IDLE}
        assert {pooled.state for pooled in open_now} <= set(State) - {State.CONNECTING, State.CLOSED}
        assert not {id(pooled) for pooled in idle} & {id(pooled) for pooled in self.lent}
        assert len(set(map(id, idle))) == len(idle)
        # A connection that was retired is replaced before its statement has ended only by one that accepts writes.
        assert sum(pooled.state is not State.RETIRED for pooled in open_now) <= SIZE
        usable = [pooled for pooled in idle if not pooled.connection.is_closed()]
        assert not (usable and any(not waiter.done() for waiter in self.pool.waiters)), "a caller waits needlessly"


@pytest.mark.parametrize("seed", range(4))
async def test_every_random_walk_leaves_a_pool_that_works_and_leaks_nothing(postgres: Cluster, seed: int) -> None:
    admin = await asyncpg.connect(postgres.url())
    await admin.execute("drop database if exists walked with (force)")
    await admin.execute("create database walked")
    await admin.close()
    admin = await asyncpg.connect(postgres.url("walked"))
    forwarder = Forwarder(postgres.url())
    async with forwarder.running():
        pool = ConnectionPool(forwarder.address_of(postgres.url("walked")), size=SIZE, timeout=TIMEOUT)
        walk = Walk(pool, forwarder, admin, seed)
        async with pool.lifespan():
            try:
                for _ in range(STEPS):
                    await walk.step()
                while walk.lent or walk.callers:
                    for pooled in walk.lent:
                        pool.release(pooled)
                    walk.lent.clear()
                    await asyncio.wait(walk.callers or [asyncio.create_task(asyncio.sleep(0))])
                    walk.collect()
                await until(walk.is_available, 10)
                lost = len(pool.open) - len(pool._idle)  # noqa: SLF001 - compared with the model
                forwarder.drop()
                await asyncio.sleep(2 * MAX_UNCHECKED)
                used = await asyncio.gather(*(walk.ask() for _ in range(SIZE)))
                answers = [answer for _, answer in used]
                for pooled, _ in used:
                    pool.release(pooled)
                walk.compare()
            except BaseException as error:
                error.add_note(f"seed {seed}: {' '.join(walk.history)}")
                raise

    async def all_closed() -> bool:
        return bool(await admin.fetchval(SERVICE_SESSIONS) == 0)

    await until(all_closed, 10)
    await admin.close()
    assert answers == [1] * SIZE
    assert lost == 0
