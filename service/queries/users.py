"""SQL for users."""

from typing import Final

import asyncpg
from msgspec import UNSET

from service.database.database import Database, Rows
from service.errors import InvalidToken, UsernameOrEmailTaken
from service.structs.auth import Credentials
from service.structs.posts import Post
from service.structs.sessions import Principal
from service.structs.users import AccountUpdate, KnownAddress, User, UserProfile

# The unique constraints decide, also between simultaneous registrations. The response is the same for all of them, so
# the statement need not tell which one was violated.
INSERT: Final = """
insert into users (username, email, password_hash)
values ($1, $2, $3)
on conflict do nothing
returning
    id,
    username,
    email
"""


async def insert(db: Database, username: str, email: str, password_hash: str) -> User | None:
    """Insert a user. Returns ``None`` if the username or the email address is taken."""
    row = await db.write_row(INSERT, username, email, password_hash)
    return User(*row) if row else None


SELECT_OWN: Final = """
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


async def select_own(db: Database, principal: Principal) -> User:
    """Read the principal's account. Raises ``InvalidToken`` if the session has ended."""
    if (user := await db.fetch_by_key(SELECT_OWN, _user, principal.session_id)) is None:
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


# Users and the first page of each user's posts, in one round trip. A user's own row comes before their posts. It has
# the username and the email address in the columns of title and content: columns of their own, repeated for every post,
# would cost a tenth of the request. The first column is the user's id, so all rows are sorted together by post id.
SELECT_PROFILE: Final = """
select
    id as user_id,
    null::bigint as post_id,
    username as title,
    email as content,
    null as date_posted
from users
where id = any($1::bigint[])
union all
select
    page.user_id,
    page.id,
    page.title,
    page.content,
    page.date_posted
from
    unnest($1::bigint[]) as wanted (user_id),
    lateral (
        select
            posts.user_id,
            posts.id,
            posts.title,
            posts.content,
            rfc3339(posts.date_posted) as date_posted
        from posts
        where posts.user_id = wanted.user_id
        order by posts.id
        limit $2
    ) as page
order by post_id nulls first
"""


async def select_profile(db: Database, user_id: int, limit: int) -> tuple[UserProfile, bool] | None:
    """Read a user with their first ``limit`` posts, and whether more posts follow."""
    return await db.fetch_by_key(SELECT_PROFILE, _profile, user_id, limit + 1)


def _profile(rows: Rows, limit_plus_one: int) -> tuple[UserProfile, bool] | None:
    if not rows:
        return None
    (user_id, _, username, email, _), *post_rows = rows
    posts = [
        Post(post_id, title, content, user_id, date_posted)
        for _, post_id, title, content, date_posted in post_rows[: limit_plus_one - 1]
    ]
    return UserProfile(user_id, username, email, posts), len(post_rows) == limit_plus_one
