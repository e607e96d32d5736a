"""The rows of the tables: inserts many at once, and reads all of them."""

from typing import Final

import asyncpg

from service.queries import users
from service.structs.sessions import Principal

# Parameters: how many, and the password hash of all of them.
INSERT_USERS: Final = """
insert into users (username, email, password_hash)
select
    'user' || number,
    'user' || number || '@example.com',
    $2
from generate_series(1, $1) as number
order by number
"""

# A session of each user, with the same id.
INSERT_SESSIONS: Final = """
insert into sessions (id, user_id, expires_at, user_agent, address)
select
    id,
    id as user_id,
    now() + interval '30 days',
    'a browser',
    '127.0.0.1'
from users
order by id
"""

# Parameters: how many, their content, and the number of users. The users' posts alternate, as in production: those of
# one user are on as many pages of the table.
INSERT_POSTS: Final = """
insert into posts (title, content, user_id)
select
    'Post ' || number,
    $2,
    1 + (number - 1) % $3
from generate_series(1, $1) as number
order by number
"""


OPEN_SESSION: Final = """
insert into sessions (user_id, expires_at, user_agent, address)
values ($1, now() + interval '1 day', '', '')
returning id
"""


async def principal_of(db: asyncpg.Connection, username: str) -> Principal:
    """Insert a user with a session."""
    user_id = await db.fetchval(users.INSERT, username, f"{username}@example.com", "hash")
    return Principal(user_id, await db.fetchval(OPEN_SESSION, user_id))


async def fill(db: asyncpg.Connection, user_id: int, count: int) -> None:
    """Insert many posts of a user without the API."""
    await db.execute(
        "insert into posts (title, content, user_id) select 'Post ' || n, 'Text', $1 from generate_series(1, $2) as n",
        user_id,
        count,
    )


async def all_rows(db: asyncpg.Connection) -> list[tuple[object, ...]]:
    """All users and all posts. Tests compare them before and after a request."""
    rows = [*await db.fetch("select * from users order by id"), *await db.fetch("select * from posts order by id")]
    return [tuple(row) for row in rows]
