"""The target of a request: which paths lead to a resource, and which to nothing."""

from typing import Final

import asyncpg
import httpx
import pytest

from tests.people import Person, assert_problem
from tests.raw_http import Client, get

POST: Final = b'{"title": "T", "content": "C"}'

UNROUTED: Final = [
    *("//", "///", "/%2F", "/%2f", "//posts", "/%2Fposts", "/%2fposts", "/posts%2F", "/posts//", "/posts///"),
    *("/posts//1", "/posts/%2F1", "/posts%2F1", "/posts%2f1", "/posts/1%2F", "/posts/1%2f", "/posts/1//"),
    *("/posts/1/%2F", "/posts/1%2F/", "//posts/1", "/posts/./1", "/posts/1/..", "/posts%2F%2F1", "/posts/%31%2F"),
    *("/users//me", "/users/me//", "/users%2Fme", "/users/me%2F", "//users/me", "/users/1%2F", "/health//live"),
    *("/health%2Flive", "//health/live", "/docs//", "//docs", "/docs%2F", "/openapi.json%2F", "//openapi.json"),
    *("//posts?limit=1", "/posts/1%2F?x=y", "http://x//posts", "http://x/posts/1%2F", "http://x//"),
]


async def test_an_empty_segment_or_an_encoded_slash_matches_nothing(
    address: str, alice: Person, db: asyncpg.Connection
) -> None:
    kept = await alice.publish()
    assert kept["id"] == 1

    fields = f"Authorization: {alice.headers['Authorization']}\r\n\r\n".encode()
    found: dict[str, int] = {}
    with Client(address) as client:
        for method in ("GET", "PATCH", "POST", "DELETE"):
            for target in UNROUTED:
                head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(POST)}\r\n".encode()
                await client.send(head + fields + POST)
                response = await client.read_response()
                if response.headers.get("content-type") != "application/problem+json" or response.status not in {
                    404,
                    405,
                }:
                    found[f"{method} {target}"] = response.status
                elif method == "GET" and response.status != 404:
                    found[target] = response.status

    assert found == {}
    assert await db.fetchval("select count(*) from posts") == 1
    assert await alice.read(1) == kept


@pytest.mark.parametrize("path", ["/posts", "/posts/1", "/users/1", "/users/me", "/health/live"])
@pytest.mark.parametrize("query", ["", "?limit=1"])
async def test_a_trailing_slash_is_tolerated_without_a_redirect(
    client: httpx.AsyncClient, alice: Person, path: str, query: str
) -> None:
    await alice.publish()

    without = await client.get(path + query, headers=alice.headers)
    with_slash = await client.get(f"{path}/{query}", headers=alice.headers)

    assert without.status_code == 200
    assert (with_slash.status_code, with_slash.content) == (without.status_code, without.content)


async def test_posts_can_be_written_with_a_trailing_slash(client: httpx.AsyncClient, alice: Person) -> None:
    created = await client.post("/posts/", content=POST, headers=alice.headers)
    target = f"/posts/{created.json()['id']}/"
    changed = await client.patch(target, json={"title": "New"}, headers=alice.headers)
    deleted = await client.delete(target, headers=alice.headers)

    assert (created.status_code, changed.status_code, deleted.status_code) == (201, 200, 204)
    assert_problem(await client.get(target), 404, "post_not_found")


@pytest.mark.parametrize(
    ("target", "same"),
    [
        ("http://x", "/"),
        ("HTTP://X", "/"),
        ("https://x", "/"),
        ("http://x:80", "/"),
        ("http://x?limit=1", "/?limit=1"),
        ("http://x/", "/"),
        ("http://x/?limit=1", "/?limit=1"),
        ("http://x/posts", "/posts"),
        ("http://x/posts/", "/posts"),
        ("http://x/posts?limit=1", "/posts?limit=1"),
        ("http://x:8000/posts?limit=0", "/posts?limit=0"),
        ("http://[::1]/posts", "/posts"),
        ("/?", "/"),
        ("/posts?", "/posts"),
    ],
)
async def test_an_absolute_target_is_equivalent_to_its_path(
    address: str, alice: Person, target: str, same: str
) -> None:
    for _ in range(2):
        await alice.publish()
    with Client(address) as client:
        found = []
        for requested in (target, same):
            await client.send(get(requested.encode(), b"X-Request-ID: same\r\n"))
            found.append(await client.read_response())

    assert (found[0].status, found[0].body) == (found[1].status, found[1].body)
    assert found[1].status == (422 if "limit=0" in target else 200)


@pytest.mark.parametrize("target", [b"*", b"http://x", b"/", b"/posts"])
async def test_options_name_the_allowed_methods(address: str, target: bytes) -> None:
    with Client(address) as client:
        await client.send(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        response = await client.read_response()

        assert await client.status_of(get()) == 200
    assert response.status in {200, 204}
    assert {"get", "head", "options"} <= set(response.headers["allow"].split(", "))


@pytest.mark.parametrize(
    "target", [b"*", b"posts", b"?limit=1", b"", b"x:80", b"http://", b"http:///posts", b"/posts\t", b"/ posts"]
)
async def test_an_invalid_target_is_refused(address: str, target: bytes) -> None:
    with Client(address) as client:
        await client.send(get(target))
        response = await client.read_response()

    assert response.status in {400, 404}
    assert response.headers["content-type"] == "application/problem+json"
