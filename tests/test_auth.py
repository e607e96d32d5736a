"""Registration, login and access tokens."""

import asyncio
import logging
import os
import threading
import time
from collections import Counter

import argon2
import asyncpg
import httpx
import jwt
import msgspec
import pytest

from service.app import create_app
from service.security.keys import ACCESS_TOKEN, SecretKey
from service.security.passwords import NICENESS, Passwords
from service.security.tokens import ALGORITHM, ISSUER, TYPE
from service.settings import Settings
from tests.conftest import Serve, settings_of
from tests.people import Json, Person, assert_problem, login, pointers
from tests.serving import open_client

BODY = {"username": "alice", "email": "alice@example.com", "password": "correct horse"}


async def count_users(db: asyncpg.Connection) -> int:
    count: int = await db.fetchval("select count(*) from users")
    return count


async def test_a_registration_creates_an_account(client: httpx.AsyncClient, db: asyncpg.Connection) -> None:
    response = await client.post("/auth/register", json=BODY)

    assert response.status_code == 201
    user = response.json()
    assert user == {"id": user["id"], "username": "alice", "email": "alice@example.com"}
    assert (await client.get(response.url.join(response.headers["location"]))).json() == user | {"posts": []}
    assert await count_users(db) == 1


async def test_only_an_argon2id_hash_of_the_password_is_stored(
    client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    await client.post("/auth/register", json=BODY)

    stored = await db.fetchval("select password_hash from users")

    assert argon2.extract_parameters(stored).type is argon2.Type.ID
    assert argon2.PasswordHasher().verify(stored, BODY["password"])
    assert "correct horse" not in str([tuple(row) for row in await db.fetch("select * from users")])


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("Alice.B@EXAMPLE.Com", "Alice.B@example.com"),
        ("alice+tag@example.co.uk", "alice+tag@example.co.uk"),
        ("ünï@bücher.example.com", "ünï@bücher.example.com"),
        ("a@xn--bcher-kva.example.com", "a@bücher.example.com"),
    ],
)
async def test_the_domain_of_an_address_is_stored_in_lower_case(
    client: httpx.AsyncClient, given: str, stored: str
) -> None:
    response = await client.post("/auth/register", json=BODY | {"email": given})

    assert (response.status_code, response.json()["email"]) == (201, stored)


@pytest.mark.parametrize(
    ("change", "invalid"),
    [
        ({"username": ""}, ["/username"]),
        ({"username": "u" * 51}, ["/username"]),
        ({"username": "a\0"}, ["/username"]),
        ({"email": "nonsense"}, ["/email"]),
        ({"email": "a@b@example.com"}, ["/email"]),
        ({"email": "a@localhost"}, ["/email"]),
        ({"email": "a\0@example.com"}, ["/email"]),
        ({"email": f"{'a' * 64}@{'b' * 56}.com"}, ["/email"]),
        ({"email": None}, ["/email"]),
        ({"email": ["a@example.com"]}, ["/email"]),
        ({"password": "seven77"}, ["/password"]),
        ({"password": "p" * 129}, ["/password"]),
        ({"password": "eight\0888"}, ["/password"]),
        ({"username": 5, "email": 5, "password": 5}, ["/username", "/email", "/password"]),
        ({"username": "", "email": "x", "password": "short"}, ["/username", "/email", "/password"]),
    ],
)
async def test_an_invalid_registration_is_refused_with_all_invalid_fields(
    client: httpx.AsyncClient, db: asyncpg.Connection, change: Json, invalid: list[str]
) -> None:
    response = await client.post("/auth/register", json=BODY | change)

    assert_problem(response, 422, "invalid_fields")
    assert pointers(response) == invalid
    assert await count_users(db) == 0


async def test_all_missing_fields_are_named(client: httpx.AsyncClient) -> None:
    response = await client.post("/auth/register", json={})

    assert pointers(response) == ["/username", "/email", "/password"]


@pytest.mark.parametrize(
    "change",
    [
        {"username": "u" * 50},
        {"username": "😀" * 50},
        {"password": "8 chars!"},
        {"password": "😀" * 128},
        {"email": f"{'a' * 60}@{'b' * 55}.com"},
    ],
)
async def test_values_at_the_limits_are_accepted(client: httpx.AsyncClient, change: dict[str, str]) -> None:
    body = BODY | change

    response = await client.post("/auth/register", json=body)

    assert response.status_code == 201, response.text
    assert await login(client, body["username"], body["password"])


@pytest.mark.parametrize(
    "change",
    [{"email": "other@example.com"}, {"username": "other"}, {"username": "other", "email": "alice@EXAMPLE.com"}],
)
async def test_a_taken_username_or_email_address_is_a_conflict(
    client: httpx.AsyncClient, db: asyncpg.Connection, change: Json
) -> None:
    await client.post("/auth/register", json=BODY)

    response = await client.post("/auth/register", json=BODY | change)

    assert_problem(response, 409, "username_or_email_taken", "Username or email already exists")
    assert await count_users(db) == 1


async def test_only_one_of_two_hundred_equal_registrations_succeeds(
    client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    responses = await asyncio.gather(*(client.post("/auth/register", json=BODY) for _ in range(200)))

    assert Counter(response.status_code for response in responses) == {201: 1, 409: 199}
    assert await count_users(db) == 1


async def test_a_login_returns_a_token(client: httpx.AsyncClient, alice: Person) -> None:
    form = {"username": alice.username, "password": alice.password}

    response = await client.post("/auth/token", data=form)

    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    token = response.json()
    assert (token["token_type"], token["expires_in"]) == ("bearer", 1800)
    me = await client.get("/users/me", headers={"Authorization": f"Bearer {token['access_token']}"})
    assert (me.status_code, me.json()) == (200, alice.account)


@pytest.mark.parametrize(
    "more",
    [
        {"grant_type": "password"},
        {"grant_type": ""},
        {"resource": ["https://a", "https://b"]},  # RFC 8707
        {"scope": "a b", "client_id": "x", "client_secret": "y", "unknown": "\0"},
    ],
)
async def test_other_fields_of_oauth2_are_accepted(client: httpx.AsyncClient, alice: Person, more: Json) -> None:
    form = {"username": alice.username, "password": alice.password} | more

    response = await client.post("/auth/token", data=form)

    assert response.status_code == 200, response.text


async def test_a_login_may_be_a_multipart_form(client: httpx.AsyncClient, alice: Person) -> None:
    form = {"username": (None, alice.username), "password": (None, alice.password)}

    response = await client.post("/auth/token", files=form)

    assert response.status_code == 200, response.text


async def test_a_login_ignores_client_credentials_in_the_header(client: httpx.AsyncClient, alice: Person) -> None:
    form = {"username": alice.username, "password": alice.password}

    response = await client.post("/auth/token", data=form, auth=("client", "secret"))

    assert response.status_code == 200


async def test_every_character_of_a_password_counts(client: httpx.AsyncClient) -> None:
    password = "Ünïcode & spaces + % = \u00e9 "  # characters that a form has to encode
    await client.post("/auth/register", json=BODY | {"password": password})

    assert await login(client, "alice", password)
    refused = await client.post("/auth/token", data={"username": "alice", "password": password.strip()})
    assert_problem(refused, 401, "incorrect_credentials")


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("alice", "wrong password"),
        ("nobody", "the password of alice"),
        ("ALICE", "the password of alice"),
        ("a" * 999, "b" * 9999),
    ],
)
@pytest.mark.usefixtures("alice")
async def test_a_failed_login_does_not_say_what_was_wrong(
    client: httpx.AsyncClient, username: str, password: str
) -> None:
    response = await client.post("/auth/token", data={"username": username, "password": password})

    assert_problem(response, 401, "incorrect_credentials", "Incorrect username or password")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("form", "invalid"),
    [
        (b"", ["/username", "/password"]),
        (b"username=&password=", ["/username", "/password"]),
        (b"username=alice", ["/password"]),
        (b"password=x&password=y", ["/username", "/password"]),
        (b"username=a%00&password=b%00", ["/username", "/password"]),
        (b"username=a&password=b&grant_type=password&grant_type=password", ["/grant_type"]),
    ],
)
async def test_an_invalid_login_is_refused_with_all_invalid_fields(
    client: httpx.AsyncClient, form: bytes, invalid: list[str]
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    response = await client.post("/auth/token", content=form, headers=headers)

    assert_problem(response, 422, "invalid_fields")
    assert pointers(response) == invalid


async def test_a_login_takes_as_much_work_for_an_unknown_username_as_for_a_wrong_password(
    serve: Serve, settings: Settings
) -> None:
    """Compares the CPU time of the thread that hashes, which does not depend on what else the machine does."""
    app = create_app(msgspec.structs.replace(settings, password_memory_kib=16 * 1024, password_threads=1))
    hashing = app.state["passwords"]._threads  # noqa: SLF001 - only the thread itself knows its CPU time
    async with open_client(await serve(app)) as client:
        await client.post("/auth/register", json=BODY)

        async def seconds(username: str) -> float:
            before = hashing.submit(time.thread_time).result()
            response = await client.post("/auth/token", data={"username": username, "password": "wrong"})
            assert response.status_code == 401
            spent: float = hashing.submit(time.thread_time).result() - before
            return spent

        spent = [(await seconds("alice"), await seconds("nobody")) for _ in range(7)]

    known, unknown = map(min, zip(*spent, strict=True))
    assert 0.5 < known / unknown < 2


async def test_a_login_rehashes_a_password_with_the_current_settings(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    older = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(alice.password)
    await db.execute("update users set password_hash = $1", older)

    assert await login(client, alice.username, alice.password)

    renewed = await db.fetchval("select password_hash from users")
    assert renewed != older
    parameters = argon2.extract_parameters(renewed)
    assert (parameters.memory_cost, parameters.time_cost) == (8, 1)
    assert await login(client, alice.username, alice.password)
    assert await db.fetchval("select password_hash from users") == renewed


async def test_logins_at_once_that_all_rehash_the_password_succeed(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    for passes in range(2, 12):
        older = argon2.PasswordHasher(time_cost=passes, memory_cost=16, parallelism=1).hash(alice.password)
        await db.execute("update users set password_hash = $1", older)

        assert all(await asyncio.gather(*(login(client, alice.username, alice.password) for _ in range(10))))


async def test_a_hundred_queued_logins_are_all_served(client: httpx.AsyncClient, alice: Person) -> None:
    form = {"username": alice.username, "password": alice.password}

    responses = await asyncio.gather(*(client.post("/auth/token", data=form) for _ in range(100)))

    assert Counter(response.status_code for response in responses) == {200: 100}


async def test_logins_over_the_limit_of_the_password_queue_get_a_503(serve: Serve, settings: Settings) -> None:
    narrow = msgspec.structs.replace(settings, password_queue=2, password_threads=1, password_memory_kib=16 * 1024)
    async with open_client(await serve(create_app(narrow))) as client:
        form = {"username": "nobody", "password": "whatever"}

        responses = await asyncio.gather(*(client.post("/auth/token", data=form) for _ in range(30)))

        statuses = Counter(response.status_code for response in responses)
        assert set(statuses) == {401, 503}
        refused = next(response for response in responses if response.status_code == 503)
        assert_problem(refused, 503, "too_many_passwords")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.post("/auth/token", data=form)).status_code == 401


async def test_reads_are_served_while_a_password_is_hashed(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash must not be computed on the event loop."""
    reads = reads_meanwhile = 0
    verify = Passwords._verify  # noqa: SLF001 - what runs in the thread

    def count_reads(passwords: Passwords, password: str, stored: str) -> bool:
        nonlocal reads_meanwhile
        before = reads
        is_correct = verify(passwords, password, stored)
        reads_meanwhile = reads - before
        return is_correct

    monkeypatch.setattr(Passwords, "_verify", count_reads)
    slow = msgspec.structs.replace(settings, password_memory_kib=64 * 1024, password_threads=1)
    async with open_client(await serve(create_app(slow))) as client:
        login = asyncio.create_task(client.post("/auth/token", data={"username": "nobody", "password": "x"}))
        while not login.done():
            assert (await client.get("/")).status_code == 200
            reads += 1

        assert (await login).status_code == 401
    assert reads_meanwhile > 5


def forged(claims: Json, header: Json, key: bytes, algorithm: str) -> str:
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, key or "", algorithm, headers={"typ": None} | header)


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
@pytest.mark.parametrize(
    ("change", "key", "algorithm"),
    [
        ({}, b"another key of thirty-two bytes!", "HS256"),
        ({}, None, "HS512"),
        ({}, b"", "none"),
        ({"exp": 1}, None, "HS256"),
        ({"exp": "4102444800"}, None, "HS256"),
        ({"exp": None}, None, "HS256"),
        ({"iat": None}, None, "HS256"),
        ({"iat": 4102444800}, None, "HS256"),
        ({"iss": "another service"}, None, "HS256"),
        ({"iss": None}, None, "HS256"),
        ({"sub": None}, None, "HS256"),
        ({"sub": "0"}, None, "HS256"),
        ({"sub": "alice"}, None, "HS256"),
        ({"sub": "99999999999999999999"}, None, "HS256"),
        ({"sid": None}, None, "HS256"),
        ({"sid": "0"}, None, "HS256"),
        ({"sid": 7}, None, "HS256"),
        ({"sid": "9223372036854775807"}, None, "HS256"),
        ({"typ": "JWT"}, None, "HS256"),
        ({"typ": None}, None, "HS256"),
        ({"kid": "00000000"}, None, "HS256"),
        ({"kid": None}, None, "HS256"),
    ],
)
async def test_only_complete_and_current_tokens_of_this_service_are_accepted(
    client: httpx.AsyncClient, alice: Person, change: Json, key: bytes | None, algorithm: str
) -> None:
    now = int(time.time())
    secret = SecretKey(settings_of().secret_key)
    ours_key = secret.derive(ACCESS_TOKEN)
    session_id = jwt.decode(alice.token, options={"verify_signature": False})["sid"]
    claims = {"iss": ISSUER, "sub": str(alice.id), "sid": session_id, "iat": now, "exp": now + 60}
    header = {"typ": TYPE, "kid": secret.id}
    in_header = {name: value for name, value in change.items() if name in header}
    in_claims = {name: value for name, value in change.items() if name not in header}
    ours = forged(claims, header, ours_key, ALGORITHM)
    changed_header = {name: value for name, value in (header | in_header).items() if value is not None}
    theirs = forged(claims | in_claims, changed_header, ours_key if key is None else key, algorithm)

    accepted = await client.get("/users/me", headers={"Authorization": f"Bearer {ours}"})
    refused = await client.get("/users/me", headers={"Authorization": f"Bearer {theirs}"})

    assert accepted.status_code == 200
    assert_problem(refused, 401, "invalid_token", "Could not validate credentials")
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    "token", ["x", "a.b.c", "..", "\xff.\xff.\xff", "W1tb" * 3000 + ".e30.e30", "x" * 8000, "x" * 1025]
)
async def test_a_malformed_token_is_refused(client: httpx.AsyncClient, token: str) -> None:
    response = await client.get("/users/me", headers=[(b"Authorization", b"Bearer " + token.encode("latin-1"))])

    assert_problem(response, 401, "invalid_token", "Could not validate credentials")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic YWxpY2U6eA==", "Token x", "bearerx"])
async def test_a_request_without_a_bearer_token_is_not_authenticated(
    client: httpx.AsyncClient, header: str | None
) -> None:
    response = await client.get("/users/me", headers={} if header is None else {"Authorization": header})

    assert_problem(response, 401, "not_authenticated", "Not authenticated")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_the_authentication_scheme_is_case_insensitive(client: httpx.AsyncClient, alice: Person) -> None:
    response = await client.get("/users/me", headers={"Authorization": f"bEARER  {alice.token}"})

    assert response.status_code == 200


async def test_hashing_threads_have_a_lower_priority_than_the_event_loop(client: httpx.AsyncClient) -> None:
    await Person.register(client, "alice")

    loop = os.getpriority(os.PRIO_PROCESS, 0)
    threads = [thread.native_id for thread in threading.enumerate() if thread.name.startswith("argon2")]
    assert {os.getpriority(os.PRIO_PROCESS, thread or 0) for thread in threads} == {loop + NICENESS}


async def test_the_token_of_a_deleted_user_is_refused(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    mine = await alice.publish()
    await db.execute("delete from users")

    for response in [
        await client.get("/users/me", headers=alice.headers),
        await client.post("/posts", json={"title": "T", "content": "C"}, headers=alice.headers),
        await client.patch(f"/posts/{mine['id']}", json={"title": "T"}, headers=alice.headers),
        await client.delete(f"/posts/{mine['id']}", headers=alice.headers),
    ]:
        assert_problem(response, 401, "invalid_token", "Could not validate credentials")
    assert await db.fetchval("select count(*) from posts") == 0


async def test_a_token_expires_after_its_lifetime(serve: Serve, settings: Settings) -> None:
    short = msgspec.structs.replace(settings, access_token_minutes=7)
    async with open_client(await serve(create_app(short))) as client:
        alice = await Person.register(client, "alice")

    key = SecretKey(settings.secret_key).derive(ACCESS_TOKEN)
    claims = jwt.decode(alice.token, key, algorithms=[ALGORITHM], issuer=ISSUER)
    assert claims["exp"] - claims["iat"] == 7 * 60
    assert abs(claims["iat"] - time.time()) < 60
    assert claims["sub"] == str(alice.id)
    assert set(claims) == {"iss", "sub", "sid", "iat", "exp"}


async def test_no_secret_is_in_a_log_or_a_response(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, settings: Settings
) -> None:
    caplog.set_level(logging.DEBUG)
    password = "a password that stays secret"
    responses = [
        await client.post("/auth/register", json=BODY | {"password": password}),
        await client.post("/auth/register", json=BODY | {"password": password}),
        await client.post("/auth/register", json=BODY | {"password": password, "email": "x"}),
        await client.post("/auth/register", json=BODY | {"password": [password]}),
        await client.post("/auth/token", data={"username": "alice", "password": password}),
        await client.post("/auth/token", data={"username": "alice", "password": password + "?"}),
        await client.post("/auth/token", data={"username": "alice\0", "password": password}),
    ]

    assert [response.status_code for response in responses] == [201, 409, 422, 422, 200, 401, 422]
    written = caplog.text + "".join(response.text for response in responses)
    for secret in (password, "$argon2", settings.secret_key.decode()):
        assert secret not in written
    assert responses[4].json()["access_token"] not in caplog.text
    assert "SECRET" not in repr(settings)
    assert settings.secret_key.decode() not in repr(settings)
