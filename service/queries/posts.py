"""SQL for posts."""

import hashlib
from collections.abc import Collection, Iterable
from typing import Any, Final

import asyncpg
from msgspec import UNSET, msgpack

from service.database.database import Database, Rows
from service.errors import InvalidToken, PostChanged
from service.structs.posts import ANY_VERSION, Post, PostCreate, PostUpdate, StoredPost, VersionCondition
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
    rfc3339(date_posted) as date_posted,
    version
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
    rfc3339(posts.date_posted) as date_posted,
    posts.version
"""


async def insert(db: Database, principal: Principal, post: PostCreate) -> StoredPost:
    """Insert a post of the principal's user. Raises ``InvalidToken`` if the session has ended."""
    try:
        row = await db.write(INSERT, INSERT_MANY, post.title, post.content, principal.session_id)
    except asyncpg.ForeignKeyViolationError as error:  # the user is being deleted
        if error.constraint_name != "posts_user_id_fkey":
            raise
        row = None
    if row is None:
        raise InvalidToken
    return stored_post(row)


def stored_post(row: asyncpg.Record) -> StoredPost:
    *fields, version = row
    return StoredPost(Post(*fields), version)


SELECT: Final = """
select
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted,
    version
from posts
where id = any($1::bigint[])
"""


async def select(db: Database, post_id: int) -> StoredPost | None:
    return await db.fetch_by_key(SELECT, _stored_post, post_id)


def _stored_post(rows: Rows) -> StoredPost | None:
    return stored_post(rows[0]) if rows else None


_POST: Final = slice(-len(Post.__struct_fields__) - 1, None)


def posts_of(rows: Collection[Iterable[Any]]) -> tuple[list[Post], bytes]:
    """The posts of a page, and a digest of their ids and versions, which changes with any of them.

    The last columns of a row are those of a post and its version.
    """
    if not rows:
        return [], b""
    *columns, versions = [*zip(*rows, strict=True)][_POST]  # by columns, which is faster than by rows
    digest = hashlib.blake2b(msgpack.encode((columns[0], versions)), digest_size=16).digest()
    return [*map(Post, *columns)], digest


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


# A null parameter keeps its column, so one statement serves every combination of fields. This is correct because
# neither column is nullable. The versions are arrays in text form, see UPDATE_MANY.
UPDATE: Final = """
update posts
set
    title = coalesce($3, posts.title),
    content = coalesce($4, posts.content),
    version = posts.version + 1
from sessions
where
    posts.id = $1
    and sessions.id = $2
    and sessions.expires_at > now()
    and posts.user_id = sessions.user_id
    and ($5::text is null or posts.version = any($5::text::bigint[]))
    and ($6::text is null or posts.version <> all($6::text::bigint[]))
returning
    posts.id,
    posts.title,
    posts.content,
    posts.user_id,
    rfc3339(posts.date_posted) as date_posted,
    posts.version
"""

# A row that another session has locked is left out: its update is then made alone, and does not block the others. Each
# row has its own versions, as text because unnest would flatten an array of arrays.
UPDATE_MANY: Final = """
with unlocked as (
    select
        posts.id,
        new.title,
        new.content,
        new.number
    from
        unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
        with ordinality as new (id, session_id, title, content, required, excluded, number)
    inner join sessions
        on
            new.session_id = sessions.id
            and sessions.expires_at > now()
    inner join posts
        on
            new.id = posts.id
            and sessions.user_id = posts.user_id
            and (new.required is null or posts.version = any(new.required::bigint[]))
            and (new.excluded is null or posts.version <> all(new.excluded::bigint[]))
    for update of posts skip locked
)

update posts
set
    title = coalesce(unlocked.title, posts.title),
    content = coalesce(unlocked.content, posts.content),
    version = posts.version + 1
from unlocked
where posts.id = unlocked.id
returning
    unlocked.number,
    posts.id,
    posts.title,
    posts.content,
    posts.user_id,
    rfc3339(posts.date_posted) as date_posted,
    posts.version
"""


async def update(
    db: Database, post_id: int, principal: Principal, change: PostUpdate, condition: VersionCondition = ANY_VERSION
) -> StoredPost | None:
    """Update one of the user's posts; without fields nothing is written. Returns ``None`` if they have no such post.

    Raises ``PostChanged`` if the condition does not allow its version, or ``InvalidToken`` if the session has ended.
    """
    title = None if change.title is UNSET else change.title
    content = None if change.content is UNSET else change.content
    if title is None and content is None:
        return await _select_own(db, post_id, principal, condition)
    required, excluded = _arrays(condition)
    row = await db.write(
        UPDATE, UPDATE_MANY, post_id, principal.session_id, title, content, required, excluded, key=post_id
    )
    if row is None:
        await _explain(db, post_id, principal, condition)
        return None
    return stored_post(row)


async def _select_own(
    db: Database, post_id: int, principal: Principal, condition: VersionCondition
) -> StoredPost | None:
    found = await select(db, post_id)
    if found is None or found.post.user_id != principal.user_id:
        return None
    if not condition.allows(found.version):
        raise PostChanged
    return found


async def _explain(db: Database, post_id: int, principal: Principal, condition: VersionCondition) -> None:
    """Find out why a write was not applied. Raises ``InvalidToken`` or ``PostChanged``, or returns if the post is gone.

    The version is not read again. It may have become one that the condition allows, but the write was not applied.
    """
    owner_id = await select_owner(db, post_id, principal)
    if owner_id == principal.user_id and condition is not ANY_VERSION:
        raise PostChanged


def _arrays(condition: VersionCondition) -> tuple[str | None, str | None]:
    """The parameters of a condition: PostgreSQL's arrays in text form, null if they do not restrict anything."""
    if condition is ANY_VERSION:
        return None, None
    required = None if condition.required is None else _array(condition.required)
    return required, _array(condition.excluded) if condition.excluded else None


def _array(versions: Collection[int]) -> str:
    return f"{{{','.join(map(str, versions))}}}"


DELETE: Final = """
delete from posts
using sessions
where
    posts.id = $1
    and sessions.id = $2
    and sessions.expires_at > now()
    and posts.user_id = sessions.user_id
    and ($3::text is null or posts.version = any($3::text::bigint[]))
    and ($4::text is null or posts.version <> all($4::text::bigint[]))
returning posts.id
"""


async def delete(db: Database, post_id: int, principal: Principal, condition: VersionCondition = ANY_VERSION) -> bool:
    """Delete one of the user's posts. Returns ``False`` if they have no such post.

    Raises ``PostChanged`` if the condition does not allow its version, or ``InvalidToken`` if the session has ended.
    """
    deleted = await db.write_row(DELETE, post_id, principal.session_id, *_arrays(condition))
    if deleted is None:
        await _explain(db, post_id, principal, condition)
    return deleted is not None
