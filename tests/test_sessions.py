"""Sessions: how they are opened, continued and ended, and that access ends with them at once."""

import asyncio
import re
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from litestar.routes import HTTPRoute

from service.app import create_app
from service.database.database import Database
from service.database.transaction import Transaction
from service.errors import InvalidToken
from service.http.routes import Route
from service.queries import posts
from service.security.keys import ACCESS_TOKEN, Keys, SecretKey
from service.security.tokens import AccessTokens
from service.settings import Settings
from service.structs.posts import PostCreate, PostUpdate
from service.structs.sessions import Principal
from tests.conftest import Serve, settings_of
from tests.people import Person, Tokens, assert_problem, pointers, refresh
from tests.raw_http import HOST, Client, post
from tests.serving import open_client
from tests.tables import all_rows, principal_of

NEW_POST = {"title": "T", "content": "C"}


@pytest.fixture
async def tokens(alice: Person) -> Tokens:
    return await Tokens.log_in(alice)


def assert_invalid_grant(response: httpx.Response) -> None:
    assert_problem(response, 400, "invalid_refresh_token", "The refresh token is not valid")
    assert response.json()["error"] == "invalid_grant"
    assert response.headers["cache-control"] == "no-store"


async def age(db: asyncpg.Connection, column: str, seconds: float) -> None:
    """Move a time of every session into the past."""
    await db.execute(f"update sessions set {column} = {column} - make_interval(secs => $1)", seconds)  # noqa: S608


async def test_a_login_returns_both_tokens(client: httpx.AsyncClient, alice: Person) -> None:
    form = {"username": alice.username, "password": alice.password}
    response = await client.post("/auth/token", data=form)

    assert set(response.json()) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (response.json()["token_type"], response.json()["expires_in"]) == ("bearer", 1800)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers.get("pragma") is None


async def test_a_refresh_returns_the_next_tokens_of_the_same_session(alice: Person, tokens: Tokens) -> None:
    newer = await tokens.refreshed()
    newest = await newer.refreshed()

    assert len({tokens.refresh, newer.refresh, newest.refresh}) == 3
    assert await newest.are_valid()
    assert await tokens.are_valid()  # until it expires: the session is the same
    assert len(await newest.sessions()) == 2  # the other one is of the fixture `alice`
    assert (await alice.publish())["user_id"] == alice.id


async def test_the_previous_refresh_token_returns_the_current_one_again_for_a_while(
    client: httpx.AsyncClient, tokens: Tokens, db: asyncpg.Connection
) -> None:
    newer = await tokens.refreshed()
    again = await tokens.refreshed()
    assert again.refresh == newer.refresh

    await age(db, "rotated_at", 29)
    assert (await tokens.refreshed()).refresh == newer.refresh

    await age(db, "rotated_at", 2)
    assert_invalid_grant(await refresh(client, tokens.refresh))
    assert not await newer.are_valid()
    assert_invalid_grant(await refresh(client, newer.refresh))


async def test_a_refresh_token_that_is_two_generations_old_ends_the_session(
    client: httpx.AsyncClient, tokens: Tokens, db: asyncpg.Connection
) -> None:
    newest = await (await tokens.refreshed()).refreshed()

    assert_invalid_grant(await refresh(client, tokens.refresh))

    assert not await newest.are_valid()
    assert_invalid_grant(await refresh(client, newest.refresh))
    assert await db.fetchval("select count(*) from sessions") == 1  # the fixture's


async def test_of_two_refreshes_at_once_both_get_the_same_refresh_token(tokens: Tokens) -> None:
    for _ in range(100):
        first, second = await asyncio.gather(tokens.refreshed(), tokens.refreshed())
        assert first.refresh == second.refresh != tokens.refresh
        assert await first.are_valid()
        assert await second.are_valid()
        tokens = first


@pytest.mark.parametrize(
    "change", ["", "x", "rt_", "rt_x", "rt_" + "A" * 70, "last", "middle", "first", "padding", "long"]
)
async def test_any_other_text_is_no_refresh_token_and_ends_nothing(
    client: httpx.AsyncClient, tokens: Tokens, change: str
) -> None:
    token = tokens.refresh
    forged = {
        "last": token[:-1] + chr(ord(token[-1]) ^ 1),
        "middle": token[:40] + ("A" if token[40] != "A" else "B") + token[41:],  # the HMAC
        "first": token[:4] + ("A" if token[4] != "A" else "B") + token[5:],
        "padding": token + "=",
        "long": token + "A" * 200_000,
    }.get(change, change)

    response = await refresh(client, forged)

    if forged:
        assert_invalid_grant(response)
    else:
        assert_problem(response, 422, "invalid_fields")
        assert pointers(response) == ["/refresh_token"]
    assert await tokens.are_valid()
    assert (await tokens.refreshed()).refresh != token


@pytest.mark.parametrize(("path", "field"), [("/auth/token", "refresh_token"), ("/auth/revoke", "token")])
async def test_a_token_with_u0000_is_an_invalid_field(client: httpx.AsyncClient, path: str, field: str) -> None:
    response = await client.post(path, data={"grant_type": "refresh_token", field: "rt_\0"})

    assert_problem(response, 422, "invalid_fields")
    assert response.json()["errors"] == [{"pointer": f"/{field}", "detail": "must not contain U+0000"}]


async def test_the_grant_type_decides_which_fields_of_a_form_count(
    client: httpx.AsyncClient, alice: Person, tokens: Tokens
) -> None:
    both = {"username": alice.username, "password": alice.password, "refresh_token": tokens.refresh}

    refreshed = Tokens.received(client, await client.post("/auth/token", data=both | {"grant_type": "refresh_token"}))
    opened = Tokens.received(client, await client.post("/auth/token", data=both | {"grant_type": "password"}))
    default = Tokens.received(client, await client.post("/auth/token", data=both))

    assert len(await refreshed.sessions()) == 4
    for fresh in (opened, default):
        assert await fresh.are_valid()
    wrong = {"refresh_token": refreshed.refresh, "password": alice.password, "grant_type": "password"}
    assert pointers(await client.post("/auth/token", data=wrong)) == ["/username"]
    missing = {"username": alice.username, "password": alice.password, "grant_type": "refresh_token"}
    assert pointers(await client.post("/auth/token", data=missing)) == ["/refresh_token"]


@pytest.mark.parametrize(("sent", "listed"), [(b"", ""), (b"caf\xe9", "café"), ("café".encode(), "café")])
async def test_a_user_agent_may_be_any_text(client: httpx.AsyncClient, alice: Person, sent: bytes, listed: str) -> None:
    form = {"username": alice.username, "password": alice.password}
    response = await client.post("/auth/token", data=form, headers={b"User-Agent": sent})

    [current] = [one for one in await Tokens.received(client, response).sessions() if one["current"]]
    assert current["user_agent"] == listed


async def test_the_times_of_a_session_are_those_of_its_login_and_its_last_refresh(
    tokens: Tokens, db: asyncpg.Connection
) -> None:
    async def listed() -> list[datetime]:
        [current] = [one for one in await tokens.sessions() if one["current"]]
        return [datetime.fromisoformat(current[name]) for name in ("created_at", "last_used_at", "expires_at")]

    now = await db.fetchval("select now()")
    created, used, expires = await listed()
    assert created == used
    assert timedelta() < now - created < timedelta(seconds=10)
    assert expires - created == timedelta(days=30)

    await db.execute("update sessions set created_at = created_at - interval '80 days'")
    await tokens.refreshed()
    created, used, expires = await listed()
    assert used > now
    assert expires - created == timedelta(days=90)


async def test_a_session_ends_without_a_refresh(
    client: httpx.AsyncClient, tokens: Tokens, db: asyncpg.Connection
) -> None:
    await age(db, "expires_at", 29.99 * 86400)
    newer = await tokens.refreshed()
    await age(db, "expires_at", 29.99 * 86400)
    assert await newer.are_valid()

    await age(db, "expires_at", 0.02 * 86400)
    assert not await newer.are_valid()
    assert_invalid_grant(await refresh(client, newer.refresh))


async def test_a_session_ends_in_any_case(client: httpx.AsyncClient, tokens: Tokens, db: asyncpg.Connection) -> None:
    await age(db, "created_at", 89.99 * 86400)
    newer = await tokens.refreshed()
    assert await newer.are_valid()

    await age(db, "expires_at", 0.02 * 86400)
    assert not await newer.are_valid()
    assert_invalid_grant(await refresh(client, newer.refresh))


@pytest.mark.parametrize("kind", ["access", "refresh"])
async def test_a_revoked_token_ends_its_session(client: httpx.AsyncClient, tokens: Tokens, kind: str) -> None:
    newer = await tokens.refreshed()

    response = await client.post("/auth/revoke", data={"token": getattr(tokens, kind), "token_type_hint": "x"})

    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert not await newer.are_valid()
    assert_invalid_grant(await refresh(client, newer.refresh))


async def test_an_expired_access_token_can_be_revoked(
    settings: Settings, client: httpx.AsyncClient, alice: Person
) -> None:
    token = alice.token
    keys = Keys((SecretKey(settings.secret_key),), ACCESS_TOKEN)
    expired = AccessTokens(keys, -60).issue(AccessTokens(keys, 60).read(token))
    assert (await client.get("/users/me", headers={"Authorization": f"Bearer {expired}"})).status_code == 401

    assert (await client.post("/auth/revoke", data={"token": expired})).status_code == 200

    assert (await client.get("/users/me", headers={"Authorization": f"Bearer {token}"})).status_code == 401


async def test_revoking_an_unknown_token_is_not_an_error(client: httpx.AsyncClient, tokens: Tokens) -> None:
    for token in ("x", "rt_" + "A" * 69, "a.b.c", tokens.access[:-1], "é"):
        assert (await client.post("/auth/revoke", data={"token": token})).status_code == 200
    assert await tokens.are_valid()
    missing = await client.post("/auth/revoke", data={"x": "y"})
    assert_problem(missing, 422, "invalid_fields")
    assert pointers(missing) == ["/token"]


async def test_the_sessions_of_a_user_are_listed_newest_first(alice: Person, mallory: Person) -> None:
    phone = await Tokens.log_in(alice, "a phone " + "x" * 300)
    browser = await (await Tokens.log_in(alice, "a browser")).refreshed()
    await Tokens.log_in(mallory)

    listed = await browser.sessions()

    assert [session["user_agent"] for session in listed[:2]] == [
        "python-httpx/" + httpx.__version__,
        ("a phone " + "x" * 300)[:200],
    ]
    assert [session["current"] for session in listed] == [True, False, False]
    assert [session["current"] for session in await phone.sessions()] == [False, True, False]
    assert len(listed) == 3
    for session in listed:
        assert set(session) == {
            "id", "created_at", "last_used_at", "expires_at", "user_agent", "address", "current",
        }  # fmt: skip
        assert session["address"] == "127.0.0.1"
        assert session["created_at"] <= session["last_used_at"] < session["expires_at"]


async def test_one_session_can_be_ended_from_another(client: httpx.AsyncClient, alice: Person) -> None:
    phone, browser = await Tokens.log_in(alice), await Tokens.log_in(alice)
    [phone_id] = [session["id"] for session in await phone.sessions() if session["current"]]

    response = await client.delete(f"/users/me/sessions/{phone_id}", headers=browser.headers)

    assert (response.status_code, response.content) == (204, b"")
    assert not await phone.are_valid()
    assert await browser.are_valid()
    again = await client.delete(f"/users/me/sessions/{phone_id}", headers=browser.headers)
    assert_problem(again, 404, "session_not_found", "Session not found")


async def test_the_session_of_another_user_is_not_found(
    client: httpx.AsyncClient, alice: Person, mallory: Person
) -> None:
    tokens = await Tokens.log_in(alice)
    [session_id] = [session["id"] for session in await tokens.sessions() if session["current"]]

    for path_id in (session_id, "abc", -1, "99999999999999999999", 999):
        response = await client.delete(f"/users/me/sessions/{path_id}", headers=mallory.headers)
        assert_problem(response, 404, "session_not_found", "Session not found")

    assert await tokens.are_valid()


async def test_all_sessions_can_be_ended(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    phone, browser = await Tokens.log_in(alice), await Tokens.log_in(alice)

    response = await client.delete("/users/me/sessions", headers=browser.headers)

    assert response.status_code == 204
    assert not await phone.are_valid()
    assert not await browser.are_valid()
    assert (await client.get("/users/me", headers=mallory.headers)).status_code == 200


async def test_a_login_beyond_a_hundred_sessions_ends_the_one_that_was_used_least_recently(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    oldest = await Tokens.log_in(alice)
    second = await Tokens.log_in(alice)
    await db.execute(
        "insert into sessions (user_id, expires_at, user_agent, address) "
        "select $1, now() + interval '1 day', '', '' from generate_series(1, 97)",
        alice.id,
    )
    oldest = await oldest.refreshed()  # `second` and the fixture's are now the ones that were used least recently
    assert len(await oldest.sessions()) == 100

    newest = await Tokens.log_in(alice)
    another = await Tokens.log_in(alice)

    assert len(await newest.sessions()) == 100
    assert [await one.are_valid() for one in (oldest, second, newest, another)] == [True, False, True, True]
    assert (await client.get("/users/me", headers=alice.headers)).status_code == 401


async def test_logins_at_once_leave_no_more_than_a_hundred_sessions(alice: Person, db: asyncpg.Connection) -> None:
    await db.execute(
        "insert into sessions (user_id, expires_at, user_agent, address) "
        "select $1, now() + interval '1 day', '', '' from generate_series(1, 95)",
        alice.id,
    )

    opened = await asyncio.gather(*(Tokens.log_in(alice) for _ in range(20)))

    assert await db.fetchval("select count(*) from sessions where user_id = $1", alice.id) == 100
    assert all([await one.are_valid() for one in opened])


# Also with an id or a body that is not valid: 401 comes before 404 and 422.
EVERY_PRIVATE_ROUTE: list[tuple[str, str, Any]] = [
    ("GET", "/users/me", None),
    ("PATCH", "/users/me", {"current_password": "x"}),
    ("PATCH", "/users/me", {"username": ""}),
    ("POST", "/users/me/password", {"current_password": "x", "new_password": "a new password"}),
    ("POST", "/users/me/password", {"new_password": ""}),
    ("POST", "/users/me/deletion", {"current_password": "x"}),
    ("POST", "/users/me/deletion", {}),
    ("GET", "/users/me/export", None),
    ("GET", "/users/me/sessions", None),
    ("DELETE", "/users/me/sessions", None),
    ("DELETE", "/users/me/sessions/{session}", None),
    ("DELETE", "/users/me/sessions/1", None),
    ("DELETE", "/users/me/sessions/abc", None),
    ("POST", "/posts", NEW_POST),
    ("POST", "/posts", {"title": ""}),
    ("POST", "/posts", "x" * 1024 * 1024),
    ("PATCH", "/posts/{mine}", {"title": "T"}),
    ("PATCH", "/posts/{mine}", {"title": 1}),
    ("PATCH", "/posts/{theirs}", {"title": "T"}),
    ("PATCH", "/posts/999", {"title": "T"}),
    ("PATCH", "/posts/abc", {"title": "T"}),
    ("DELETE", "/posts/{mine}", None),
    ("DELETE", "/posts/{theirs}", None),
    ("DELETE", "/posts/999", None),
    ("DELETE", "/posts/abc", None),
]


def test_the_table_contains_every_private_route() -> None:
    routes = {
        f"{method} {re.sub('{.*}', '1', route.path_format)}"
        for route in create_app(settings_of()).routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if isinstance(handler, Route) and not handler.is_public and method != "HEAD"
    }

    assert routes == {f"{method} {re.sub('{.*}|abc|999', '1', path)}" for method, path, _ in EVERY_PRIVATE_ROUTE}


async def end(tokens: Tokens, db: asyncpg.Connection, how: str) -> None:
    """End a session: its row is deleted, or remains until the next cleanup."""
    if how == "revoked":
        await tokens.client.post("/auth/revoke", data={"token": tokens.refresh})
        return
    [session_id] = [session["id"] for session in await tokens.sessions() if session["current"]]
    await db.execute("update sessions set expires_at = now() where id = $1", session_id)


@pytest.mark.parametrize("how", ["revoked", "expired"])
@pytest.mark.parametrize(("method", "path", "body"), EVERY_PRIVATE_ROUTE)
async def test_an_ended_session_has_no_access_to_any_route(
    client: httpx.AsyncClient,
    alice: Person,
    mallory: Person,
    db: asyncpg.Connection,
    how: str,
    method: str,
    path: str,
    body: Any,
) -> None:
    tokens = await Tokens.log_in(alice)
    mine, theirs = await alice.publish(), await mallory.publish()
    await end(tokens, db, how)
    before = [tuple(row) for row in await db.fetch("select * from posts order by id")]
    sessions_before = await db.fetchval("select count(*) from sessions")

    other = await db.fetchval("select max(id) from sessions where user_id = $1 and expires_at > now()", alice.id)
    url = path.format(mine=mine["id"], theirs=theirs["id"], session=other)
    response = await client.request(method, url, json=body, headers=tokens.headers)

    assert_problem(response, 401, "invalid_token", "Could not validate credentials")
    assert [tuple(row) for row in await db.fetch("select * from posts order by id")] == before
    assert await db.fetchval("select count(*) from sessions") == sessions_before


async def test_a_database_that_was_restored_from_a_backup_gives_no_session_to_the_owner_of_an_older_token(
    client: httpx.AsyncClient, alice: Person, mallory: Person, db: asyncpg.Connection
) -> None:
    older = await Tokens.log_in(alice)
    await db.execute("truncate sessions restart identity")  # as it was before all logins
    for _ in range(5):
        await Tokens.log_in(mallory)

    assert not await older.are_valid()
    assert_invalid_grant(await refresh(client, older.refresh))
    assert await db.fetchval("select count(*) from sessions") == 5


async def test_the_ids_of_sessions_can_be_read_by_javascript(tokens: Tokens) -> None:
    assert all(0 < session["id"] < 2**53 for session in await tokens.sessions())


async def test_no_write_that_is_sent_after_a_logout_is_applied(
    address: str, alice: Person, db: asyncpg.Connection
) -> None:
    body = msgspec.json.encode(NEW_POST)
    with ExitStack() as stack:
        # Plain sockets, because httpx takes longer than the service, and longer the more requests are in flight.
        *early, leaving = [stack.enter_context(Client(address)) for _ in range(51)]
        late = [stack.enter_context(Client(address)) for _ in range(5)]
        for _ in range(100):
            bearer = f"Authorization: Bearer {(await Tokens.log_in(alice)).access}\r\n".encode()
            json = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
            write = post(bearer + json, body, b"/posts")
            logout = b"DELETE /users/me/sessions HTTP/1.1\r\n" + HOST + bearer + b"\r\n"

            async def log_out(logout: bytes = logout, write: bytes = write) -> int:
                status = await leaving.status_of(logout)
                assert {*await asyncio.gather(*(client.status_of(write) for client in late))} == {401}
                return status

            before = await db.fetchval("select count(*) from posts")
            writes = [client.status_of(write) for client in early]
            statuses = await asyncio.gather(*writes[:25], log_out(), *writes[25:])

            assert set(statuses[:25] + statuses[26:]) <= {201, 401}
            assert statuses[25] == 204
            assert await db.fetchval("select count(*) from posts") == before + statuses.count(201)


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_callers_that_share_a_batch_each_get_their_own_answer(
    client: httpx.AsyncClient, alice: Person, mallory: Person, db: asyncpg.Connection, how: str
) -> None:
    ended = await Tokens.log_in(alice)
    await end(ended, db, how)
    headers = [alice.headers, ended.headers, mallory.headers] * 10

    async def request(method: str, url: str, body: Any = None) -> list[int]:
        sent = (client.request(method, url, json=body, headers=one) for one in headers)
        return [response.status_code for response in await asyncio.gather(*sent)]

    mine = await alice.publish()
    assert await request("GET", "/users/me") == [200, 401, 200] * 10
    assert await request("POST", "/posts", NEW_POST) == [201, 401, 201] * 10
    assert await request("PATCH", f"/posts/{mine['id']}", {"title": "New"}) == [200, 401, 403] * 10


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_write_whose_session_has_ended_since_its_guard_is_not_applied(
    url_for_db: str, db: asyncpg.Connection, how: str
) -> None:
    principal = await principal_of(db, "alice")
    database = Database(url_for_db, connections=1, timeout=5)
    async with database.lifespan():
        mine = (await posts.insert(database, principal, PostCreate("T", "C"))).post.id
        await end_directly(db, principal, how)
        before = await all_rows(db)

        for write in (
            posts.insert(database, principal, PostCreate("Another", "C")),
            posts.update(database, mine, principal, PostUpdate(title="New")),
            posts.delete(database, mine, principal),
        ):
            with pytest.raises(InvalidToken):
                await write

    assert await all_rows(db) == before


async def end_directly(db: asyncpg.Connection, principal: Principal, how: str) -> None:
    if how == "revoked":
        await db.execute("delete from sessions where id = $1", principal.session_id)
    else:
        await db.execute("update sessions set expires_at = now() where id = $1", principal.session_id)


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_statement_for_several_writes_leaves_out_those_whose_session_has_ended(
    url_for_db: str, db: asyncpg.Connection, how: str
) -> None:
    """The guard has found these sessions alive, and one of them has ended since."""
    ended, alive = await principal_of(db, "mallory"), await principal_of(db, "alice")
    mine, theirs = [
        await db.fetchval("insert into posts (title, content, user_id) values ('T', 'C', $1) returning id", user_id)
        for user_id in (alive.user_id, ended.user_id)
    ]
    await end_directly(db, ended, how)
    sessions, nothing = [ended.session_id, alive.session_id], [None, None]

    database = Database(url_for_db, connections=1, timeout=5)
    async with database.lifespan():
        changed = await database.run(
            posts.UPDATE_MANY, [theirs, mine], sessions, ["New", "New"], nothing, nothing, nothing
        )
        created = await database.run(posts.INSERT_MANY, ["Another", "Another"], ["C", "C"], sessions)

    assert [(row["number"], row["id"]) for row in changed] == [(2, mine)]
    assert [(row["number"], row["user_id"]) for row in created] == [(2, alive.user_id)]
    stored = await db.fetch("select title, user_id from posts order by id")
    assert [tuple(row) for row in stored] == [
        ("New", alive.user_id),
        ("T", ended.user_id),
        ("Another", alive.user_id),
    ]


async def test_sessions_survive_a_rotation_of_the_secret_key(serve: Serve, settings: Settings, tokens: Tokens) -> None:
    newer = msgspec.structs.replace(settings, secret_key=b"n" * 32, secret_key_previous=settings.secret_key)
    without_previous = msgspec.structs.replace(newer, secret_key_previous=b"")
    async with (
        open_client(await serve(create_app(newer))) as rotated,
        open_client(await serve(create_app(without_previous))) as later,
    ):
        there = Tokens(rotated, tokens.access, tokens.refresh)
        assert await there.are_valid()
        renewed = await there.refreshed()
        assert await renewed.are_valid()

        # The new tokens are signed with the new key.
        assert await Tokens(later, renewed.access, renewed.refresh).are_valid()
        assert (await Tokens(later, renewed.access, renewed.refresh).refreshed()).access
        assert not await Tokens(later, tokens.access, tokens.refresh).are_valid()
        assert_invalid_grant(await refresh(later, tokens.refresh))


@pytest.mark.parametrize(
    ("method", "path", "body", "most"),
    [
        ("GET", "/users/me", None, 1),
        ("POST", "/posts", NEW_POST, 1),
        ("POST", "/posts", {"title": ""}, 1),
        ("PATCH", "/posts/{mine}", {"title": ""}, 1),
        ("PATCH", "/posts/abc", {"title": "T"}, 1),
        ("PATCH", "/posts/{mine}", {"title": "T"}, 2),
        ("PATCH", "/posts/{theirs}", {"title": "T"}, 1),
        ("DELETE", "/posts/{mine}", None, 2),
        ("DELETE", "/posts/{theirs}", None, 1),
        ("GET", "/users/me/sessions", None, 1),
        ("DELETE", "/users/me/sessions/{session}", None, 1),
        ("DELETE", "/users/me/sessions", None, 1),
        ("DELETE", "/users/me/sessions/1", None, 2),
        ("DELETE", "/users/me/sessions/abc", None, 1),
        # The session, the account, its failed logins, and the change.
        ("PATCH", "/users/me", {"current_password": "the password of alice"}, 4),
        ("PATCH", "/users/me", {"current_password": "wrong"}, 3),
        ("POST", "/users/me/deletion", {"current_password": "the password of alice"}, 4),
        # The session, the account twice, its failed logins, and a transaction of two statements.
        (
            "POST",
            "/users/me/password",
            {"current_password": "the password of alice", "new_password": "a new password"},
            8,
        ),
        ("GET", "/users/me/export", None, 4),
        # Without a token.
        ("POST", "/auth/register", {"username": "bob", "email": "bob@example.com", "password": "bob's password"}, 1),
        # The account, and a transaction of three statements.
        ("POST", "/auth/token", "username=alice&password=the+password+of+alice", 6),
        ("POST", "/auth/token", "username=alice&password=wrong", 1),
        ("POST", "/auth/token", "grant_type=refresh_token&refresh_token={refresh}", 1),
        ("POST", "/auth/token", "grant_type=refresh_token&refresh_token=rt_forged", 0),
        ("POST", "/auth/revoke", "token={refresh}", 1),
        ("POST", "/auth/revoke", "token=rt_forged", 0),
        ("GET", "/posts/{mine}", None, 1),
        ("GET", "/posts", None, 1),
        ("GET", "/users/1", None, 1),
    ],
)
async def test_finding_the_session_alive_costs_no_statement(
    client: httpx.AsyncClient,
    alice: Person,
    mallory: Person,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    body: Any,
    most: int,
) -> None:
    mine, theirs = await alice.publish(), await mallory.publish()
    tokens = await Tokens.log_in(alice)
    session = next(one for one in await tokens.sessions() if not one["current"])
    sent = []
    run = Database.run

    async def record(db: Database, statement: str, *arguments: Any) -> Any:
        sent.append(statement)
        return await run(db, statement, *arguments)

    run_in_transaction = Transaction.run

    async def record_in_transaction(transaction: Transaction, statement: str, *arguments: Any) -> Any:
        sent.append(statement)
        return await run_in_transaction(transaction, statement, *arguments)

    monkeypatch.setattr(Database, "run", record)
    monkeypatch.setattr(Transaction, "run", record_in_transaction)
    url = path.format(mine=mine["id"], theirs=theirs["id"], session=session["id"])
    sending: dict[str, Any] = {"json": body}
    if isinstance(body, str):
        sending = {"content": body.format(refresh=tokens.refresh)}
        sending["headers"] = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await client.request(method, url, **sending | {"headers": tokens.headers | sending.get("headers", {})})

    assert response.status_code not in {405, 500, 503}
    assert len(sent) == most
