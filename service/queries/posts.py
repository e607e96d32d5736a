"""Posts in SQL."""

from typing import Final

import asyncpg
from msgspec import UNSET

from service.database import Database
from service.errors import InvalidToken
from service.structs.posts import Post, PostCreate, PostPage, PostUpdate

INSERT: Final = """
insert into posts (title, content, user_id)
values ($1, $2, $3)
returning
    id,
    title,
    content,
    user_id,
    date_posted
"""


async def insert(db: Database, user_id: int, post: PostCreate) -> Post:
    """Write a post for a user. Raises ``InvalidToken`` if that user has gone since their token was read."""
    try:
        row = await db.fetch_row(INSERT, post.title, post.content, user_id)
    except asyncpg.ForeignKeyViolationError as error:
        if error.constraint_name == "posts_user_id_fkey":
            raise InvalidToken from None
        raise
    assert row is not None  # noqa: S101 - an insert of values returns its row or fails
    return Post(*row)


SELECT: Final = """
select
    id,
    title,
    content,
    user_id,
    date_posted
from posts
where id = $1
"""


async def select(db: Database, post_id: int) -> Post | None:
    row = await db.fetch_row(SELECT, post_id)
    return Post(*row) if row else None


# Keyset paging: what comes after a post is found in the index, however far down the list.
SELECT_PAGE: Final = """
select
    id,
    title,
    content,
    user_id,
    date_posted
from posts
where id > $1
order by id
limit $2
"""


async def select_page(db: Database, after: int, limit: int) -> PostPage:
    """The first ``limit`` posts whose id is above ``after``."""
    # One row more than the page shows tells whether another page follows.
    rows = await db.fetch(SELECT_PAGE, after, limit + 1)
    return PostPage([Post(*row) for row in rows[:limit]], more=len(rows) > limit)


SELECT_PAGE_OF_USER: Final = """
select
    id,
    title,
    content,
    user_id,
    date_posted
from posts
where
    user_id = $1
    and id > $2
order by id
limit $3
"""


async def select_page_of_user(db: Database, user_id: int, after: int, limit: int) -> PostPage:
    """The first ``limit`` posts of a user whose id is above ``after``."""
    rows = await db.fetch(SELECT_PAGE_OF_USER, user_id, after, limit + 1)
    return PostPage([Post(*row) for row in rows[:limit]], more=len(rows) > limit)


SELECT_OWNER: Final = """
select user_id
from posts
where id = $1
"""


async def select_owner(db: Database, post_id: int) -> int | None:
    """The id of the user who owns a post."""
    row = await db.fetch_row(SELECT_OWNER, post_id)
    return row["user_id"] if row else None


# A null parameter keeps its column, so one statement serves every mix of fields, none of them included; sound because
# neither column is nullable.
UPDATE: Final = """
update posts
set
    title = coalesce($3, title),
    content = coalesce($4, content)
where
    id = $1
    and user_id = $2
returning
    id,
    title,
    content,
    user_id,
    date_posted
"""


async def update(db: Database, post_id: int, user_id: int, change: PostUpdate) -> Post | None:
    """Change one of the user's posts; ``None`` if they have no such post."""
    title = None if change.title is UNSET else change.title
    content = None if change.content is UNSET else change.content
    row = await db.fetch_row(UPDATE, post_id, user_id, title, content)
    return Post(*row) if row else None


DELETE: Final = """
delete from posts
where
    id = $1
    and user_id = $2
returning id
"""


async def delete(db: Database, post_id: int, user_id: int) -> bool:
    """Delete one of the user's posts; ``False`` if they have no such post."""
    return await db.fetch_row(DELETE, post_id, user_id) is not None
