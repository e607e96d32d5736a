"""Guessing passwords: failed logins are limited by account and by address, and the owner is not locked out."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, Final

import asyncpg
import httpx
import msgspec
import pytest

from service.app import create_app
from service.database.database import Database
from service.queries import auth
from service.security.logins import network_of
from service.security.passwords import Passwords
from service.settings import Settings
from tests.conftest import Serve
from tests.people import Person, assert_problem, login
from tests.serving import Share, SharedApp, open_client

DEFAULTS: Final = Settings(database_url="", secret_key=b"")

# The limits that production has. The other tests switch them off.
LIMITS: Final = {
    "login_failures_per_account": DEFAULTS.login_failures_per_account,
    "login_failures_per_address": DEFAULTS.login_failures_per_address,
}


@pytest.fixture(scope="session")
async def running_app(share: Share) -> SharedApp:
    return await share(**LIMITS)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, **LIMITS)


async def attempt(client: httpx.AsyncClient, username: str, password: str = "wrong password") -> httpx.Response:
    return await client.post("/auth/token", data={"username": username, "password": password})


async def later(db: asyncpg.Connection, by: timedelta) -> None:
    """Move all failures into the past."""
    await db.execute(
        "update login_failures set last_failed_at = last_failed_at - $1::interval, "
        "failed_at = array(select at - $1::interval from unnest(failed_at) with ordinality as f (at, n) order by n)",
        by,
    )


async def forget_addresses(db: asyncpg.Connection) -> None:
    await db.execute("delete from known_addresses")


def assert_refused(response: httpx.Response, seconds: range) -> None:
    assert_problem(response, 429, "too_many_attempts", "Too many attempts")
    assert response.json()["error"] == "temporarily_unavailable"
    assert int(response.headers["retry-after"]) in seconds


@pytest.mark.parametrize("username", ["alice", "nobody"])
async def test_the_eleventh_attempt_after_ten_failures_is_refused(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, username: str
) -> None:
    await forget_addresses(db)
    for _ in range(10):
        assert_problem(await attempt(client, username), 401, "incorrect_credentials")

    assert_refused(await attempt(client, username), range(895, 901))
    assert_refused(await attempt(client, username, alice.password), range(895, 901))


async def test_the_wait_ends_when_the_response_says(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    await forget_addresses(db)
    for _ in range(5):
        await attempt(client, "alice")
    await later(db, timedelta(minutes=5))
    for _ in range(5):
        await attempt(client, "alice")
    assert_refused(await attempt(client, "alice"), range(595, 601))
    await later(db, timedelta(minutes=9, seconds=50))
    assert_refused(await attempt(client, "alice"), range(1, 11))
    await later(db, timedelta(seconds=11))

    # Five failures count no longer, and five do. Refused attempts were not counted.
    assert await login(client, "alice", alice.password)
    await forget_addresses(db)
    for _ in range(5):
        assert_problem(await attempt(client, "alice"), 401, "incorrect_credentials")
    assert_refused(await attempt(client, "alice"), range(295, 301))


async def test_the_fifty_first_attempt_from_an_address_is_refused(client: httpx.AsyncClient, alice: Person) -> None:
    for number in range(50):
        assert_problem(await attempt(client, f"user {number}"), 401, "incorrect_credentials")

    assert_refused(await attempt(client, "another"), range(895, 901))
    assert_refused(await attempt(client, "alice", alice.password), range(895, 901))


async def test_an_attacker_elsewhere_cannot_lock_the_owner_out(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    known = await db.fetchval("update known_addresses set address = '198.51.100.1' returning address")
    for _ in range(10):
        await attempt(client, "alice")  # from here, which is no longer known
    assert_refused(await attempt(client, "alice", alice.password), range(895, 901))

    await db.execute("update known_addresses set address = '127.0.0.1' where address = $1", known)
    for _ in range(9):
        assert_problem(await attempt(client, "alice"), 401, "incorrect_credentials")
    assert await login(client, "alice", alice.password)

    # The success has reset the count of this address.
    for _ in range(10):
        assert_problem(await attempt(client, "alice"), 401, "incorrect_credentials")
    assert_refused(await attempt(client, "alice"), range(895, 901))


@pytest.mark.usefixtures("alice")
async def test_an_address_is_known_for_ninety_days(client: httpx.AsyncClient, db: asyncpg.Connection) -> None:
    await db.execute("update known_addresses set address = 'elsewhere'")
    for _ in range(10):
        await attempt(client, "alice")
    await db.execute("update known_addresses set address = '127.0.0.1', last_login_at = now() - interval '89 days'")
    assert_problem(await attempt(client, "alice"), 401, "incorrect_credentials")
    await db.execute("update known_addresses set last_login_at = now() - interval '91 days'")
    assert_refused(await attempt(client, "alice"), range(895, 901))


async def test_the_wait_is_not_shorter_than_the_limit(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    """A client that waits for as long as it is told is not refused again."""
    await forget_addresses(db)
    for _ in range(10):
        await attempt(client, alice.username)
    await db.execute("update login_failures set failed_at = array_fill(now() - interval '99.5 seconds', array[10])")

    refused = await attempt(client, alice.username)

    assert int(refused.headers["retry-after"]) >= await remaining(db, 10, timedelta(minutes=15))


async def remaining(db: asyncpg.Connection, limit: int, window: timedelta) -> float:
    """The seconds until the oldest of ``limit`` failures no longer counts, as a fraction."""
    seconds: float = await db.fetchval(
        "select extract(epoch from min(failed_at[$1]) + $2::interval - now())::float8 from login_failures",
        limit,
        window,
    )
    return seconds


async def test_successful_logins_are_not_limited(client: httpx.AsyncClient, alice: Person) -> None:
    for password in [alice.password, "wrong password"] * 9:
        await attempt(client, "alice", password)

    responses = await asyncio.gather(*(attempt(client, "alice", alice.password) for _ in range(60)))

    assert {response.status_code for response in responses} == {200}


@pytest.mark.usefixtures("alice")
async def test_a_burst_of_guesses_computes_ten_hashes_and_is_otherwise_refused(
    client: httpx.AsyncClient, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await forget_addresses(db)
    hashed = []
    verify = Passwords.verify

    async def count(passwords: Passwords, password: str, stored: str | None) -> bool:
        hashed.append(stored)
        return await verify(passwords, password, stored)

    monkeypatch.setattr(Passwords, "verify", count)
    responses = await asyncio.gather(*(attempt(client, "alice", str(number)) for number in range(200)))

    statuses = [response.status_code for response in responses]
    assert (statuses.count(401), statuses.count(429)) == (10, 190)
    assert len(hashed) == 10


async def test_more_attempts_than_passwords_may_wait_are_refused_at_once(
    serve: Serve, settings: Settings, db: asyncpg.Connection
) -> None:
    narrow = msgspec.structs.replace(settings, password_queue=20, login_failures_per_account=5)
    async with open_client(await serve(create_app(narrow))) as client:
        async with db.transaction():
            await db.execute("lock table login_failures in exclusive mode")  # no failure can be stored
            attempts = [asyncio.create_task(attempt(client, "nobody", str(number))) for number in range(80)]
            await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
        responses = await asyncio.gather(*attempts)

        statuses = Counter(response.status_code for response in responses)
        assert statuses[401] == 5
        assert statuses[503] > 0
        assert statuses[429] >= 20
        assert statuses.total() == statuses[401] + statuses[429] + statuses[503]
        refused = next(response for response in responses if response.status_code == 503)
        assert_problem(refused, 503, "too_many_passwords")


async def test_attempts_that_wait_continue_after_each_success(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    for _ in range(9):
        await attempt(client, "alice")
    await forget_addresses(db)
    for _ in range(9):
        await attempt(client, "alice")  # so that one attempt is left, for the account and from its address

    async with asyncio.timeout(20):
        responses = await asyncio.gather(*(attempt(client, "alice", alice.password) for _ in range(50)))

    assert {response.status_code for response in responses} == {200}


async def test_failures_that_were_stored_in_another_order_make_no_attempt_wait(
    client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    for _ in range(2):
        await attempt(client, "nobody")
    # Ten of them count, but the tenth in the list does not: their clocks differed.
    await db.execute(
        "update login_failures set failed_at = array_fill(now(), array[9]) || (now() - interval '1 hour') || now()"
    )

    async with asyncio.timeout(10):
        assert_problem(await attempt(client, "nobody"), 401, "incorrect_credentials")


async def test_a_rename_changes_the_name_that_is_counted(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    await forget_addresses(db)
    for _ in range(10):
        await attempt(client, "bob")
    body = {"current_password": alice.password, "username": "bob"}
    assert (await client.patch("/users/me", json=body, headers=alice.headers)).status_code == 200

    assert_refused(await attempt(client, "bob", alice.password), range(895, 901))
    assert_problem(await attempt(client, "alice", alice.password), 401, "incorrect_credentials")
    await later(db, timedelta(minutes=15))
    assert await login(client, "bob", alice.password)


@pytest.mark.usefixtures("alice")
async def test_two_processes_agree_on_the_failures(
    serve: Serve, settings: Settings, client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    await forget_addresses(db)
    async with open_client(await serve(create_app(settings))) as other:
        for one in [client, other] * 5:
            assert_problem(await attempt(one, "alice"), 401, "incorrect_credentials")
        for one in (client, other):
            assert_refused(await attempt(one, "alice"), range(895, 901))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"login_failures_per_account": 0, "login_failures_per_address": 3}, [401, 401, 401, 429]),
        ({"login_failures_per_account": 2, "login_failures_per_address": 0}, [401, 401, 429, 429]),
        ({"login_failures_per_account": 0, "login_failures_per_address": 0}, [401, 401, 401, 401]),
    ],
)
async def test_the_limits_are_settings_and_zero_switches_one_off(
    serve: Serve, settings: Settings, change: dict[str, Any], refused: list[int]
) -> None:
    address = await serve(create_app(msgspec.structs.replace(settings, **change)))
    async with open_client(address) as client:
        assert [(await attempt(client, "nobody")).status_code for _ in range(4)] == refused


async def test_failures_before_the_window_do_not_count(
    serve: Serve, settings: Settings, db: asyncpg.Connection
) -> None:
    only = msgspec.structs.replace(settings, login_failures_per_account=2, login_failures_per_address=0)
    async with open_client(await serve(create_app(only))) as client:
        for _ in range(2):
            await attempt(client, "nobody")
        await later(db, timedelta(minutes=16))

        assert_problem(await attempt(client, "nobody"), 401, "incorrect_credentials")


async def test_the_addresses_of_an_ipv6_network_share_their_counts(serve: Serve, settings: Settings) -> None:
    changed = msgspec.structs.replace(
        settings,
        trusted_proxies=("127.0.0.1/32",),
        login_failures_per_account=2,
        login_failures_per_address=4,
        registrations_per_hour=2,
    )
    async with open_client(await serve(create_app(changed))) as client:

        async def send(address: str, path: str, **options: Any) -> int:
            return (await client.post(path, headers={"X-Forwarded-For": address}, **options)).status_code

        async def log_in(address: str, username: str, password: str) -> int:
            return await send(address, "/auth/token", data={"username": username, "password": password})

        async def register(address: str, username: str) -> int:
            body = {"username": username, "email": f"{username}@example.com", "password": "correct horse"}
            return await send(address, "/auth/register", json=body)

        assert [await register(f"2001:db8:1:2::{host}", f"user{host}") for host in (1, 2, 3)] == [201, 201, 429]
        assert await register("2001:db8:1:3::1", "elsewhere") == 201

        # The network is known from a login, so failures elsewhere do not count here.
        assert await log_in("2001:db8:1:2::1", "user1", "correct horse") == 200
        assert [await log_in("192.0.2.1", "user1", "wrong") for _ in range(3)] == [401, 401, 429]
        assert await log_in("2001:db8:1:2::2", "user1", "correct horse") == 200

        names = ("a", "b", "c", "d", "e")
        assert [await log_in(f"2001:db8:1:2::{name}", name, "wrong") for name in names] == [401, 401, 401, 401, 429]
        assert await log_in("2001:db8:1:3::a", "e", "wrong") == 401


async def test_registrations_from_an_address_can_be_limited(
    serve: Serve, settings: Settings, db: asyncpg.Connection
) -> None:
    limited = msgspec.structs.replace(settings, registrations_per_hour=3)
    async with open_client(await serve(create_app(limited))) as client:

        async def register(name: str) -> httpx.Response:
            body = {"username": name, "email": f"{name}@example.com", "password": "correct horse"}
            return await client.post("/auth/register", json=body)

        responses = await asyncio.gather(*(register(f"user{number}") for number in range(10)))

        statuses = [response.status_code for response in responses]
        assert (statuses.count(201), statuses.count(429)) == (3, 7)
        refused = next(response for response in responses if response.status_code == 429)
        assert_problem(refused, 429, "too_many_attempts", "Too many attempts")
        assert int(refused.headers["retry-after"]) in range(3590, 3601)
        await db.execute("update login_failures set failed_at = array_fill(now() - interval '99.5 s', array[3])")
        refused = await register("too-early")
        assert int(refused.headers["retry-after"]) >= await remaining(db, 3, timedelta(hours=1))
        await later(db, timedelta(hours=1))
        assert (await register("later")).status_code == 201


@pytest.mark.parametrize("registered", [[], [timedelta(hours=2)]])
async def test_a_wait_that_has_just_ended_is_a_second(
    url_for_db: str, db: asyncpg.Connection, registered: list[timedelta]
) -> None:
    """The statement that refused the registration ran before the one that reads the wait."""
    for age in registered:
        await db.execute("insert into login_failures values ('subject', array[now() - $1::interval], now())", age)
    database = Database(url_for_db, connections=1, timeout=5)
    async with database.lifespan():
        assert await auth.select_wait(database, b"subject", 1, timedelta(hours=1)) == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.usefixtures("alice")
async def test_no_name_that_was_typed_is_stored(client: httpx.AsyncClient, db: asyncpg.Connection) -> None:
    await attempt(client, "a password typed as a name")

    rows = await db.fetch("select * from login_failures")

    assert len(rows) == 2
    assert "typed" not in str(rows)
    assert all(len(row["subject"]) == 32 for row in rows)
