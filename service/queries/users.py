"""SQL for users."""

from typing import Final

from service.database.database import Database, Rows
from service.structs.posts import Post
from service.structs.users import User, UserProfile

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
