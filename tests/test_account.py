"""The own account: changing it, its password, its deletion and its export."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from msgspec.structs import replace

from service.app import create_app
from service.database.database import Database
from service.queries import account, auth, sessions
from service.settings import Settings
from service.structs.auth import Credentials, LoginAddress
from service.structs.fields import LoginPassword, Username
from service.structs.sessions import Device, Lifetimes, Principal
from service.structs.users import AccountUpdate
from tests.conftest import Serve
from tests.people import Json, Person, Tokens, assert_problem, login, pointers
from tests.serving import open_client
from tests.tables import all_rows, fill, principal_of


async def patch(person: Person, **fields: Any) -> httpx.Response:
    body = {"current_password": person.password} | fields
    return await person.client.patch("/users/me", json=body, headers=person.headers)


async def change_password(person: Person, new: str, headers: dict[str, str] | None = None) -> httpx.Response:
    body = {"current_password": person.password, "new_password": new}
    return await person.client.post("/users/me/password", json=body, headers=headers or person.headers)


async def delete(person: Person) -> httpx.Response:
    body = {"current_password": person.password}
    return await person.client.post("/users/me/deletion", json=body, headers=person.headers)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"username": "alice", "email": "alice@example.com"}),
        ({"username": "Alicia"}, {"username": "Alicia", "email": "alice@example.com"}),
        ({"email": "a@Example.org"}, {"username": "alice", "email": "a@example.org"}),
        ({"username": "Jose\u0301", "email": "j@example.org"}, {"username": "José", "email": "j@example.org"}),
    ],
)
async def test_an_account_can_be_changed(alice: Person, fields: Json, expected: Json) -> None:
    response = await patch(alice, **fields)

    assert (response.status_code, response.json()) == (200, {"id": alice.id} | expected)
    assert response.headers["cache-control"] == "no-store"
    assert (await alice.client.get("/users/me", headers=alice.headers)).json() == response.json()
    assert await login(alice.client, expected["username"], alice.password)


@pytest.mark.parametrize("fields", [{"username": "mallory"}, {"email": "mallory@EXAMPLE.com"}])
async def test_a_name_or_an_address_that_is_taken_is_a_conflict(alice: Person, mallory: Person, fields: Json) -> None:
    assert_problem(await patch(alice, **fields), 409, "username_or_email_taken", "Username or email already exists")
    assert (await alice.client.get("/users/me", headers=alice.headers)).json() == alice.account
    assert (await alice.client.get("/users/me", headers=mallory.headers)).json() == mallory.account


ROUTES = [
    ("PATCH", "/users/me", {"username": "new"}, {"username": "", "email": "x"}, ["/username", "/email"]),
    ("POST", "/users/me/password", {"new_password": "a new password"}, {"new_password": "short"}, ["/new_password"]),
    ("POST", "/users/me/deletion", {}, {}, []),
]
each_route = pytest.mark.parametrize(("method", "path", "body", "invalid", "faults"), ROUTES)


@each_route
async def test_the_checks_come_in_their_order(
    client: httpx.AsyncClient,
    alice: Person,
    db: asyncpg.Connection,
    serve: Serve,
    settings: Settings,
    method: str,
    path: str,
    body: Json,
    invalid: Json,
    faults: list[str],
) -> None:
    before = await all_rows(db)
    ended = await Tokens.log_in(alice)
    await client.post("/auth/revoke", data={"token": ended.access})

    assert_problem(await client.request(method, path, json=invalid), 401, "not_authenticated")
    refused = await client.request(method, path, json=invalid, headers=ended.headers)
    assert_problem(refused, 401, "invalid_token")
    refused = await client.request(method, path, json=invalid, headers=alice.headers)
    assert_problem(refused, 422, "invalid_fields")
    assert sorted(pointers(refused)) == sorted(["/current_password", *faults])
    wrong = body | {"current_password": "wrong password"}
    refused = await client.request(method, path, json=wrong, headers=alice.headers)
    assert_problem(refused, 403, "incorrect_password", "Incorrect password")

    limited = msgspec.structs.replace(settings, login_failures_per_address=2)
    async with open_client(await serve(create_app(limited))) as other:
        statuses = [
            (await other.request(method, path, json=wrong, headers=alice.headers)).status_code for _ in range(3)
        ]
        assert statuses == [403, 403, 429]
        right = body | {"current_password": alice.password}
        refused = await other.request(method, path, json=right, headers=alice.headers)
        assert_problem(refused, 429, "too_many_attempts", "Too many attempts")
        assert int(refused.headers["retry-after"]) in range(895, 901)
        # A failed login: the same counts.
        form = {"username": "alice", "password": alice.password}
        assert (await other.post("/auth/token", data=form)).status_code == 429
    assert await all_rows(db) == before


async def test_a_new_password_ends_all_other_sessions(alice: Person) -> None:
    phone, browser = await Tokens.log_in(alice), await Tokens.log_in(alice)

    response = await change_password(alice, "a better password", browser.headers)

    assert (response.status_code, response.content) == (204, b"")
    assert not await phone.are_valid()
    assert await browser.are_valid()
    assert len(await browser.sessions()) == 1
    assert (await browser.refreshed()).access
    form = {"username": "alice", "password": alice.password}
    assert (await alice.client.post("/auth/token", data=form)).status_code == 401
    assert await login(alice.client, "alice", "a better password")


async def test_of_two_equal_renames_at_once_one_succeeds(alice: Person, mallory: Person) -> None:
    for number in range(100):
        responses = await asyncio.gather(*(patch(person, username=f"name {number}") for person in (alice, mallory)))

        assert sorted(response.status_code for response in responses) == [200, 409]


async def test_of_two_changes_of_the_password_at_once_one_succeeds(alice: Person) -> None:
    for number in range(100):
        new = [f"password {number} of {letter}" for letter in "ab"]
        responses = await asyncio.gather(*(change_password(alice, password) for password in new))

        assert sorted(response.status_code for response in responses) == [204, 403]
        [alice.password] = [
            password for password, response in zip(new, responses, strict=True) if response.status_code == 204
        ]


async def test_a_login_during_a_change_of_the_password_opens_no_session_that_stays(
    alice: Person, db: asyncpg.Connection
) -> None:
    for number in range(50):
        old, new = alice.password, f"password number {number}"
        form = {"username": "alice", "password": old}
        logins = [alice.client.post("/auth/token", data=form) for _ in range(3)]
        changed, *responses = await asyncio.gather(change_password(alice, new), *logins)

        assert changed.status_code == 204
        assert {response.status_code for response in responses} <= {200, 401}
        assert await db.fetchval("select count(*) from sessions") == 1
        alice.password = new


Write = Callable[[Database, Principal, Credentials], Awaitable[object]]


async def rename(db: Database, principal: Principal, verified: Credentials) -> object:
    change = AccountUpdate(LoginPassword("verified before"), username=Username("new"))
    return await account.update(db, principal, verified, change)


async def replace_password(db: Database, principal: Principal, verified: Credentials) -> object:
    return await account.update_password(db, principal, verified, "a new hash")


async def rehash(db: Database, _: Principal, verified: Credentials) -> object:
    return await auth.update_hash(db, verified, replace(verified, password_hash="a new hash"))


async def open_session(db: Database, _: Principal, verified: Credentials) -> object:
    lifetimes = Lifetimes(timedelta(days=30), timedelta(days=90), timedelta(seconds=30))
    known = LoginAddress("192.0.2.1", b"subject")
    return await sessions.insert(db, verified, lifetimes, Device("a browser", "192.0.2.1"), known)


OF_PASSWORD: list[Write] = [rename, replace_password, account.delete, rehash, open_session]
OF_SESSION: list[Write] = [rename, replace_password, account.delete]


@pytest.mark.parametrize(
    ("write", "obstacle"),
    [(write, "none") for write in OF_PASSWORD]
    + [(write, "another password") for write in OF_PASSWORD]
    + [
        (write, obstacle)
        for write in OF_SESSION
        for obstacle in ("a revoked session", "an expired session", "a session of another user")
    ],
)
async def test_a_write_checks_the_password_and_the_session_once_more(
    url_for_db: str, db: asyncpg.Connection, write: Write, obstacle: str
) -> None:
    """What may happen between the verification of the password and the statement has happened here."""
    principal, other = await principal_of(db, "alice"), await principal_of(db, "mallory")
    verified = Credentials(principal.user_id, "hash")
    match obstacle:
        case "another password":
            await db.execute("update users set password_hash = 'another hash' where id = $1", principal.user_id)
        case "a revoked session":
            await db.execute("delete from sessions where id = $1", principal.session_id)
        case "an expired session":
            await db.execute("update sessions set expires_at = now() where id = $1", principal.session_id)
        case "a session of another user":
            principal = replace(principal, session_id=other.session_id)
    before = await everything(db)

    database = Database(url_for_db, connections=1, timeout=5)
    async with database.lifespan():
        applied = await write(database, principal, verified)

    assert bool(applied) == (obstacle == "none")
    assert (await everything(db) == before) == (obstacle != "none")


async def everything(db: asyncpg.Connection) -> list[tuple[object, ...]]:
    """All users, posts, sessions and known addresses."""
    tables = ("sessions order by id", "known_addresses order by user_id, address")
    rows = [row for table in tables for row in await db.fetch(f"select * from {table}")]  # noqa: S608 - constants
    return [*await all_rows(db), *map(tuple, rows)]


async def test_a_deleted_account_takes_posts_and_sessions_with_it(
    alice: Person, mallory: Person, db: asyncpg.Connection
) -> None:
    browser = await Tokens.log_in(alice)
    mine, theirs = await alice.publish(), await mallory.publish()

    response = await delete(alice)

    assert (response.status_code, response.content) == (204, b"")
    assert not await browser.are_valid()
    assert (await alice.client.get(f"/posts/{mine['id']}")).status_code == 404
    assert (await alice.client.get(f"/users/{alice.id}")).status_code == 404
    assert await mallory.read(theirs["id"]) == theirs
    for table in ("sessions", "known_addresses"):
        assert await db.fetchval(f"select count(*) from {table}") == 1  # noqa: S608 - a constant
    refreshed = await alice.client.post(
        "/auth/token", data={"grant_type": "refresh_token", "refresh_token": browser.refresh}
    )
    assert refreshed.status_code == 400
    again = await Person.register(alice.client, "alice")
    assert again.id != alice.id


async def test_a_post_during_the_deletion_of_its_owner_does_not_remain(
    client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    for number in range(100):
        person = await Person.register(client, f"user {number}".replace(" ", "-"))
        writes = [client.post("/posts", json={"title": "T", "content": "C"}, headers=person.headers) for _ in range(5)]
        deleted, *written = await asyncio.gather(delete(person), *writes)

        assert deleted.status_code == 204
        assert {response.status_code for response in written} <= {201, 401}
        assert await db.fetchval("select count(*) from posts") == 0


async def test_an_account_with_a_hundred_thousand_posts_is_deleted(alice: Person, db: asyncpg.Connection) -> None:
    await fill(db, alice.id, 100_000)

    assert (await delete(alice)).status_code == 204

    assert await db.fetchval("select count(*) from posts") == 0


async def test_an_export_has_everything_that_is_stored_except_secrets(
    alice: Person, mallory: Person, db: asyncpg.Connection
) -> None:
    await mallory.publish()
    await fill(db, alice.id, 123)

    response = await alice.client.get("/users/me/export", headers=alice.headers)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-disposition"] == 'attachment; filename="export.json"'
    assert response.headers["cache-control"] == "no-store"
    exported = response.json()
    assert list(exported) == ["account", "sessions", "known_addresses", "posts"]
    assert exported["account"] == alice.account
    assert exported["sessions"] == (await alice.client.get("/users/me/sessions", headers=alice.headers)).json()
    [known] = exported["known_addresses"]
    assert known["address"] == "127.0.0.1"
    stored = await db.fetch("select id from posts where user_id = $1 order by id", alice.id)
    assert [post["id"] for post in exported["posts"]] == [row["id"] for row in stored]
    assert exported["posts"][0] == await alice.read(exported["posts"][0]["id"])
    hashes = [row["password_hash"] for row in await db.fetch("select password_hash from users")]
    assert all(secret not in response.text for secret in hashes)


async def test_an_export_without_posts_is_json(alice: Person) -> None:
    exported = (await alice.client.get("/users/me/export", headers=alice.headers)).json()

    assert exported["posts"] == []


async def test_an_export_needs_a_live_session(alice: Person) -> None:
    tokens = await Tokens.log_in(alice)
    await alice.client.post("/auth/revoke", data={"token": tokens.access})

    response = await alice.client.get("/users/me/export", headers=tokens.headers)

    assert_problem(response, 401, "invalid_token", "Could not validate credentials")
