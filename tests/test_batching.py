"""Which reads and writes share a statement, and that they do not affect each other; the connection pool."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, get_args

import asyncpg
import httpx
import pytest

from service.database import batching
from service.database.batching import MAX_BATCH_ROWS, MAX_QUEUED_WRITES
from service.database.database import ConnectionLost, Database
from service.database.pool import ConnectionPool
from service.errors import DatabaseUnavailable, InvalidToken, Overloaded
from service.queries import account, pages, posts, users
from service.structs.posts import Post, PostCreate, PostUpdate, Sort
from service.structs.sessions import Principal
from tests.people import Person, assert_problem
from tests.recorder import Recorder
from tests.serving import open_client
from tests.tables import principal_of
from tests.waiting import WAITERS, until


@pytest.fixture
async def recorder(url_for_db: str) -> AsyncIterator[Recorder]:
    database = Recorder(url_for_db)
    async with database.lifespan():
        yield database


@pytest.fixture
async def principal(db: asyncpg.Connection) -> Principal:
    return await principal_of(db, "alice")


def post(title: str = "T") -> PostCreate:
    return PostCreate(title, "C")


async def insert(db: Database, principal: Principal, new: PostCreate) -> Post:
    return (await posts.insert(db, principal, new)).post


async def select(db: Database, post_id: int) -> Post | None:
    found = await posts.select(db, post_id)
    return found.post if found else None


async def update(db: Database, post_id: int, principal: Principal, change: PostUpdate) -> Post | None:
    changed = await posts.update(db, post_id, principal, change)
    return changed.post if changed else None


async def test_reads_that_arrive_together_share_a_statement(recorder: Recorder, principal: Principal) -> None:
    written = [await insert(recorder, principal, post(str(n))) for n in range(5)]

    read = await asyncio.gather(*(select(recorder, one.id) for one in [*written, *written]), select(recorder, 999))

    assert read == [*written, *written, None]
    assert recorder.count(posts.SELECT) == 1
    [(ids,)] = [arguments for statement, arguments in recorder.sent if statement == posts.SELECT]
    assert sorted(ids) == sorted({one.id for one in written} | {999})


async def test_a_read_never_joins_a_statement_that_has_been_sent(recorder: Recorder, principal: Principal) -> None:
    written = await insert(recorder, principal, post())
    sent, released = asyncio.Event(), asyncio.Event()

    async def hold(statement: str) -> None:
        if statement == posts.SELECT and not sent.is_set():
            sent.set()
            await released.wait()

    recorder.before = hold
    first = asyncio.create_task(select(recorder, written.id))
    await sent.wait()
    await update(recorder, written.id, principal, PostUpdate(title="New"))

    second = await select(recorder, written.id)

    assert second
    assert second.title == "New"
    assert recorder.count(posts.SELECT) == 2
    released.set()
    await first


async def test_blocked_reads_do_not_block_other_reads(recorder: Recorder, principal: Principal) -> None:
    written = await insert(recorder, principal, post())
    held, released = recorder.hold_statements()
    slow = []
    for _ in range(4):
        slow.append(asyncio.create_task(select(recorder, written.id)))
        await held.acquire()
    recorder.before = None

    async with asyncio.timeout(5):
        read = await select(recorder, written.id)

    assert read == written
    assert not any(task.done() for task in slow)
    released.set()
    assert await asyncio.gather(*slow) == [written] * 4


async def test_reads_keep_collecting_while_two_batches_are_in_flight(
    recorder: Recorder, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_MAX_DELAY", 30)
    written = await insert(recorder, principal, post())
    held, released = recorder.hold_statements()
    reads = []
    for _ in range(2):
        reads.append(asyncio.create_task(select(recorder, written.id)))
        await held.acquire()
    for _ in range(3):
        reads.append(asyncio.create_task(select(recorder, written.id)))
        await asyncio.sleep(0)
    released.set()

    assert await asyncio.gather(*reads) == [written] * 5
    assert recorder.count(posts.SELECT) == 3


async def test_a_client_reads_its_own_writes_on_another_connection_too(
    client: httpx.AsyncClient, address: str, alice: Person
) -> None:
    """Other clients keep reading the same rows, so that a result that is shared for too long would be seen."""
    written = await alice.publish("0")
    done = False

    async def keep_reading() -> None:
        while not done:
            await client.get(f"/posts/{written['id']}")
            await client.get("/posts")
            await client.get(f"/users/{alice.id}")

    readers = [asyncio.create_task(keep_reading()) for _ in range(8)]
    async with open_client(address) as other:
        for number in range(1, 40):
            change = {"title": str(number)}
            await client.patch(f"/posts/{written['id']}", json=change, headers=alice.headers)

            post, page, profile = await asyncio.gather(
                other.get(f"/posts/{written['id']}"), other.get("/posts"), other.get(f"/users/{alice.id}")
            )

            assert post.json()["title"] == str(number)
            assert page.json()[0]["title"] == str(number)
            assert profile.json()["posts"][0]["title"] == str(number)
    done = True
    await asyncio.gather(*readers)


async def test_cancelling_one_reader_does_not_affect_the_others(recorder: Recorder, principal: Principal) -> None:
    written = await insert(recorder, principal, post())
    readers = [asyncio.create_task(select(recorder, written.id)) for _ in range(3)]
    pages = [asyncio.create_task(_page(recorder)) for _ in range(3)]
    await asyncio.sleep(0)
    readers[0].cancel()
    pages[0].cancel()

    results = await asyncio.gather(*readers, *pages, return_exceptions=True)

    assert [type(results[0]), type(results[3])] == [asyncio.CancelledError] * 2
    assert results[1:3] == [written, written]
    assert results[4:] == [[written], [written]]


async def _page(db: Database) -> list[Any]:
    return (await pages.select_page(db, 50)).posts


async def test_a_failed_batch_fails_only_its_own_requests(recorder: Recorder, principal: Principal) -> None:
    written = await insert(recorder, principal, post())

    async def fail_posts(statement: str) -> None:
        if statement == posts.SELECT:
            raise ConnectionError("lost")

    recorder.before = fail_posts
    one, other, user = await asyncio.gather(
        select(recorder, written.id),
        select(recorder, 5),
        account.select(recorder, principal),
        return_exceptions=True,
    )

    assert isinstance(one, ConnectionError)
    assert isinstance(other, ConnectionError)
    assert not isinstance(user, BaseException)
    recorder.before = None
    assert await select(recorder, written.id) == written


async def test_equal_pages_requested_together_are_read_once(recorder: Recorder, principal: Principal) -> None:
    written = [await insert(recorder, principal, post()) for _ in range(3)]

    first, again, other = await asyncio.gather(
        pages.select_page(recorder, 50), pages.select_page(recorder, 50), pages.select_page(recorder, 2)
    )

    assert first is again
    assert first.posts == written
    assert other.posts == written[:2]
    assert recorder.count(pages.SELECT_PAGE) == 2


async def test_pages_requested_together_share_a_statement(
    recorder: Recorder, db: asyncpg.Connection, principal: Principal
) -> None:
    other = await principal_of(db, "bob")
    writers = (principal, other, principal, principal, other)
    written = [(await posts.insert(recorder, writer, post())).post for writer in writers]
    last, limit = written[-1].id, 2
    # The starts before, at and after all posts.
    wanted = [
        (after, user_id, sort)
        for after in (last + 5, last, last - 1, 1, 0)
        for user_id in (None, principal.user_id, other.user_id)
        for sort in get_args(Sort)
    ]

    read = await asyncio.gather(*(pages.select_page(recorder, limit, *page) for page in wanted))

    for (after, user_id, sort), page in zip(wanted, read, strict=True):
        of_user = [one for one in written if user_id in {None, one.user_id}]
        if sort == "id":
            following = [one for one in of_user if one.id > after]
        else:
            following = [one for one in reversed(of_user) if one.id < after]
        assert page.posts == following[:limit]
        assert page.after == (following[limit - 1].id if len(following) > limit else None)
    assert recorder.count(pages.SELECT_PAGE) == recorder.count(pages.SELECT_PAGE_NEWEST_FIRST) == 1
    assert recorder.count(pages.SELECT_PAGE_OF_USER) == recorder.count(pages.SELECT_PAGE_OF_USER_NEWEST_FIRST) == 1


async def test_one_statement_reads_a_bounded_number_of_pages(recorder: Recorder, principal: Principal) -> None:
    written = [(await posts.insert(recorder, principal, post())).post for _ in range(3)]
    starts = range(2 * pages.MAX_PAGES + 1)

    read = await asyncio.gather(*(pages.select_page(recorder, 50, after) for after in starts))

    assert [page.posts for page in read] == [[one for one in written if one.id > after] for after in starts]
    sizes = [len(arguments[0]) for statement, arguments in recorder.sent if statement == pages.SELECT_PAGE]
    assert sizes == [pages.MAX_PAGES, pages.MAX_PAGES, 1]


async def test_profiles_requested_together_share_a_statement(
    recorder: Recorder, db: asyncpg.Connection, principal: Principal
) -> None:
    other_id = await db.fetchval(users.INSERT, "other", "other@example.com", "hash")
    written = [await insert(recorder, principal, post()) for _ in range(3)]

    mine, again, other, nobody = await asyncio.gather(
        users.select_profile(recorder, principal.user_id, 2),
        users.select_profile(recorder, principal.user_id, 2),
        users.select_profile(recorder, other_id, 2),
        users.select_profile(recorder, 999, 2),
    )

    assert mine
    assert mine is again
    assert (mine[0].username, mine[0].posts, mine[1]) == ("alice", written[:2], True)
    assert other
    assert (other[0].username, other[0].posts, other[1]) == ("other", [], False)
    assert nobody is None
    assert recorder.count(users.SELECT_PROFILE) == 1


async def test_queued_writes_share_a_statement_and_each_returns_its_own_row(
    recorder: Recorder, principal: Principal
) -> None:
    titles = [str(n) for n in range(2 * MAX_BATCH_ROWS + 5)]

    written = await asyncio.gather(*(insert(recorder, principal, post(title)) for title in titles))

    assert [one.title for one in written] == titles
    assert len({one.id for one in written}) == len(titles)
    assert await pages.select_page(recorder, 1000) is not None
    assert (await pages.select_page(recorder, 1000)).posts == written
    assert recorder.count(posts.INSERT_MANY) == 3


async def test_writes_over_the_limit_of_the_queue_are_refused(
    recorder: Recorder, db: asyncpg.Connection, principal: Principal
) -> None:
    results = await asyncio.gather(
        *(insert(recorder, principal, post()) for _ in range(MAX_QUEUED_WRITES + 5)), return_exceptions=True
    )

    assert [type(result) for result in results] == [Post] * MAX_QUEUED_WRITES + [Overloaded] * 5
    assert await db.fetchval("select count(*) from posts") == MAX_QUEUED_WRITES


async def test_a_write_is_acknowledged_only_after_its_commit(
    recorder: Recorder, db: asyncpg.Connection, principal: Principal
) -> None:
    one_at_a_time = asyncio.Lock()

    async def write_and_read_back(number: int) -> int | None:
        made = await insert(recorder, principal, post(str(number)))
        async with one_at_a_time:
            found: int | None = await db.fetchval("select id from posts where id = $1", made.id)
            return found

    assert None not in await asyncio.gather(*(write_and_read_back(number) for number in range(50)))


async def test_an_invalid_row_fails_alone(recorder: Recorder, db: asyncpg.Connection, principal: Principal) -> None:
    results = await asyncio.gather(
        insert(recorder, principal, post("1")),
        insert(recorder, principal, post(title="")),
        insert(recorder, principal, post("2")),
        return_exceptions=True,
    )

    assert isinstance(results[1], asyncpg.CheckViolationError)
    titles = [row["title"] for row in await db.fetch("select title from posts order by title")]
    assert titles == ["1", "2"]
    assert [getattr(result, "title", None) for result in results] == ["1", None, "2"]


async def test_a_row_whose_session_has_ended_fails_alone(recorder: Recorder, principal: Principal) -> None:
    results = await asyncio.gather(
        insert(recorder, principal, post("1")),
        insert(recorder, Principal(principal.user_id, 999), post("of an ended session")),
        insert(recorder, principal, post("2")),
        return_exceptions=True,
    )

    assert [getattr(result, "title", type(result)) for result in results] == ["1", InvalidToken, "2"]
    assert (recorder.count(posts.INSERT_MANY), recorder.count(posts.INSERT)) == (1, 1)


async def test_a_write_whose_outcome_is_unknown_is_not_repeated(
    recorder: Recorder, db: asyncpg.Connection, principal: Principal
) -> None:
    async def lose(statement: str) -> None:
        if statement == posts.INSERT_MANY:
            raise ConnectionResetError("the statement may have been applied")

    recorder.before = lose
    results = await asyncio.gather(*(insert(recorder, principal, post()) for _ in range(3)), return_exceptions=True)

    assert [type(result) for result in results] == [ConnectionResetError] * 3
    assert await db.fetchval("select count(*) from posts") == 0
    assert len(recorder.sent) == 1


@pytest.mark.parametrize(("error", "written"), [(ConnectionLost, 5), (DatabaseUnavailable, 0)])
async def test_queued_writes_fail_with_the_batch_before_them_unless_it_only_lost_its_connection(
    recorder: Recorder, principal: Principal, error: type[DatabaseUnavailable], written: int
) -> None:
    async def fail_once(_: str) -> None:
        recorder.before = None
        raise error

    recorder.before = fail_once
    results = await asyncio.gather(
        *(insert(recorder, principal, post()) for _ in range(MAX_BATCH_ROWS + 5)), return_exceptions=True
    )

    assert [type(result) for result in results[:MAX_BATCH_ROWS]] == [error] * MAX_BATCH_ROWS
    assert [type(result) for result in results[MAX_BATCH_ROWS:]] == [error] * (5 - written) + [Post] * written


async def test_queued_updates_share_a_statement(
    recorder: Recorder, db: asyncpg.Connection, principal: Principal
) -> None:
    stranger = await principal_of(db, "stranger")
    made = [await insert(recorder, principal, post(str(n))) for n in range(6)]

    changed = await asyncio.gather(
        *(update(recorder, one.id, principal, PostUpdate(content=f"new {one.title}")) for one in made),
        update(recorder, made[0].id, stranger, PostUpdate(title="by a stranger")),
        update(recorder, 999, principal, PostUpdate(title="of no post")),
    )

    assert [(one.title, one.content) for one in changed[:6] if one] == [(str(n), f"new {n}") for n in range(6)]
    assert changed[6:] == [None, None]
    assert recorder.count(posts.UPDATE_MANY) >= 1


async def test_two_updates_of_one_row_never_share_a_statement(recorder: Recorder, principal: Principal) -> None:
    made = await insert(recorder, principal, post())

    changed = await asyncio.gather(
        *(update(recorder, made.id, principal, PostUpdate(title=str(number))) for number in range(5)),
        update(recorder, made.id, principal, PostUpdate(content="last")),
    )

    assert [one.title for one in changed if one] == ["0", "1", "2", "3", "4", "4"]
    for statement, arguments in recorder.sent:
        if statement == posts.UPDATE_MANY:
            assert len(set(arguments[0])) == len(arguments[0])


async def test_a_locked_row_does_not_block_updates_of_other_rows(
    recorder: Recorder, db: asyncpg.Connection, principal: Principal
) -> None:
    made = [await insert(recorder, principal, post()) for _ in range(3)]
    transaction = db.transaction()
    await transaction.start()
    await db.execute("select 1 from posts where id = $1 for update", made[1].id)

    changes = [asyncio.create_task(update(recorder, one.id, principal, PostUpdate(title="New"))) for one in made]
    free = await asyncio.gather(changes[0], changes[2])
    later = await update(recorder, made[0].id, principal, PostUpdate(title="Newer"))

    assert [one.title for one in free if one] == ["New", "New"]
    assert later
    assert not changes[1].done()
    await transaction.rollback()
    locked = await changes[1]
    assert locked
    assert locked.title == "New"


async def _await(work: Awaitable[Any]) -> Any:
    return await work


async def test_cancelling_one_writer_does_not_affect_the_others(
    recorder: Recorder, db: asyncpg.Connection, principal: Principal
) -> None:
    first = asyncio.create_task(insert(recorder, principal, post("first")))
    await asyncio.sleep(0)
    writers = [asyncio.create_task(insert(recorder, principal, post(str(number)))) for number in range(3)]
    await asyncio.sleep(0)
    writers[1].cancel()

    results = await asyncio.gather(first, *writers, return_exceptions=True)

    assert isinstance(results[2], asyncio.CancelledError)
    titles = {row["title"] for row in await db.fetch("select title from posts")}
    assert titles == {"first", "0", "2"}
    assert (await insert(recorder, principal, post("after"))).title == "after"


async def test_waiting_callers_get_connections_in_the_order_of_their_requests(database_url: str) -> None:
    database = Database(database_url, connections=1, timeout=5)
    order: list[int] = []

    async def ask(number: int) -> None:
        await database.fetch("select pg_sleep(0.01)")
        order.append(number)

    async with database.lifespan():
        await asyncio.gather(*(ask(number) for number in range(10)))

    assert order == list(range(10))


async def test_the_pool_opens_no_more_connections_than_its_size(database_url: str, db: asyncpg.Connection) -> None:
    database = Database(database_url, connections=3, timeout=30)
    wait_for_lock = "select pg_backend_pid() as pid, pg_advisory_xact_lock_shared(1)"

    async def three_wait() -> bool:
        return bool(await db.fetchval(WAITERS) >= 3)

    async with database.lifespan():
        async with db.transaction():
            await db.execute("select pg_advisory_xact_lock(1)")
            reads = [asyncio.create_task(database.fetch_row(wait_for_lock)) for _ in range(20)]
            await until(three_wait, 30)
            for _ in range(3):  # time in which the pool could open another connection for the reads that wait
                await (await asyncpg.connect(database_url)).close()
        rows = await asyncio.gather(*reads)

    assert len({row["pid"] for row in rows if row}) == 3


async def test_waiting_too_long_for_a_connection_fails_and_is_logged(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(database_url, connections=1, timeout=0.2)
    async with database.lifespan():
        await database.fetch("select 1")
        # PostgreSQL ends the first one in time for the second to get the connection, but not for the third.
        statements = ("select pg_sleep(10)", "select pg_sleep(10)", "select 1")

        results = await asyncio.gather(*map(database.fetch, statements), return_exceptions=True)
        after = await database.fetch_row("select 1 as one")

    assert isinstance(results[2], DatabaseUnavailable)
    assert "no connection became free: TimeoutError: 1 of 1 connections (DATABASE_CONNECTIONS)" in caplog.text
    assert caplog.text.count("a statement failed: ") == 1  # the second failure of the same kind is not logged
    assert after
    assert after["one"] == 1


async def test_a_connection_assigned_to_a_caller_that_is_just_cancelled_is_not_lost(database_url: str) -> None:
    pool = ConnectionPool(database_url, size=1, timeout=5)
    async with pool.lifespan():
        connection = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)

        pool.release(connection)
        waiting.cancel()

        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await pool.acquire() is connection


async def test_a_cancelled_statement_frees_its_place_in_the_pool(database_url: str) -> None:
    database = Database(database_url, connections=1, timeout=5)
    async with database.lifespan():
        for _ in range(3):
            task = asyncio.create_task(database.fetch("select pg_sleep(10)"))
            waiting = asyncio.create_task(database.fetch("select 1"))
            await asyncio.sleep(0.05)
            task.cancel()
            waiting.cancel()
            await asyncio.gather(task, waiting, return_exceptions=True)

        row = await database.fetch_row("select 1 as one")

    assert row
    assert row["one"] == 1


async def test_a_closed_connection_is_replaced(database_url: str, db: asyncpg.Connection) -> None:
    database = Database(database_url, connections=4, timeout=5)
    async with database.lifespan():
        await asyncio.gather(*(database.fetch("select pg_sleep(0.05)") for _ in range(4)))
        await db.execute(
            """
            select pg_terminate_backend(pid)
            from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()
            """
        )

        results = await asyncio.gather(
            *(database.fetch_row("select 1 as one") for _ in range(8)), return_exceptions=True
        )
        after = await asyncio.gather(*(database.fetch_row("select 1 as one") for _ in range(8)))

    assert all(isinstance(result, (asyncpg.Record, DatabaseUnavailable)) for result in results)
    assert [row["one"] for row in after if row] == [1] * 8


async def test_many_different_reads_at_once_each_get_their_own_result(client: httpx.AsyncClient, alice: Person) -> None:
    made = [await alice.publish(str(n)) for n in range(10)]

    responses = await asyncio.gather(
        *(client.get(f"/posts/{one['id']}") for one in made * 5),
        *(client.get("/users/me", headers=alice.headers) for _ in range(20)),
        *(client.get("/posts/999") for _ in range(5)),
    )

    assert [response.json() for response in responses[:50]] == made * 5
    assert [response.json() for response in responses[50:70]] == [alice.account] * 20
    for response in responses[70:]:
        assert_problem(response, 404, "post_not_found")
