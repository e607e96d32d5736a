"""SQL for posts."""

from typing import Final

import asyncpg
from msgspec import UNSET

from service.database.database import Database, Rows, coalesced
from service.errors import InvalidToken
from service.structs.posts import Post, PostCreate, PostPage, PostUpdate
from service.structs.sessions import Principal

# The statement finds the session alive, or inserts nothing. The owner is the user of the session.
INSERT: Final = """
insert into posts (title, content, user_id)
select
    $1 as title,
    $2 as content,
    user_id
from sessions
where
    id = $3
    and expires_at > now()
returning
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted
"""

# A merge that never matches is an insert that can return the number of each given row. Rows whose session has ended are
# left out. The order of the rows is kept.
INSERT_MANY: Final = """
with new as (
    select
        given.title,
        given.content,
        sessions.user_id,
        given.number
    from
        unnest($1::text[], $2::text[], $3::bigint[])
        with ordinality as given (title, content, session_id, number)
    inner join sessions
        on
            given.session_id = sessions.id
            and sessions.expires_at > now()
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


async def insert(db: Database, principal: Principal, post: PostCreate) -> Post:
    """Insert a post of the principal's user. Raises ``InvalidToken`` if the session has ended."""
    try:
        row = await db.write(INSERT, INSERT_MANY, post.title, post.content, principal.session_id)
    except asyncpg.ForeignKeyViolationError as error:  # the user is being deleted
        if error.constraint_name != "posts_user_id_fkey":
            raise
        row = None
    if row is None:
        raise InvalidToken
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


# Every pair has a row, with nulls for a post that does not exist and for a session that has ended.
SELECT_OWNER: Final = """
select
    given.post_id,
    given.session_id,
    posts.user_id as owner_id,
    sessions.user_id
from unnest($1::bigint[], $2::bigint[]) as given (post_id, session_id)
left join posts on given.post_id = posts.id
left join sessions
    on
        given.session_id = sessions.id
        and sessions.expires_at > now()
"""


async def select_owner(db: Database, post_id: int, principal: Principal) -> int | None:
    """Read the id of the user who owns a post. Raises ``InvalidToken`` if the principal's session has ended."""
    owner_id, user_id = await db.fetch_by_key(SELECT_OWNER, _owner, (post_id, principal.session_id))
    if user_id is None:
        raise InvalidToken
    return owner_id


def _owner(rows: Rows) -> tuple[int | None, int | None]:
    [(_, _, owner_id, user_id)] = rows
    return owner_id, user_id


# A null parameter keeps its column, so one statement serves every combination of fields, including none. This is
# correct because neither column is nullable.
UPDATE: Final = """
update posts
set
    title = coalesce($3, posts.title),
    content = coalesce($4, posts.content)
from sessions
where
    posts.id = $1
    and sessions.id = $2
    and sessions.expires_at > now()
    and posts.user_id = sessions.user_id
returning
    posts.id,
    posts.title,
    posts.content,
    posts.user_id,
    rfc3339(posts.date_posted) as date_posted
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
        with ordinality as new (id, session_id, title, content, number)
    inner join sessions
        on
            new.session_id = sessions.id
            and sessions.expires_at > now()
    inner join posts
        on
            new.id = posts.id
            and sessions.user_id = posts.user_id
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


async def update(db: Database, post_id: int, principal: Principal, change: PostUpdate) -> Post | None:
    """Update one of the user's posts. Returns ``None`` if they have no such post, or if the session has ended."""
    title = None if change.title is UNSET else change.title
    content = None if change.content is UNSET else change.content
    row = await db.write(UPDATE, UPDATE_MANY, post_id, principal.session_id, title, content, key=post_id)
    return Post(*row) if row else None


DELETE: Final = """
delete from posts
using sessions
where
    posts.id = $1
    and sessions.id = $2
    and sessions.expires_at > now()
    and posts.user_id = sessions.user_id
returning posts.id
"""


async def delete(db: Database, post_id: int, principal: Principal) -> bool:
    """Delete one of the user's posts. Returns ``False`` if they have no such post, or if the session has ended."""
    return await db.write_row(DELETE, post_id, principal.session_id) is not None
