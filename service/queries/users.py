"""Users in SQL."""

from typing import Final

from service.database import Database, Rows
from service.structs.posts import Post
from service.structs.users import User, UserProfile

# The unique constraints decide, also between two registrations at the same moment; which of them stood in the way is
# the same answer to the client.
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
    """Register a user; ``None`` if the name or the address is taken."""
    row = await db.write_row(INSERT, username, email, password_hash)
    return User(*row) if row else None


SELECT: Final = """
select
    id,
    username,
    email
from users
where id = any($1::bigint[])
"""


async def select(db: Database, user_id: int) -> User | None:
    return await db.fetch_by_key(SELECT, _user, user_id)


def _user(rows: Rows) -> User | None:
    return User(*rows[0]) if rows else None


# Users and the first page of the posts of each in one round trip: a user's columns stand in every row, and a user
# without posts has one row whose post is null.
SELECT_PROFILE: Final = """
select
    users.id,
    users.username,
    users.email,
    page.id as post_id,
    page.title,
    page.content,
    page.user_id,
    page.date_posted
from users
left join lateral (
    select
        posts.id,
        posts.title,
        posts.content,
        posts.user_id,
        rfc3339(posts.date_posted) as date_posted
    from posts
    where posts.user_id = users.id
    order by posts.id
    limit $2
) as page on true
where users.id = any($1::bigint[])
order by users.id, page.id
"""


async def select_profile(db: Database, user_id: int, limit: int) -> tuple[UserProfile, bool] | None:
    """A user with their first ``limit`` posts, and whether more posts follow."""
    return await db.fetch_by_key(SELECT_PROFILE, _profile, user_id, limit + 1)


def _profile(rows: Rows, one_more: int) -> tuple[UserProfile, bool] | None:
    if not rows:
        return None
    user_id, username, email, *_ = rows[0]
    posts = [Post(*row[3:]) for row in rows[: one_more - 1] if row[3] is not None]
    return UserProfile(user_id, username, email, posts), len(rows) == one_more
