"""Lists are pages, and a client finds its way from one to the next."""

import asyncpg
import httpx
import pytest

from tests.people import Json, Person, assert_problem, pointers


async def fill(db: asyncpg.Connection, user_id: int, count: int) -> None:
    """Posts past the API, many at once."""
    await db.execute(
        "insert into posts (title, content, user_id) select 'Post ' || n, 'Text', $1 from generate_series(1, $2) as n",
        user_id,
        count,
    )


async def follow(client: httpx.AsyncClient, url: str | httpx.URL | None) -> list[list[Json]]:
    """All pages from ``url`` on, by their links alone."""
    pages = []
    following = url
    while following:
        response = await client.get(following)
        assert response.status_code == 200, response.text
        pages.append(response.json())
        following = next_page(response)
        assert len(pages) < 50
    return pages


def next_page(response: httpx.Response) -> httpx.URL | None:
    """Where the ``Link`` of a response leads."""
    reference = response.links.get("next", {}).get("url")
    return response.url.join(reference) if reference else None


async def test_no_posts_are_an_empty_list(client: httpx.AsyncClient) -> None:
    response = await client.get("/posts")

    assert (response.status_code, response.json()) == (200, [])
    assert "link" not in response.headers


async def test_posts_are_listed_by_id(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    posts = [await alice.publish("1"), await mallory.publish("2"), await alice.publish("3")]

    response = await client.get("/posts")

    assert response.json() == posts
    assert "link" not in response.headers


async def test_a_list_is_bounded_when_nothing_is_said(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    await fill(db, alice.id, 51)

    response = await client.get("/posts")

    assert len(response.json()) == 50
    assert response.headers["link"] == f'<posts?limit=50&after={response.json()[-1]["id"]}>; rel="next"'


@pytest.mark.parametrize(("count", "limit", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (3, 3, [3]), (2, 100, [2])])
async def test_the_links_lead_through_all_posts_once(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, count: int, limit: int, sizes: list[int]
) -> None:
    await fill(db, alice.id, count)

    pages = await follow(client, f"/posts?limit={limit}")

    assert [len(page) for page in pages] == sizes
    ids = [post["id"] for page in pages for post in page]
    assert ids == sorted(set(ids))
    assert len(ids) == count


async def test_a_page_is_not_shifted_by_what_is_deleted_before_it(client: httpx.AsyncClient, alice: Person) -> None:
    posts = [await alice.publish() for _ in range(4)]
    first = await client.get("/posts?limit=2")

    await client.delete(f"/posts/{posts[0]['id']}", headers=alice.headers)
    second = await client.get(next_page(first) or "")

    assert second.json() == posts[2:]


async def test_the_posts_of_one_user_are_listed(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    hers = [await alice.publish()]
    await mallory.publish()
    hers += [await alice.publish(), await alice.publish()]

    pages = await follow(client, f"/posts?user_id={alice.id}&limit=2")

    assert pages == [hers[:2], hers[2:]]
    assert await follow(client, "/posts?user_id=9223372036854775807") == [[]]


async def test_a_profile_holds_the_first_page_and_leads_to_the_rest(
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
    ("query", "faulty"),
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
    ],
)
async def test_a_malformed_query_is_refused_with_all_its_faults(
    client: httpx.AsyncClient, query: str, faulty: list[str]
) -> None:
    response = await client.get(f"/posts?{query}")

    assert_problem(response, 422, "invalid_fields")
    assert sorted(pointers(response)) == sorted(faulty)


async def test_unknown_parameters_are_ignored(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()

    response = await client.get("/posts?offset=5&page=-1&%00=%ff")

    assert response.json() == [post]


async def test_every_list_is_read_from_an_index(alice: Person, db: asyncpg.Connection) -> None:
    from service.queries import posts, users  # noqa: PLC0415

    await fill(db, alice.id, 2000)
    await db.execute("analyze")
    await db.execute("set plan_cache_mode = force_generic_plan")
    for name, statement, arguments in [
        ("page", posts.SELECT_PAGE, "1000, 51"),
        ("page_of_user", posts.SELECT_PAGE_OF_USER, f"{alice.id}, 1000, 51"),
        ("profile", users.SELECT_PROFILE, f"array[{alice.id}], 51"),
    ]:
        await db.execute(f"prepare {name} as {statement}")

        plan = "\n".join(row[0] for row in await db.fetch(f"explain execute {name} ({arguments})"))

        assert "Seq Scan on posts" not in plan, plan
