"""Idempotency-Key on POST /posts: a post is created once, and its first response is sent again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import httpx
import msgspec
import pytest

from service.app import create_app
from service.database.database import Database
from service.errors import KeyInProgress
from service.queries import idempotency_keys
from service.queries.idempotency_keys import StoredResponse
from service.settings import Settings
from service.structs.posts import PostCreate, StoredPost
from tests.conftest import Serve
from tests.people import Json, Person, Tokens, assert_problem, login, pointers
from tests.processes import Start, free_port, pause, read_until, wait_until_serving
from tests.recorder import Recorder
from tests.serving import open_client
from tests.tables import principal_of
from tests.waiting import wait_for_blocked_session

BODY = {"title": "T", "content": "C"}
REPLAYED = "idempotency-replayed"


async def send(person: Person, key: str, body: Json | None = None, path: str = "/posts") -> httpx.Response:
    headers = {**person.headers, "Idempotency-Key": key}
    return await person.client.post(path, json=body or BODY, headers=headers)


def parts_of(response: httpx.Response) -> tuple[int, bytes, str, str]:
    """What must be the same when a response is sent again."""
    return response.status_code, response.content, response.headers["location"], response.headers["etag"]


async def count(db: asyncpg.Connection, table: str = "posts") -> int:
    number: int = await db.fetchval(f"select count(*) from {table}")  # noqa: S608 - our own text
    return number


@pytest.mark.parametrize("afterwards", ["nothing", "patch", "delete"])
async def test_the_first_response_is_sent_again(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, afterwards: str
) -> None:
    first = await send(alice, "key")
    path = f"/posts/{first.json()['id']}"
    if afterwards == "patch":
        await client.patch(path, json={"title": "New"}, headers=alice.headers)
    elif afterwards == "delete":
        await client.delete(path, headers=alice.headers)
    expected = await count(db)

    again = await send(alice, "key")

    assert first.status_code == 201
    assert REPLAYED not in first.headers
    assert parts_of(again) == parts_of(first)
    assert again.headers[REPLAYED] == "true"
    assert again.headers["content-type"] == first.headers["content-type"] == "application/json"
    assert await count(db) == expected
    without = await client.post("/posts", json=BODY, headers=alice.headers)
    assert without.json() == {**first.json(), "id": without.json()["id"], "date_posted": without.json()["date_posted"]}
    assert without.json()["id"] != first.json()["id"]


async def test_the_location_holds_for_each_spelling_of_the_path(client: httpx.AsyncClient, alice: Person) -> None:
    first = await send(alice, "key")

    again = await send(alice, "key", path="/posts/")

    assert again.url.join(again.headers["location"]).path == first.url.join(first.headers["location"]).path
    assert (await client.get(again.url.join(again.headers["location"]))).json() == first.json()


@pytest.mark.parametrize(
    "body", [{"title": "T", "content": "D"}, {"title": "U", "content": "C"}, {"title": "TC", "content": "C"}]
)
async def test_a_key_with_another_body_is_refused(alice: Person, db: asyncpg.Connection, body: Json) -> None:
    first = await send(alice, "key")

    response = await send(alice, "key", body)

    assert_problem(response, 422, "key_used_with_another_body", "Idempotency-Key was used with another body")
    assert pointers(response) == [""]
    assert await count(db) == 1
    assert parts_of(await send(alice, "key", {**BODY, "other": "ignored"})) == parts_of(first)


async def test_each_user_has_their_own_keys(alice: Person, mallory: Person) -> None:
    first, other = await send(alice, "key"), await send(mallory, "key")

    assert other.status_code == 201
    assert REPLAYED not in other.headers
    assert (first.json()["user_id"], other.json()["user_id"]) == (alice.id, mallory.id)


async def test_a_key_holds_in_another_session_of_the_user(alice: Person) -> None:
    first = await send(alice, "key")
    alice.token = await login(alice.client, alice.username, alice.password)

    assert parts_of(await send(alice, "key")) == parts_of(first)


@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        ('"key"', "key"),
        (r'"k\"\\y"', r'k"\y'),
        ("k" * 255, '"' + "k" * 255 + '"'),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'),
        ("a,b;c=d", '"a,b;c=d"'),
    ],
)
async def test_a_key_may_have_quotes(alice: Person, db: asyncpg.Connection, value: str, same_as: str) -> None:
    first = await send(alice, value)

    again = await send(alice, same_as)

    assert first.status_code == 201
    assert parts_of(again) == parts_of(first)
    assert again.headers[REPLAYED] == "true"
    assert await count(db) == 1


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a b",
        "k" * 256,
        '"' + "k" * 256 + '"',
        '""',
        '"',
        '"a',
        '"a"b',
        '"a b"',
        r'"a\b"',
        "\xe9",
        "a\xff",
        "a\tb",
    ],
)
async def test_a_malformed_key_is_a_bad_request(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, value: str
) -> None:
    sent = {**alice.headers, "Idempotency-Key": value}
    headers = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]

    response = await client.post("/posts", json=BODY, headers=headers)

    assert_problem(response, 400, "malformed_idempotency_key")
    assert await count(db) == 0


async def test_a_request_has_one_key(client: httpx.AsyncClient, alice: Person) -> None:
    lines = [*alice.headers.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "a")]

    assert_problem(await client.post("/posts", json=BODY, headers=lines), 400, "malformed_idempotency_key")


async def test_only_a_201_is_stored(client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection) -> None:
    invalid = await send(alice, "key", {"title": "", "content": ""})
    nobody = await client.post("/posts", json=BODY, headers={"Idempotency-Key": "key"})
    await db.execute("alter table posts add constraint posts_title_none check (title <> 'T') not valid")
    failed = await send(alice, "key")
    await db.execute("alter table posts drop constraint posts_title_none")

    assert [one.status_code for one in (invalid, nobody, failed)] == [422, 401, 500]
    assert await count(db, "idempotency_keys") == 0
    created = await send(alice, "key")
    assert created.status_code == 201
    assert REPLAYED not in created.headers


async def test_an_ended_session_gets_no_stored_response(client: httpx.AsyncClient, alice: Person) -> None:
    await send(alice, "key")
    ended = await Tokens.log_in(alice)
    await client.post("/auth/revoke", data={"token": ended.access})

    for key in ("key", "new", "mal formed"):
        response = await client.post("/posts", json=BODY, headers={**ended.headers, "Idempotency-Key": key})
        assert_problem(response, 401, "invalid_token")


async def test_a_key_can_be_used_again_after_24_hours(alice: Person, db: asyncpg.Connection) -> None:
    first = await send(alice, "key")
    await db.execute("update idempotency_keys set created_at = created_at - interval '23 hours 59 minutes'")
    assert parts_of(await send(alice, "key")) == parts_of(first)
    await db.execute("update idempotency_keys set created_at = created_at - interval '2 minutes'")

    other = await send(alice, "key", {"title": "Other", "content": "C"})

    assert other.status_code == 201
    assert REPLAYED not in other.headers
    assert parts_of(await send(alice, "key", {"title": "Other", "content": "C"})) == parts_of(other)
    assert (await count(db), await count(db, "idempotency_keys")) == (2, 1)


async def test_deleting_the_account_deletes_the_stored_responses(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    await send(alice, "key")

    deleted = await client.post("/users/me/deletion", json={"current_password": alice.password}, headers=alice.headers)

    assert deleted.status_code == 204
    assert await count(db, "idempotency_keys") == 0


async def test_fifty_equal_requests_at_once_create_one_post(database_url: str, db: asyncpg.Connection) -> None:
    """A hundred times, over what two processes have: a pool each."""
    principal = await principal_of(db, "alice")
    databases = [Database(database_url, connections=3, timeout=5) for _ in range(2)]
    async with databases[0].lifespan(), databases[1].lifespan():
        for number in range(100):
            post = PostCreate(str(number), "C")

            results = await asyncio.gather(
                *(
                    idempotency_keys.insert_post(databases[n % 2], principal, f"key {number}", post, to_store)
                    for n in range(50)
                )
            )

            assert [is_new for _, is_new in results].count(True) == 1
            assert len({stored.post_id for stored, _ in results}) == 1
            assert await count(db) == number + 1


async def test_fifty_equal_requests_over_two_processes_get_one_response(
    start: Start, environment: dict[str, str], database_url: str, db: asyncpg.Connection
) -> None:
    ports = [environment["PORT"], str(free_port())]
    for port in ports:
        await start("service", DATABASE_URL=database_url, PORT=port, DATABASE_CONNECTIONS="3")
    async with AsyncExitStack() as stack:
        clients = [open_client(f"http://127.0.0.1:{port}") for port in ports]
        for client in clients:
            await stack.enter_async_context(client)
            await wait_until_serving(client)
        alice = await Person.register(clients[0], "alice")
        for number in range(5):
            headers = {**alice.headers, "Idempotency-Key": str(number)}

            responses = await asyncio.gather(
                *(clients[n % 2].post("/posts", json=BODY, headers=headers) for n in range(50))
            )

            assert {parts_of(response) for response in responses} == {parts_of(responses[0])}
            assert responses[0].status_code == 201
            assert [response.headers.get(REPLAYED) for response in responses].count(None) == 1
            assert await count(db) == number + 1


@asynccontextmanager
async def locked(database_url: str, statement: str, *arguments: object) -> AsyncIterator[None]:
    """A transaction of another program, which is rolled back at the end of the block."""
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(statement, *arguments)
    yield
    await transaction.rollback()
    await connection.close()


async def test_fifty_requests_that_wait_hold_one_connection(
    database_url: str, db: asyncpg.Connection, client: httpx.AsyncClient, alice: Person
) -> None:
    async with locked(database_url, "lock table posts in share mode"):
        requests = [asyncio.create_task(send(alice, "key")) for _ in range(50)]
        await wait_for_blocked_session(db)
        busy = "select count(*) from pg_stat_activity where datname = current_database() and state = 'active'"
        assert (await client.get("/posts")).json() == []
        assert await db.fetchval(busy) == 2  # this statement, and one request
    responses = await asyncio.gather(*requests)

    assert {parts_of(response) for response in responses} == {parts_of(responses[0])}
    assert await count(db) == 1


async def test_a_request_that_waits_too_long_for_another_gets_a_409(
    serve: Serve, settings: Settings, database_url: str, db: asyncpg.Connection
) -> None:
    app = create_app(msgspec.structs.replace(settings, database_timeout_seconds=1))
    async with open_client(await serve(app)) as client:
        alice = await Person.register(client, "alice")
        insert = "insert into idempotency_keys (user_id, key, digest) values ($1, 'key', 'other')"
        async with locked(database_url, insert, alice.id):
            responses = await asyncio.gather(*(send(alice, "key") for _ in range(5)), send(alice, "other"))
        for response in responses[:5]:
            assert_problem(response, 409, "key_in_progress", "A request with this key is in progress")
        assert responses[5].status_code == 201
        assert await count(db) == 1

        assert (await send(alice, "key")).status_code == 201


async def test_a_lock_that_is_not_the_keys_is_a_503(
    serve: Serve, settings: Settings, database_url: str, db: asyncpg.Connection
) -> None:
    app = create_app(msgspec.structs.replace(settings, database_timeout_seconds=1))
    async with open_client(await serve(app)) as client:
        alice = await Person.register(client, "alice")
        for statement in [
            "lock table posts in share mode",
            "lock table idempotency_keys",
            "select id from users for update",
        ]:
            async with locked(database_url, statement):
                assert_problem(await send(alice, "key"), 503, "database_unavailable")
        assert (await count(db), await count(db, "idempotency_keys")) == (0, 0)
        assert (await send(alice, "key")).status_code == 201


async def test_a_request_waits_for_another_in_this_process_for_a_bounded_time(
    database_url: str, db: asyncpg.Connection
) -> None:
    database = Recorder(database_url, timeout=0.5)
    principal = await principal_of(db, "alice")
    released = asyncio.Event()

    async def hold() -> StoredResponse | None:
        await released.wait()
        return None

    async with database.lifespan():
        flight = (idempotency_keys.INSERT, principal.session_id, "key")
        first = asyncio.create_task(database.single_flight.run(flight, hold))
        await asyncio.sleep(0)

        with pytest.raises(KeyInProgress):
            await idempotency_keys.insert_post(database, principal, "key", PostCreate("T", "C"), to_store)

        assert database.sent == []
        released.set()
        await first


def to_store(created: StoredPost) -> StoredResponse:
    return StoredResponse(created.post.id, "tag", b"body")


async def test_a_cancelled_request_does_not_cancel_the_ones_that_wait_for_it(
    database_url: str, db: asyncpg.Connection
) -> None:
    database = Database(database_url, connections=5, timeout=5)
    principal = await principal_of(db, "alice")

    def insert() -> "asyncio.Task[tuple[StoredResponse, bool]]":
        return asyncio.create_task(
            idempotency_keys.insert_post(database, principal, "key", PostCreate("T", "C"), to_store)
        )

    async with database.lifespan():
        first, second = insert(), insert()
        await asyncio.sleep(0)
        first.cancel()

        stored, is_new = await second

        assert not is_new
        assert stored.body == b"body"
        assert await count(db) == 1


async def test_a_user_and_a_post_are_not_locked_in_different_orders(
    client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    """An account is deleted while its expired keys are used again. Neither is a 500."""
    for number in range(20):
        person = await Person.register(client, f"person{number}")
        await asyncio.gather(*(send(person, f"key{n}") for n in range(5)))
        await db.execute("update idempotency_keys set created_at = now() - interval '25 hours'")
        deletion = {"current_password": person.password}

        *responses, deleted = await asyncio.gather(
            *(send(person, f"key{n}") for n in range(5)),
            client.post("/users/me/deletion", json=deletion, headers=person.headers),
        )

        assert deleted.status_code == 204
        assert {response.status_code for response in responses} <= {201, 401}
    assert (await count(db), await count(db, "idempotency_keys")) == (0, 0)


# Delays the commit of a new post until the lock is released.
DELAY_COMMIT = """
create function wait_for_lock() returns trigger language plpgsql as
$$ begin perform pg_advisory_xact_lock(1); return null; end $$;
create constraint trigger posts_wait after insert on posts
deferrable initially deferred for each row execute function wait_for_lock();
"""


async def test_a_crash_between_commit_and_response_creates_no_second_post(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    service = await start("service", DATABASE_URL=database_url)
    await read_until(service, "Application startup complete")
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    await db.execute(DELAY_COMMIT)
    await db.execute("select pg_advisory_lock(1)")
    request = asyncio.create_task(send(alice, "key"))
    waiting = "select count(*) from pg_stat_activity where query = 'commit' and wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while not await db.fetchval(waiting):
            await asyncio.sleep(0.01)
    pause(service.pid)  # it cannot receive the result of the commit
    await db.execute("select pg_advisory_unlock(1)")
    async with asyncio.timeout(20):
        while not await count(db):
            await asyncio.sleep(0.01)

    service.kill()
    await service.wait()
    with pytest.raises(httpx.TransportError):
        await request

    service = await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)
    again = await send(alice, "key")
    [post] = await db.fetch("select id, title from posts")
    assert (again.status_code, again.headers[REPLAYED]) == (201, "true")
    assert (again.json()["id"], again.json()["title"]) == (post["id"], post["title"])
    assert again.headers["etag"] == (await process_client.get(f"/posts/{post['id']}")).headers["etag"]


async def test_a_post_without_a_key_sends_the_statement_that_it_always_sent(
    settings: Settings, serve: Serve, database_url: str
) -> None:
    app = create_app(settings)
    recorder = Recorder(database_url)
    app.state["db"] = recorder
    async with recorder.lifespan(), httpx.AsyncClient(base_url=await serve(app)) as client:
        alice = await Person.register(client, "alice")
        recorder.sent.clear()

        await alice.publish()

        assert [statement.split()[0:3] for statement, _ in recorder.sent] == [["insert", "into", "posts"]]
