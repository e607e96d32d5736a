"""Faults between the service and PostgreSQL, one function each. It returns when the database can be used again."""

import asyncio
from typing import Final

import asyncpg

from tests.faults.database import Fault, Target, set_read_only
from tests.waiting import until

# Seconds after which the firewall forgets an idle connection. Real ones take minutes.
FIREWALL_TIMEOUT: Final = 0.2
FIREWALL_SECONDS: Final = 10

# No transaction is under way that writes, and the standby has replayed everything.
SELECT_IN_SYNC: Final = """
select
    not exists (select from pg_stat_activity where backend_xid is not null)
    and exists (select from pg_stat_replication where replay_lsn = pg_current_wal_lsn())
"""


async def failed_over(target: Target) -> None:
    """The standby becomes the primary. The old one stays, with the sessions of the service, but refuses writes."""
    assert target.forwarder
    old = target.cluster
    standby = await asyncio.to_thread(target.resources.enter_context, old.standby(target.small_volume))
    await set_read_only(old.url(), on=True)
    target.resources.push_async_callback(set_read_only, old.url(), on=False)
    admin = await asyncpg.connect(old.url())
    await until(lambda: admin.fetchval(SELECT_IN_SYNC), 30)
    await admin.close()
    admin = await asyncpg.connect(standby.url())
    await admin.execute("select pg_promote()")
    await admin.close()
    target.cluster = standby
    target.forwarder.url = standby.url()


async def idle_dropped(target: Target) -> None:
    assert target.forwarder
    dropped = 0
    for _ in range(int(FIREWALL_SECONDS / FIREWALL_TIMEOUT)):
        dropped += target.forwarder.drop(idle_for=FIREWALL_TIMEOUT)
        await asyncio.sleep(FIREWALL_TIMEOUT)
    assert dropped > 1


async def all_dropped(target: Target) -> None:
    assert target.forwarder
    assert target.forwarder.drop() > 1


FAULTS: Final = (
    Fault("failover", "failover, old sessions stay", failed_over, through_forwarder=True),
    Fault("idle_dropped", "idle connections dropped silently", idle_dropped, through_forwarder=True),
    Fault("all_dropped", "all connections dropped silently", all_dropped, through_forwarder=True),
)
