"""SQL that deletes expired rows, a bounded number at a time.

Rows that are locked are skipped, so any number of processes may do this.
"""

from datetime import timedelta
from typing import Final

from service.database.database import Database

DELETE_SESSIONS: Final = """
delete from sessions
where
    id in (
        select id
        from sessions
        where expires_at <= now()
        order by expires_at, id
        limit $1
        for update skip locked
    )
returning id
"""


async def delete_sessions(db: Database, limit: int) -> int:
    """Delete up to ``limit`` sessions that have expired. Returns how many."""
    return len(await db.run(DELETE_SESSIONS, limit))


DELETE_LOGIN_FAILURES: Final = """
delete from login_failures
where
    subject in (
        select subject
        from login_failures
        where last_failed_at <= now() - $2::interval
        order by last_failed_at, subject
        limit $1
        for update skip locked
    )
returning subject
"""


async def delete_login_failures(db: Database, limit: int, window: timedelta) -> int:
    """Delete up to ``limit`` subjects whose last failure is older than ``window``. Returns how many."""
    return len(await db.run(DELETE_LOGIN_FAILURES, limit, window))


DELETE_KNOWN_ADDRESSES: Final = """
delete from known_addresses
where
    (user_id, address) in (
        select
            user_id,
            address
        from known_addresses
        where last_login_at <= now() - $2::interval
        order by last_login_at, user_id, address
        limit $1
        for update skip locked
    )
returning user_id
"""


async def delete_known_addresses(db: Database, limit: int, known_for: timedelta) -> int:
    """Delete up to ``limit`` addresses whose last login is older than ``known_for``. Returns how many."""
    return len(await db.run(DELETE_KNOWN_ADDRESSES, limit, known_for))


DELETE_IDEMPOTENCY_KEYS: Final = """
delete from idempotency_keys
where
    (user_id, key) in (
        select
            user_id,
            key
        from idempotency_keys
        where created_at <= now() - interval '24 hours'
        order by created_at, user_id, key
        limit $1
        for update skip locked
    )
returning user_id
"""


async def delete_idempotency_keys(db: Database, limit: int) -> int:
    """Delete up to ``limit`` idempotency keys that have expired. Returns how many."""
    return len(await db.run(DELETE_IDEMPOTENCY_KEYS, limit))
