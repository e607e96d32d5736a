"""Every statement is prepared on the real schema, and its columns are compared with the fields of its struct."""

import math
import re
from datetime import timedelta
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import asyncpg
import msgspec
import pytest

from service.database import schema
from service.database.connecting import SESSION_SETTINGS
from service.queries import account, auth, expired, idempotency_keys, matches, pages, posts, search, sessions, users
from service.structs.auth import Credentials, FailureCount
from service.structs.fields import Timestamp
from service.structs.posts import Post, StoredPost
from service.structs.sessions import Principal, RefreshTokenContent, Session
from service.structs.users import KnownAddress, User, UserProfile
from tests.statements import Statement, all_statements, statements
from tests.tables import principal_of

PYTHON_TYPES = {"int4": int, "int8": int, "text": str, "bool": bool, "bytea": bytes, "float4": float}

# The struct that each statement's rows are converted to: its fields are the columns, in the same order.
STRUCTS: dict[str, type[msgspec.Struct] | None] = {
    "queries.account.DELETE": None,
    "queries.account.DELETE_OTHER_SESSIONS": None,
    "queries.account.SELECT": None,  # the key, and the fields of User: see below
    "queries.account.SELECT_KNOWN_ADDRESSES": KnownAddress,
    "queries.account.UPDATE": User,
    "queries.account.UPDATE_CREDENTIALS": None,
    "queries.auth.INSERT_FAILURES": None,
    "queries.auth.INSERT_REGISTRATION": None,
    "queries.auth.SELECT_LOGIN": None,  # the fields of two structs: see below
    "queries.auth.SELECT_WAIT": None,
    "queries.auth.UPDATE_HASH": None,
    "queries.expired.DELETE_IDEMPOTENCY_KEYS": None,
    "queries.expired.DELETE_KNOWN_ADDRESSES": None,
    "queries.expired.DELETE_LOGIN_FAILURES": None,
    "queries.expired.DELETE_SESSIONS": None,
    "queries.idempotency_keys.INSERT": None,
    "queries.idempotency_keys.SELECT": None,
    "queries.idempotency_keys.UPDATE": None,
    "queries.matches.SCAN": None,  # the fields of Post, and the position: see below
    "queries.matches.SCAN_OF_USER": None,
    "queries.matches.SEARCH_INDEX": None,
    "queries.pages.SELECT_PAGE": None,  # the key, and the fields of StoredPost: see below
    "queries.pages.SELECT_PAGE_NEWEST_FIRST": None,  # the same
    "queries.pages.SELECT_PAGE_OF_USER": None,  # the same
    "queries.pages.SELECT_PAGE_OF_USER_NEWEST_FIRST": None,  # the same
    "queries.posts.DELETE": None,
    "queries.posts.INSERT": StoredPost,
    "queries.posts.INSERT_MANY": StoredPost,
    "queries.posts.SELECT": StoredPost,
    "queries.posts.SELECT_OWNER": None,
    "queries.posts.UPDATE": StoredPost,
    "queries.posts.UPDATE_MANY": StoredPost,
    "queries.search.SELECT_END_OF_SCAN": None,
    "queries.search.SELECT_SAMPLE": None,
    "queries.sessions.DELETE": None,
    "queries.sessions.DELETE_ANY": None,
    "queries.sessions.DELETE_OF_USER": None,
    "queries.sessions.DELETE_SURPLUS": None,
    "queries.sessions.INSERT_KNOWN_ADDRESS": None,
    "queries.sessions.INSERT": RefreshTokenContent,
    "queries.sessions.REFRESH": None,  # the fields of two structs, and a flag: see below
    "queries.sessions.SELECT_ALIVE": None,
    "queries.sessions.SELECT_OF_USER": Session,
    "queries.users.INSERT": User,
    "queries.users.SELECT_PROFILE": None,  # rows of two kinds: see below
}


def python_type(annotation: Any) -> Any:
    """The type without its metadata and without ``None``, which a prepared statement does not tell."""
    if get_origin(annotation) is UnionType:
        [annotation] = set(get_args(annotation)) - {NoneType}
    while get_origin(annotation) is not None and hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    return str if annotation is Timestamp else annotation


def columns_of(struct: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    if struct is StoredPost:  # the post's own fields, and its version
        return [*columns_of(Post), ("version", int)]
    return [(field.name, python_type(field.type)) for field in msgspec.structs.fields(struct)]


async def prepared_columns(db: asyncpg.Connection, text: str) -> list[tuple[str, Any]]:
    prepared = await db.prepare(text)
    return [(column.name, PYTHON_TYPES[column.type.name]) for column in prepared.get_attributes()]


def test_the_table_contains_every_statement() -> None:
    assert {statement.name for statement in statements()} == set(STRUCTS)


@pytest.mark.parametrize("statement", list(statements()), ids=lambda statement: statement.name)
async def test_the_columns_of_a_statement_are_the_fields_of_its_struct(
    db: asyncpg.Connection, statement: Statement
) -> None:
    columns = await prepared_columns(db, statement.text)

    if statement.name.endswith("_MANY"):
        assert columns.pop(0) == ("number", int)  # the number of the given row
    if struct := STRUCTS[statement.name]:
        assert columns == columns_of(struct)


async def test_the_rows_of_a_profile_fit_a_user_and_posts(db: asyncpg.Connection) -> None:
    columns = await prepared_columns(db, users.SELECT_PROFILE)

    _, title, content, user_id, date_posted = columns_of(Post)
    assert columns == [user_id, ("post_id", int), title, content, date_posted]
    assert [kind for _, kind in columns_of(User)] == [user_id[1], title[1], content[1]]
    assert columns_of(UserProfile)[:3] == columns_of(User)


@pytest.mark.parametrize(
    "statement",
    [
        pages.SELECT_PAGE,
        pages.SELECT_PAGE_NEWEST_FIRST,
        pages.SELECT_PAGE_OF_USER,
        pages.SELECT_PAGE_OF_USER_NEWEST_FIRST,
    ],
)
async def test_the_row_of_a_page_is_the_number_of_its_key_and_a_stored_post(
    db: asyncpg.Connection, statement: str
) -> None:
    assert await prepared_columns(db, statement) == [("number", int), *columns_of(StoredPost)]


async def test_the_row_of_an_own_account_is_the_key_and_a_user(db: asyncpg.Connection) -> None:
    assert await prepared_columns(db, account.SELECT) == [("session_id", int), *columns_of(User)]


@pytest.mark.parametrize("statement", [matches.SEARCH_INDEX, matches.SCAN, matches.SCAN_OF_USER])
async def test_the_row_of_a_search_is_a_post_and_its_position(db: asyncpg.Connection, statement: str) -> None:
    columns = await prepared_columns(db, statement)

    assert columns == [*columns_of(StoredPost), ("rank", float), ("newest_id", int), ("oldest_id", int)]


async def test_the_row_of_a_login_is_what_two_structs_need(db: asyncpg.Connection) -> None:
    (_, kind_of_id), *credentials = columns_of(Credentials)
    subject, (_, kind_of_limit), *rest = columns_of(FailureCount)

    assert await prepared_columns(db, auth.SELECT_LOGIN) == [
        ("id", kind_of_id),
        *credentials,
        ("is_known_address", bool),
        subject,
        ("most", kind_of_limit),
        *rest,
    ]


async def test_the_row_of_a_refresh_is_what_two_structs_need_and_a_flag(db: asyncpg.Connection) -> None:
    columns = await prepared_columns(db, sessions.REFRESH)

    assert columns == [*columns_of(Principal), columns_of(RefreshTokenContent)[1], ("is_alive", bool)]


@pytest.mark.parametrize("statement", all_statements(), ids=lambda statement: statement.name)
def test_a_statement_follows_the_house_style(statement: Statement) -> None:
    assert "*" not in statement.text
    assert not re.search(r"\b[A-Z]{2,}\b", re.sub(r"'[^']*'", "", statement.text))
    if "\nlimit" in statement.text or " limit" in statement.text:
        total_order = r"order by ([\w.]+( desc)?, )*[\w.]*(id|subject|address|key)( \+ 0)?( desc)?\n *(offset|limit)"
        assert re.search(total_order, statement.text)


@pytest.mark.parametrize("statement", [posts.UPDATE, posts.DELETE])
def test_a_write_to_a_post_checks_the_session_and_its_owner(statement: str) -> None:
    assert (
        "and sessions.id = $2\n    and sessions.expires_at > now()\n    and posts.user_id = sessions.user_id"
        in statement
    )


async def test_the_statements_leave_no_session_state_behind(database_url: str) -> None:
    db = await asyncpg.connect(database_url, server_settings=SESSION_SETTINGS)

    async def state() -> list[Any]:
        settings = await db.fetch("select name, setting from pg_settings where setting <> reset_val order by name")
        locks = await db.fetch("select locktype from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'")
        others = await db.fetch("select relname from pg_class where relpersistence = 't'")
        listening = await db.fetch("select pg_listening_channels()")
        return [tuple(row) for rows in (settings, locks, others, listening) for row in rows]

    before = await state()

    user_id, session_id = msgspec.structs.astuple(await principal_of(db, "alice"))
    post_id = await db.fetchval(posts.INSERT, "T", "C", session_id)
    day = timedelta(days=1)
    subjects = [b"account", b"address", b"both"]
    await db.fetch(auth.SELECT_LOGIN, "alice", "127.0.0.1", subjects, [10, 50, 10], day, day)
    await db.fetch(auth.INSERT_FAILURES, subjects, 50)
    await db.fetch(auth.INSERT_REGISTRATION, b"registration", 5, day)
    await db.fetch(auth.SELECT_WAIT, b"registration", 5, day)
    await db.fetch(auth.UPDATE_HASH, user_id, "hash", "other")
    await db.fetch(sessions.INSERT, user_id, "other", day, day, "", "")
    await db.fetch(sessions.INSERT_KNOWN_ADDRESS, user_id, "127.0.0.1", b"both")
    await db.fetch(sessions.REFRESH, session_id, 1, day, day, day, "", "")
    await db.fetch(sessions.SELECT_ALIVE, [session_id])
    await db.fetch(sessions.SELECT_OF_USER, session_id)
    await db.fetch(account.SELECT, [session_id])
    await db.fetch(users.SELECT_PROFILE, [user_id], 51)
    await db.fetch(account.SELECT_KNOWN_ADDRESSES, user_id)
    await db.fetch(account.UPDATE, user_id, "other", session_id, "maria", None)
    await db.fetch(account.UPDATE_CREDENTIALS, user_id, "other", session_id, "hash")
    await db.fetch(posts.SELECT, [post_id])
    await db.fetch(posts.SELECT_OWNER, [post_id], [session_id])
    for page, of_user in (
        (pages.SELECT_PAGE, []),
        (pages.SELECT_PAGE_NEWEST_FIRST, []),
        (pages.SELECT_PAGE_OF_USER, [[user_id]]),
        (pages.SELECT_PAGE_OF_USER_NEWEST_FIRST, [[user_id]]),
    ):
        await db.fetch(page, *of_user, [0], 51)
    for found, user in ((matches.SCAN, []), (matches.SCAN_OF_USER, [user_id]), (matches.SEARCH_INDEX, [None])):
        await db.fetch(found, "word", 0, 9, 1001, math.inf, 9, 51, *user)
    await db.fetch(search.SELECT_SAMPLE, "word", 9)
    await db.fetch(search.SELECT_END_OF_SCAN, user_id, 9, 100)
    await db.fetch(posts.INSERT_MANY, ["1", "2"], ["C", "C"], [session_id, session_id])
    await db.fetch(posts.UPDATE_MANY, [post_id], [session_id], ["New"], [None], [None], ["{7}"])
    await db.fetch(posts.UPDATE, post_id, session_id, "New", None, "{2}", None)
    await db.fetch(posts.DELETE, post_id, session_id, None, None)
    await db.fetch(idempotency_keys.INSERT, session_id, "key", b"digest")
    await db.fetch(idempotency_keys.UPDATE, user_id, "key", post_id, "tag", b"{}")
    await db.fetch(idempotency_keys.SELECT, [session_id], ["key"])
    await db.fetch(account.DELETE_OTHER_SESSIONS, user_id, session_id)
    await db.fetch(sessions.DELETE_SURPLUS, user_id, 1)
    await db.fetch(sessions.DELETE, session_id, session_id)
    await db.fetch(sessions.DELETE_ANY, session_id)
    await db.fetch(sessions.DELETE_OF_USER, session_id)
    for deletion in (expired.DELETE_LOGIN_FAILURES, expired.DELETE_KNOWN_ADDRESSES):
        await db.fetch(deletion, 10, day)
    for deletion in (expired.DELETE_SESSIONS, expired.DELETE_IDEMPOTENCY_KEYS):
        await db.fetch(deletion, 10)
    await db.fetch(account.DELETE, user_id, "hash", session_id)

    assert await state() == before
    assert not db.is_in_transaction()
    await db.close()


async def test_every_constraint_has_the_name_of_its_table_and_column(db: asyncpg.Connection) -> None:
    rows = await db.fetch(
        """
        select
            pg_constraint.conname as name,
            pg_class.relname as table_name,
            array(
                select attname::text from pg_attribute where attrelid = conrelid and attnum = any(conkey)
            ) as columns
        from pg_constraint
        join pg_class on pg_class.oid = conrelid
        where contype <> 'n' and pg_class.relnamespace = 'public'::regnamespace
        """
    )

    assert len(rows) >= 10
    for row in rows:
        assert re.fullmatch(rf"{row['table_name']}_{'_'.join(row['columns'])}_(pkey|key|fkey|length|true)", row["name"])


async def test_the_constraints_refuse_what_the_structs_refuse(db: asyncpg.Connection) -> None:
    """They protect the data from programs that write without the service."""
    _, session_id = msgspec.structs.astuple(await principal_of(db, "alice"))
    for statement, arguments, constraint in [
        (users.INSERT, ("", "a@example.com", "h"), "users_username_length"),
        (users.INSERT, ("u" * 51, "a@example.com", "h"), "users_username_length"),
        (users.INSERT, ("u", "e" * 121, "h"), "users_email_length"),
        (posts.INSERT, ("", "C", session_id), "posts_title_length"),
        (posts.INSERT, ("t" * 101, "C", session_id), "posts_title_length"),
        (posts.INSERT, ("T", "", session_id), "posts_content_length"),
    ]:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
            await db.fetch(statement, *arguments)
        assert caught.value.constraint_name == constraint


async def test_deleting_a_user_deletes_their_posts_and_sessions(db: asyncpg.Connection) -> None:
    principal = await principal_of(db, "alice")
    await db.fetch(posts.INSERT, "T", "C", principal.session_id)

    await db.execute("delete from users where id = $1", principal.user_id)

    assert await db.fetchval("select count(*) from posts") == 0
    assert await db.fetchval("select count(*) from sessions") == 0


def test_the_statements_of_the_migrations_are_found() -> None:
    assert {statement.name for statement in statements(schema)} == {
        "database.schema.CREATE_SCHEMA_FILES",
        "database.schema.INSERT_SCHEMA_FILE",
        "database.schema.SELECT_LACKS_SCHEMA_FILES",
        "database.schema.SELECT_SCHEMA_FILES",
    }
