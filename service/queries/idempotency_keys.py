"""SQL for idempotency keys: a post is inserted once for each key of a user, and its first response is kept."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Final

import asyncpg
from msgspec import Struct, msgpack

from service.database.database import Database, Rows
from service.errors import InvalidToken, KeyInProgress, KeyUsedWithAnotherBody
from service.queries import posts
from service.structs.posts import PostCreate, StoredPost
from service.structs.sessions import Principal

# Of simultaneous requests with a key, one inserts the row. The others wait for its transaction, and then insert
# nothing. A key that has expired is used again. The lock comes first, so that this and the deletion of the user cannot
# deadlock.
INSERT: Final = """
with owner as (
    select users.id
    from sessions
    inner join users on sessions.user_id = users.id
    where
        sessions.id = $1
        and sessions.expires_at > now()
    for key share of users
)

insert into idempotency_keys (user_id, key, digest)
select
    id as user_id,
    $2 as key,
    $3 as digest
from owner
on conflict (user_id, key) do update
    set
        digest = excluded.digest,
        created_at = excluded.created_at,
        post_id = null,
        etag = null,
        body = null
    where idempotency_keys.created_at <= now() - interval '24 hours'
returning user_id
"""

UPDATE: Final = """
update idempotency_keys
set
    post_id = $3,
    etag = $4,
    body = $5
where
    user_id = $1
    and key = $2
"""

# Every pair has a row, with nulls for a session that has ended and for a key without a response.
SELECT: Final = """
select
    given.session_id,
    given.key,
    sessions.user_id,
    idempotency_keys.digest,
    idempotency_keys.post_id,
    idempotency_keys.etag,
    idempotency_keys.body
from unnest($1::bigint[], $2::text[]) as given (session_id, key)
left join sessions
    on
        given.session_id = sessions.id
        and sessions.expires_at > now()
left join idempotency_keys
    on
        sessions.user_id = idempotency_keys.user_id
        and given.key = idempotency_keys.key
"""


class StoredResponse(Struct, frozen=True, gc=False):
    """The response to the first request with a key."""

    post_id: int
    etag: str
    body: bytes


async def insert_post(
    db: Database, principal: Principal, key: str, post: PostCreate, encode: Callable[[StoredPost], StoredResponse]
) -> tuple[StoredResponse, bool]:
    """Insert a post unless the principal's user has done so with this key. Returns the response, and whether it is new.

    ``encode`` makes the response to a new post. It is stored with the post in one transaction.

    Raises ``InvalidToken`` if the session has ended, ``KeyInProgress`` or ``KeyUsedWithAnotherBody``.
    """
    digest = hashlib.blake2b(msgpack.encode(post), digest_size=32).digest()
    insert = partial(_insert, db, principal, (key, digest), post, encode)
    while True:
        try:
            created = await db.single_flight.run((INSERT, principal.session_id, key), insert)
        except TimeoutError:
            raise KeyInProgress from None
        if created:
            return created, True
        # This statement checks the session of each request, also of those that waited for another.
        user_id, stored_digest, stored = await db.fetch_by_key(SELECT, _stored, (principal.session_id, key))
        if user_id is None:
            raise InvalidToken
        if stored_digest is not None:
            if stored_digest != digest:
                raise KeyUsedWithAnotherBody
            return stored, False
        # The key expired and was deleted between the two statements.


async def _insert(
    db: Database,
    principal: Principal,
    key: tuple[str, bytes],
    post: PostCreate,
    encode: Callable[[StoredPost], StoredResponse],
) -> StoredResponse | None:
    """Insert the key, the post and the response. Returns ``None`` if the key exists, or if the session has ended."""
    async with db.transaction() as transaction:
        try:
            inserted = await transaction.write_row(INSERT, principal.session_id, *key)
        except asyncpg.QueryCanceledError as error:
            # The statement timeout. The context of the error names the table only if another transaction has the key.
            if "idempotency_keys" in (error.context or ""):
                raise KeyInProgress from None
            raise
        if inserted is None:
            return None
        row = await transaction.write_row(posts.INSERT, post.title, post.content, principal.session_id)
        if row is None:
            raise InvalidToken
        response = encode(posts.stored_post(row))
        await transaction.write_row(UPDATE, principal.user_id, key[0], response.post_id, response.etag, response.body)
    return response


def _stored(rows: Rows) -> tuple[int | None, bytes | None, StoredResponse]:
    [(_, _, user_id, digest, post_id, etag, body)] = rows
    return user_id, digest, StoredResponse(post_id, etag, body)
