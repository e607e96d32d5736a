"""Writing, reading, changing and deleting posts."""

import json
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest

from tests.ids import INVALID_IDS
from tests.people import Json, Person, assert_problem, pointers


async def count_posts(db: asyncpg.Connection) -> int:
    count: int = await db.fetchval("select count(*) from posts")
    return count


async def test_a_new_post_belongs_to_the_user_behind_the_token(client: httpx.AsyncClient, alice: Person) -> None:
    body = {"title": "First", "content": "Hello", "user_id": 999, "id": 999, "date_posted": "2001-01-01T00:00:00Z"}

    response = await client.post("/posts", json=body, headers=alice.headers)

    assert response.status_code == 201
    post = response.json()
    assert set(post) == {"id", "title", "content", "user_id", "date_posted"}
    assert (post["title"], post["content"], post["user_id"]) == ("First", "Hello", alice.id)
    assert post["id"] != 999
    assert post["date_posted"].endswith("Z")
    assert abs(datetime.fromisoformat(post["date_posted"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert await alice.read(post["id"]) == post


async def test_location_refers_to_the_new_post(client: httpx.AsyncClient, alice: Person) -> None:
    created = await client.post("/posts", json={"title": "T", "content": "C"}, headers=alice.headers)

    followed = await client.get(created.url.join(created.headers["location"]))

    assert followed.json() == created.json()


@pytest.mark.parametrize(
    ("title", "content"),
    [
        ("t", "c"),
        ("t" * 100, "c" * 100_000),
        ("😀" * 100, "Ünïcode \U0001d518\n\t\x01\x7f\u2028\ufeff\U0010ffff"),
        ("'; drop table posts; --", '%s $1 {} \\ "'),
    ],
)
async def test_text_is_returned_as_it_was_sent(alice: Person, title: str, content: str) -> None:
    post = await alice.publish(title, content)

    read = await alice.read(post["id"])

    assert (read["title"], read["content"]) == (title, content)


@pytest.mark.parametrize(
    ("body", "invalid"),
    [
        ({}, ["/title", "/content"]),
        ({"title": "", "content": ""}, ["/title", "/content"]),
        ({"title": None, "content": 5}, ["/title", "/content"]),
        ({"title": "t" * 101, "content": "c"}, ["/title"]),
        ({"title": "t", "content": "a\0b"}, ["/content"]),
        ({"title": "t\0", "content": ["c"]}, ["/title", "/content"]),
        ([], [""]),
        ("text", [""]),
        (None, [""]),
    ],
)
async def test_an_invalid_post_is_refused_with_all_invalid_fields(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, body: object, invalid: list[str]
) -> None:
    response = await client.post("/posts", content=json.dumps(body), headers=alice.headers)

    assert_problem(response, 422, "invalid_fields")
    assert pointers(response) == invalid
    assert await count_posts(db) == 0


async def test_a_post_can_be_read_without_a_token(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()

    response = await client.get(f"/posts/{post['id']}")

    assert (response.status_code, response.json()) == (200, post)


async def test_an_unknown_post_is_not_found(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/posts/1"), 404, "post_not_found", "Post not found")
    assert_problem(await client.get("/posts/9223372036854775807"), 404, "post_not_found", "Post not found")


@pytest.mark.parametrize("invalid_id", INVALID_IDS)
async def test_an_invalid_id_is_not_found(client: httpx.AsyncClient, alice: Person, invalid_id: str) -> None:
    await alice.publish()

    responses = [
        await client.get(f"/posts/{invalid_id}"),
        await client.patch(f"/posts/{invalid_id}", json={"title": "x"}, headers=alice.headers),
        await client.delete(f"/posts/{invalid_id}", headers=alice.headers),
    ]

    for response in responses:
        assert_problem(response, 404, "post_not_found", "Post not found")


@pytest.mark.parametrize(
    "change",
    [
        {"title": "New"},
        {"content": "New"},
        {"title": "New", "content": "New"},
        {},
        {"title": "New", "user_id": 1, "id": 1, "nonsense": [{"a": 1}]},
    ],
)
async def test_an_absent_field_keeps_its_value(client: httpx.AsyncClient, alice: Person, change: Json) -> None:
    post = await alice.publish()

    response = await client.patch(f"/posts/{post['id']}", json=change, headers=alice.headers)

    expected = post | {name: value for name, value in change.items() if name in {"title", "content"}}
    assert (response.status_code, response.json()) == (200, expected)
    assert await alice.read(post["id"]) == expected


@pytest.mark.parametrize(
    ("change", "invalid"),
    [
        ({"title": None}, ["/title"]),
        ({"title": None, "content": None}, ["/title", "/content"]),
        ({"title": "", "content": ""}, ["/title", "/content"]),
        ({"title": "t" * 101}, ["/title"]),
        ({"title": "a\0"}, ["/title"]),
        ({"title": "fine", "content": 1.5}, ["/content"]),
        ([{"title": "x"}], [""]),
    ],
)
async def test_an_invalid_update_changes_nothing(
    client: httpx.AsyncClient, alice: Person, change: object, invalid: list[str]
) -> None:
    post = await alice.publish()

    response = await client.patch(f"/posts/{post['id']}", json=change, headers=alice.headers)

    assert_problem(response, 422, "invalid_fields")
    assert pointers(response) == invalid
    assert await alice.read(post["id"]) == post


async def test_a_deleted_post_is_not_found(client: httpx.AsyncClient, alice: Person) -> None:
    post, other = await alice.publish(), await alice.publish()

    response = await client.delete(f"/posts/{post['id']}", headers=alice.headers)

    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers
    assert_problem(await client.get(f"/posts/{post['id']}"), 404, "post_not_found")
    assert_problem(await client.delete(f"/posts/{post['id']}", headers=alice.headers), 404, "post_not_found")
    assert await alice.read(other["id"]) == other


async def test_times_are_in_utc_with_microseconds(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    post = await alice.publish()
    for stored, sent in [
        ("2026-07-01 01:02:03.000004+02", "2026-06-30T23:02:03.000004Z"),
        ("2026-12-31 23:59:59.5+00", "2026-12-31T23:59:59.500000Z"),
        ("2026-01-01 00:00:00+00", "2026-01-01T00:00:00.000000Z"),
    ]:
        await db.execute(f"update posts set date_posted = '{stored}'")  # noqa: S608 - our own text

        read = await client.get(f"/posts/{post['id']}")

        assert read.json()["date_posted"] == sent
