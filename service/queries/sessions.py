"""SQL for sessions. A session is alive while its row exists and ``expires_at`` is in the future."""

from typing import Final

from service.database.database import Database
from service.errors import InvalidToken
from service.structs.auth import Credentials, LoginAddress
from service.structs.sessions import Device, Lifetimes, Principal, RefreshTokenContent, Session

MAX_SESSIONS: Final = 100  # of one user

# The lock serialises the logins of a user with each other and with changes of the password. If the password has been
# changed since it was verified, there is no row, and no session is opened.
INSERT: Final = """
insert into sessions (user_id, expires_at, user_agent, address)
select
    users.id,
    now() + least($3::interval, $4::interval) as expires_at,
    $5 as user_agent,
    $6 as address
from users
where
    users.id = $1
    and users.password_hash = $2
for no key update of users
returning
    id as session_id,
    generation
"""

# Its snapshot is newer than the lock of INSERT, so it counts every session of the user.
DELETE_SURPLUS: Final = """
delete from sessions
where
    id in (
        select id
        from sessions
        where user_id = $1
        order by last_used_at desc, id desc
        offset $2
    )
"""


# A success resets the failures that are counted for the account from this address.
INSERT_KNOWN_ADDRESS: Final = """
with reset as (
    delete from login_failures
    where subject = $3
)

insert into known_addresses (user_id, address)
values ($1, $2)
on conflict (user_id, address) do update set last_login_at = now()
"""


async def insert(
    db: Database, account: Credentials, lifetimes: Lifetimes, device: Device, known: LoginAddress
) -> RefreshTokenContent | None:
    """Open a session. It ends those that were used least recently beyond ``MAX_SESSIONS``.

    Returns ``None`` if the account has been deleted, or its password changed, since the credentials were read.
    """
    async with db.transaction() as transaction:
        row = await transaction.write_row(
            INSERT,
            account.id,
            account.password_hash,
            lifetimes.idle,
            lifetimes.longest,
            device.user_agent,
            device.address,
        )
        if row is None:
            return None
        await transaction.write_row(DELETE_SURPLUS, account.id, MAX_SESSIONS)
        await transaction.write_row(INSERT_KNOWN_ADDRESS, account.id, known.network, known.subject)
    return RefreshTokenContent(*row)


# One statement decides, also between simultaneous refreshes: the second one waits for the first, and then finds the
# generation increased. Any token but the current one and, for a while, the one before it has been used twice: the
# session ends, because one of the two users of the token is a thief (RFC 9700, section 4.14.2).
REFRESH: Final = """
merge into sessions
using (
    select
        $1::bigint as id,
        $2::bigint as generation
) as given
    on
        sessions.id = given.id
        and sessions.expires_at > now()
when matched and sessions.generation = given.generation then
    update set
        generation = sessions.generation + 1,
        rotated_at = now(),
        last_used_at = now(),
        expires_at = least(now() + $3::interval, sessions.created_at + $4::interval),
        user_agent = $6,
        address = $7
when matched and sessions.generation = given.generation + 1 and sessions.rotated_at > now() - $5::interval then
    update set
        last_used_at = now(),
        user_agent = $6,
        address = $7
when matched then
    delete
returning
    sessions.user_id,
    sessions.id as session_id,
    sessions.generation,
    merge_action() = 'UPDATE' as is_alive
"""


async def refresh(
    db: Database, presented: RefreshTokenContent, lifetimes: Lifetimes, device: Device
) -> tuple[Principal, RefreshTokenContent | None] | None:
    """Replace a refresh token by the next one, or return the current one again during the grace period.

    Returns no token if an older one was presented, which ends the session, and ``None`` if it had ended before.
    """
    row = await db.write_row(
        REFRESH,
        presented.session_id,
        presented.generation,
        lifetimes.idle,
        lifetimes.longest,
        lifetimes.grace,
        device.user_agent,
        device.address,
    )
    if row is None:
        return None
    user_id, session_id, generation, is_alive = row
    return Principal(user_id, session_id), RefreshTokenContent(session_id, generation) if is_alive else None


SELECT_ALIVE: Final = """
select id
from sessions
where
    id = any($1::bigint[])
    and expires_at > now()
"""


async def require_alive(db: Database, principal: Principal) -> None:
    """Raise ``InvalidToken`` if the session has ended."""
    if not await db.fetch_by_key(SELECT_ALIVE, bool, principal.session_id):
        raise InvalidToken


SELECT_OF_USER: Final = """
select
    theirs.id,
    rfc3339(theirs.created_at) as created_at,
    rfc3339(theirs.last_used_at) as last_used_at,
    rfc3339(theirs.expires_at) as expires_at,
    theirs.user_agent,
    theirs.address,
    theirs.id = current.id as current
from sessions as current
inner join sessions as theirs on current.user_id = theirs.user_id
where
    current.id = $1
    and current.expires_at > now()
    and theirs.expires_at > now()
order by theirs.created_at desc, theirs.id desc
"""


async def select_of_user(db: Database, principal: Principal) -> list[Session]:
    """Read the sessions of the principal's user, newest first. Raises ``InvalidToken`` if this session has ended."""
    rows = await db.fetch(SELECT_OF_USER, principal.session_id)
    if not rows:
        raise InvalidToken
    return [Session(*row) for row in rows]


# The session of the request must be alive as well.
DELETE: Final = """
delete from sessions
using sessions as current
where
    sessions.id = $1
    and current.id = $2
    and current.expires_at > now()
    and sessions.user_id = current.user_id
    and sessions.expires_at > now()
returning sessions.id
"""


async def delete(db: Database, session_id: int, principal: Principal) -> bool:
    """End one of the user's sessions. Returns ``False`` if they have no such session."""
    if await db.write_row(DELETE, session_id, principal.session_id):
        return True
    await require_alive(db, principal)
    return False


DELETE_OF_USER: Final = """
delete from sessions
using sessions as current
where
    current.id = $1
    and current.expires_at > now()
    and sessions.user_id = current.user_id
returning sessions.id
"""


async def delete_of_user(db: Database, principal: Principal) -> None:
    """End all sessions of the user, this one too. Raises ``InvalidToken`` if this session has ended."""
    if not await db.write_row(DELETE_OF_USER, principal.session_id):
        raise InvalidToken


DELETE_ANY: Final = """
delete from sessions
where id = $1
returning user_id
"""


async def delete_any(db: Database, session_id: int) -> int | None:
    """End a session of any user. Returns the id of its user, or ``None`` if there is no such session."""
    row = await db.write_row(DELETE_ANY, session_id)
    return row["user_id"] if row else None
