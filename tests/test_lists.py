"""Lists: pages, and the links from one to the next."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from service.database.connecting import SESSION_SETTINGS
from service.queries import matches, pages, search, users
from tests.databases import Databases
from tests.people import Json, Person, assert_problem, next_page, pointers
from tests.plans import scans
from tests.tables import INSERT_POSTS, INSERT_USERS, fill


async def follow(client: httpx.AsyncClient, url: str | httpx.URL | None) -> list[list[Json]]:
    """All pages from ``url`` on, following the links."""
    pages = []
    following = url
    while following:
        response = await client.get(following)
        assert response.status_code == 200, response.text
        pages.append(response.json())
        following = next_page(response)
        assert len(pages) < 50
    return pages


async def test_a_list_without_posts_is_empty(client: httpx.AsyncClient) -> None:
    response = await client.get("/posts")

    assert (response.status_code, response.json()) == (200, [])
    assert "link" not in response.headers


async def test_posts_are_listed_by_id(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    posts = [await alice.publish("1"), await mallory.publish("2"), await alice.publish("3")]

    response = await client.get("/posts")

    assert response.json() == posts
    assert "link" not in response.headers


async def test_a_list_is_bounded_by_default(client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection) -> None:
    await fill(db, alice.id, 51)

    response = await client.get("/posts")

    assert len(response.json()) == 50
    assert response.headers["link"] == f'<posts?limit=50&after={response.json()[-1]["id"]}>; rel="next"'


@pytest.mark.parametrize(("count", "limit", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (3, 3, [3]), (2, 100, [2])])
async def test_following_the_links_returns_every_post_once(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, count: int, limit: int, sizes: list[int]
) -> None:
    await fill(db, alice.id, count)

    pages = await follow(client, f"/posts?limit={limit}")

    assert [len(page) for page in pages] == sizes
    ids = [post["id"] for page in pages for post in page]
    assert ids == sorted(set(ids))
    assert len(ids) == count


async def test_deleting_an_earlier_post_does_not_shift_a_page(client: httpx.AsyncClient, alice: Person) -> None:
    posts = [await alice.publish() for _ in range(4)]
    first = await client.get("/posts?limit=2")

    await client.delete(f"/posts/{posts[0]['id']}", headers=alice.headers)
    second = await client.get(next_page(first) or "")

    assert second.json() == posts[2:]


async def test_the_posts_of_one_user_can_be_listed(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    hers = [await alice.publish()]
    await mallory.publish()
    hers += [await alice.publish(), await alice.publish()]

    pages = await follow(client, f"/posts?user_id={alice.id}&limit=2")

    assert pages == [hers[:2], hers[2:]]
    assert await follow(client, "/posts?user_id=9223372036854775807") == [[]]


async def test_a_profile_contains_the_first_page_and_links_to_the_next(
    client: httpx.AsyncClient, alice: Person, mallory: Person, db: asyncpg.Connection
) -> None:
    await fill(db, alice.id, 30)
    await fill(db, mallory.id, 5)
    await fill(db, alice.id, 25)

    profile = await client.get(f"/users/{alice.id}")

    posts = profile.json()["posts"]
    assert len(posts) == 50
    [rest] = await follow(client, next_page(profile))
    ids = [post["id"] for post in posts + rest]
    assert ids == sorted(set(ids))
    assert len(ids) == 55
    assert {post["user_id"] for post in posts + rest} == {alice.id}


@pytest.mark.parametrize(
    ("query", "invalid"),
    [
        ("limit=0", ["/limit"]),
        ("limit=101", ["/limit"]),
        ("limit=abc", ["/limit"]),
        ("limit=", ["/limit"]),
        ("limit=-1&after=x", ["/limit", "/after"]),
        ("after=-1", ["/after"]),
        ("after=9223372036854775808", ["/after"]),
        ("user_id=0", ["/user_id"]),
        ("user_id=99999999999999999999", ["/user_id"]),
        ("limit=x&after=x&user_id=x", ["/limit", "/after", "/user_id"]),
        ("limit=x&after=,&user_id=x&sort=x&q=", ["/limit", "/after", "/user_id", "/sort", "/q"]),
        ("sort=", ["/sort"]),
        ("sort=ID", ["/sort"]),
        ("q=", ["/q"]),
        (f"q={'a' * 201}", ["/q"]),
        ("q=%00", ["/q"]),
        ("q=a&sort=id", ["/sort"]),
        ("q=a&sort=nonsense&limit=0", ["/sort", "/limit"]),
        ("q=a&after=5&sort=-id&limit=101", ["/after", "/sort", "/limit"]),
        (f"q=a&limit=0&after={'A' * 87}", ["/after", "/limit"]),
        (f"after={'A' * 87}", ["/after"]),
        ("after=-5&sort=-id", ["/after"]),
    ],
)
async def test_an_invalid_query_is_refused_with_all_invalid_parameters(
    client: httpx.AsyncClient, query: str, invalid: list[str]
) -> None:
    response = await client.get(f"/posts?{query}")

    assert_problem(response, 422, "invalid_fields")
    assert sorted(pointers(response)) == sorted(invalid)


async def test_unknown_parameters_are_ignored(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()

    response = await client.get("/posts?offset=5&page=-1&%00=%ff")

    assert response.json() == [post]


async def test_the_last_of_a_repeated_parameter_counts(client: httpx.AsyncClient, alice: Person) -> None:
    posts = [await alice.publish("apple"), await alice.publish("pear")]

    response = await client.get("/posts?sort=x&sort=-id&limit=0&limit=1&after=x&after=9")
    searched = await client.get("/posts?q=&q=pear&q=apple")

    assert response.json() == [posts[1]]
    assert searched.json() == [posts[0]]


async def test_posts_are_listed_newest_first(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    posts = [await alice.publish("1"), await mallory.publish("2"), await alice.publish("3"), await alice.publish("4")]

    response = await client.get("/posts?sort=-id&limit=3")

    assert response.json() == posts[:0:-1]
    assert response.headers["link"] == f'<posts?limit=3&after={posts[1]["id"]}&sort=-id>; rel="next"'
    assert (await client.get(next_page(response) or "")).json() == posts[:1]
    hers = await follow(client, f"/posts?sort=-id&limit=2&user_id={alice.id}")
    assert hers == [[posts[3], posts[2]], [posts[0]]]
    assert (await client.get("/posts?sort=-id&after=0")).json() == []


@pytest.fixture(scope="session")
async def filled_db(databases: Databases, template: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the service's settings to a database with many posts, which tests only read."""
    async with databases.private(template) as url:
        connection = await asyncpg.connect(url, server_settings=SESSION_SETTINGS)
        await connection.execute(INSERT_USERS, 500, "hash")
        await connection.execute(INSERT_POSTS, 5000, "Text", 500)
        await connection.execute("analyze")
        yield connection
        await connection.close()


@pytest.mark.parametrize(
    ("statement", "indexes"),
    [
        (pages.SELECT_PAGE, {"posts_id_pkey"}),
        (pages.SELECT_PAGE_NEWEST_FIRST, {"posts_id_pkey"}),
        (pages.SELECT_PAGE_OF_USER, {"posts_user_id_id_idx"}),
        (pages.SELECT_PAGE_OF_USER_NEWEST_FIRST, {"posts_user_id_id_idx"}),
        (users.SELECT_PROFILE, {"users_id_pkey", "posts_user_id_id_idx"}),
        (matches.SEARCH_INDEX, {"posts_search_idx", "posts_id_pkey"}),
        (matches.SCAN, {"posts_id_pkey"}),
        (matches.SCAN_OF_USER, {"posts_user_id_id_idx", "posts_id_pkey"}),
        (search.SELECT_SAMPLE, {"posts_id_pkey"}),
        (search.SELECT_END_OF_SCAN, {"posts_user_id_id_idx"}),
    ],
    ids=[
        "by id",
        "newest first",
        "of a user by id",
        "of a user newest first",
        "profile",
        "search in the index",
        "scan",
        "scan of a user",
        "sample",
        "end of a scan",
    ],
)
async def test_every_list_is_read_from_its_index(
    filled_db: asyncpg.Connection, statement: str, indexes: set[str]
) -> None:
    found = await scans(filled_db, statement)

    assert {scan.name for scan in found if scan.condition} == indexes
    # The rows that a bitmap of an index names.
    assert [scan for scan in found if "Index" not in scan.type and scan.type != "Bitmap Heap Scan"] == []
