"""Users in SQL."""

from typing import Final

from service.database.database import Database, Rows
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


# Users, and the first page of the posts of each, in one round trip. A user's own row comes before those of their posts,
# with name and address where these have title and content: beside every post they would cost a tenth of a profile.
# Whose a row is the first column says, so the rows of all users are sorted together, by one number.
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
    """A user with their first ``limit`` posts, and whether more posts follow."""
    return await db.fetch_by_key(SELECT_PROFILE, _profile, user_id, limit + 1)


def _profile(rows: Rows, one_more: int) -> tuple[UserProfile, bool] | None:
    if not rows:
        return None
    (user_id, _, username, email, _), *found = rows
    posts = [
        Post(post_id, title, content, user_id, date_posted)
        for _, post_id, title, content, date_posted in found[: one_more - 1]
    ]
    return UserProfile(user_id, username, email, posts), len(found) == one_more
