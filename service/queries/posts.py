"""SQL for posts."""

from typing import Final

import asyncpg
from msgspec import UNSET

from service.database.database import Database, Rows, coalesced
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
    rfc3339(date_posted) as date_posted
"""

# A merge that never matches is an insert that can return the number of each given row. Rows whose user no longer exists
# are left out: they are then inserted alone, and fail alone. The order of the rows is kept.
INSERT_MANY: Final = """
with new as (
    select
        given.title,
        given.content,
        given.user_id,
        given.number
    from
        unnest($1::text[], $2::text[], $3::bigint[])
        with ordinality as given (title, content, user_id, number)
    inner join users on given.user_id = users.id
    order by given.number
)

merge into posts
using new on false
when not matched then
    insert (title, content, user_id)
    values (new.title, new.content, new.user_id)
returning
    new.number,
    posts.id,
    posts.title,
    posts.content,
    posts.user_id,
    rfc3339(posts.date_posted) as date_posted
"""


async def insert(db: Database, user_id: int, post: PostCreate) -> Post:
    """Insert a post of a user. Raises ``InvalidToken`` if the user no longer exists."""
    try:
        row = await db.write(INSERT, INSERT_MANY, post.title, post.content, user_id)
    except asyncpg.ForeignKeyViolationError as error:
        if error.constraint_name == "posts_user_id_fkey":
            raise InvalidToken from None
        raise
    assert row is not None  # noqa: S101 - an insert of values either returns its row or fails
    return Post(*row)


SELECT: Final = """
select
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted
from posts
where id = any($1::bigint[])
"""


async def select(db: Database, post_id: int) -> Post | None:
    return await db.fetch_by_key(SELECT, _post, post_id)


def _post(rows: Rows) -> Post | None:
    return Post(*rows[0]) if rows else None


# Keyset paging: the index finds the start of a page, however far down the list it is.
SELECT_PAGE: Final = """
select
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted
from posts
where id > $1
order by id
limit $2
"""


@coalesced
async def select_page(db: Database, after: int, limit: int) -> PostPage:
    """Read up to ``limit`` posts whose id is above ``after``."""
    # One row more than the page holds shows whether another page follows.
    rows = await db.fetch(SELECT_PAGE, after, limit + 1)
    return PostPage([Post(*row) for row in rows[:limit]], more=len(rows) > limit)


SELECT_PAGE_OF_USER: Final = """
select
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted
from posts
where
    user_id = $1
    and id > $2
order by id
limit $3
"""


@coalesced
async def select_page_of_user(db: Database, user_id: int, after: int, limit: int) -> PostPage:
    """Read up to ``limit`` posts of a user whose id is above ``after``."""
    rows = await db.fetch(SELECT_PAGE_OF_USER, user_id, after, limit + 1)
    return PostPage([Post(*row) for row in rows[:limit]], more=len(rows) > limit)


SELECT_OWNER: Final = """
select
    id,
    user_id
from posts
where id = any($1::bigint[])
"""


async def select_owner(db: Database, post_id: int) -> int | None:
    """Read the id of the user who owns a post."""
    return await db.fetch_by_key(SELECT_OWNER, _owner, post_id)


def _owner(rows: Rows) -> int | None:
    return rows[0]["user_id"] if rows else None


# A null parameter keeps its column, so one statement serves every combination of fields, including none. This is
# correct because neither column is nullable.
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
    rfc3339(date_posted) as date_posted
"""

# A row that another session has locked is left out: its update is then made alone, and does not block the others.
UPDATE_MANY: Final = """
with unlocked as (
    select
        posts.id,
        new.title,
        new.content,
        new.number
    from
        unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[])
        with ordinality as new (id, user_id, title, content, number)
    inner join posts
        on
            new.id = posts.id
            and new.user_id = posts.user_id
    for update of posts skip locked
)

update posts
set
    title = coalesce(unlocked.title, posts.title),
    content = coalesce(unlocked.content, posts.content)
from unlocked
where posts.id = unlocked.id
returning
    unlocked.number,
    posts.id,
    posts.title,
    posts.content,
    posts.user_id,
    rfc3339(posts.date_posted) as date_posted
"""


async def update(db: Database, post_id: int, user_id: int, change: PostUpdate) -> Post | None:
    """Update one of the user's posts. Returns ``None`` if they have no such post."""
    title = None if change.title is UNSET else change.title
    content = None if change.content is UNSET else change.content
    row = await db.write(UPDATE, UPDATE_MANY, post_id, user_id, title, content, key=post_id)
    return Post(*row) if row else None


DELETE: Final = """
delete from posts
where
    id = $1
    and user_id = $2
returning id
"""


async def delete(db: Database, post_id: int, user_id: int) -> bool:
    """Delete one of the user's posts. Returns ``False`` if they have no such post."""
    return await db.write_row(DELETE, post_id, user_id) is not None
