"""SQL for the own account."""

from typing import Final

import asyncpg
from msgspec import UNSET

from service.database.database import Database, Rows
from service.errors import InvalidToken, UsernameOrEmailTaken
from service.structs.auth import Credentials
from service.structs.sessions import Principal
from service.structs.users import AccountUpdate, KnownAddress, User

SELECT: Final = """
select
    sessions.id as session_id,
    users.id,
    users.username,
    users.email
from sessions
inner join users on sessions.user_id = users.id
where
    sessions.id = any($1::bigint[])
    and sessions.expires_at > now()
"""


async def select(db: Database, principal: Principal) -> User:
    """Read the principal's account. Raises ``InvalidToken`` if the session has ended."""
    if (user := await db.fetch_by_key(SELECT, _user, principal.session_id)) is None:
        raise InvalidToken
    return user


def _user(rows: Rows) -> User | None:
    if not rows:
        return None
    [(_, user_id, username, email)] = rows
    return User(user_id, username, email)


# The session must be alive, and the password the one that was verified.
UPDATE: Final = """
update users
set
    username = coalesce($4, users.username),
    email = coalesce($5, users.email)
from sessions
where
    users.id = $1
    and users.password_hash = $2
    and sessions.id = $3
    and sessions.user_id = users.id
    and sessions.expires_at > now()
returning
    users.id,
    users.username,
    users.email
"""


async def update(db: Database, principal: Principal, verified: Credentials, change: AccountUpdate) -> User | None:
    """Update the principal's account. Raises ``UsernameOrEmailTaken``.

    Returns ``None`` if the session has ended, or the password has been changed since it was verified.
    """
    username = None if change.username is UNSET else change.username
    email = None if change.email is UNSET else change.email
    try:
        row = await db.write_row(
            UPDATE, principal.user_id, verified.password_hash, principal.session_id, username, email
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name in {"users_username_key", "users_email_key"}:
            raise UsernameOrEmailTaken from None
        raise
    return User(*row) if row else None


UPDATE_CREDENTIALS: Final = """
update users
set password_hash = $4
from sessions
where
    users.id = $1
    and users.password_hash = $2
    and sessions.id = $3
    and sessions.user_id = users.id
    and sessions.expires_at > now()
returning users.id
"""

# Its snapshot is newer than the lock of UPDATE_CREDENTIALS, so no login with the old password is left out.
DELETE_OTHER_SESSIONS: Final = """
delete from sessions
where
    user_id = $1
    and id <> $2
"""


async def update_password(db: Database, principal: Principal, verified: Credentials, new_hash: str) -> bool:
    """Change the password and end all other sessions.

    Returns ``False`` if the session has ended, or the password has been changed since it was verified.
    """
    async with db.transaction() as transaction:
        changed = await transaction.write_row(
            UPDATE_CREDENTIALS, principal.user_id, verified.password_hash, principal.session_id, new_hash
        )
        if changed:
            await transaction.write_row(DELETE_OTHER_SESSIONS, principal.user_id, principal.session_id)
    return changed is not None


# The posts and the sessions go with the user: their foreign keys say so.
DELETE: Final = """
delete from users
using sessions
where
    users.id = $1
    and users.password_hash = $2
    and sessions.id = $3
    and sessions.user_id = users.id
    and sessions.expires_at > now()
returning users.id
"""


async def delete(db: Database, principal: Principal, verified: Credentials) -> bool:
    """Delete the principal's account, with all posts and sessions.

    Returns ``False`` if the session has ended, or the password has been changed since it was verified.
    """
    deleted = await db.write_row(DELETE, principal.user_id, verified.password_hash, principal.session_id)
    return deleted is not None


SELECT_KNOWN_ADDRESSES: Final = """
select
    address,
    rfc3339(last_login_at) as last_login_at
from known_addresses
where user_id = $1
order by address
"""


async def select_known_addresses(db: Database, user_id: int) -> list[KnownAddress]:
    return [KnownAddress(*row) for row in await db.fetch(SELECT_KNOWN_ADDRESSES, user_id)]
