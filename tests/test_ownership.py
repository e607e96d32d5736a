"""Every write route: without a token, as a stranger and as the owner."""

from typing import Any

import asyncpg
import httpx
import pytest
from litestar.routes import HTTPRoute
from msgspec import Struct

from service.app import create_app
from tests.conftest import settings_of
from tests.people import Person, assert_problem

CHANGE = {"title": "Changed"}


class Write(Struct, frozen=True):
    """A route that writes: the status for the owner, and the error for a stranger (``None``: there is no owner yet)."""

    method: str
    path: str
    body: dict[str, str] | None
    as_owner: int
    as_stranger: tuple[int, str, str] | None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


WRITES = [
    Write("POST", "/posts", {"title": "New", "content": "New"}, 201, None),
    Write("PATCH", "/posts/{post_id}", CHANGE, 200, (403, "not_owner", "Only the owner can update this post")),
    Write("DELETE", "/posts/{post_id}", None, 204, (403, "not_owner", "Only the owner can delete this post")),
]
each_write = pytest.mark.parametrize("write", WRITES, ids=lambda write: write.name)
PUBLIC = {"POST /auth/register", "POST /auth/token", "POST /auth/revoke"}
# The routes of the own account, which have no owner to check.
OWN = {
    "DELETE /users/me/sessions",
    "DELETE /users/me/sessions/{session_id}",
    "PATCH /users/me",
    "POST /users/me/deletion",
    "POST /users/me/password",
}


async def send(client: httpx.AsyncClient, write: Write, post_id: int, headers: dict[str, str]) -> httpx.Response:
    return await client.request(write.method, write.path.format(post_id=post_id), json=write.body, headers=headers)


async def all_posts(db: asyncpg.Connection) -> list[Any]:
    return [tuple(row) for row in await db.fetch("select * from posts order by id")]


def test_the_table_contains_every_write_route() -> None:
    routes = {
        f"{method} {route.path_format}"
        for route in create_app(settings_of()).routes
        if isinstance(route, HTTPRoute)
        for method in route.route_handler_map
        if method not in {"GET", "HEAD", "OPTIONS"}
    }

    assert routes == {write.name for write in WRITES} | PUBLIC | OWN


@each_write
async def test_a_request_without_a_token_cannot_write(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, write: Write
) -> None:
    post = await alice.publish()
    before = await all_posts(db)

    response = await send(client, write, post["id"], {})

    assert_problem(response, 401, "not_authenticated", "Not authenticated")
    assert await all_posts(db) == before


@each_write
async def test_a_stranger_cannot_change_a_post_of_another_user(
    client: httpx.AsyncClient, alice: Person, mallory: Person, db: asyncpg.Connection, write: Write
) -> None:
    post = await alice.publish()
    before = await all_posts(db)

    response = await send(client, write, post["id"], mallory.headers)

    if write.as_stranger:
        assert_problem(response, *write.as_stranger)
        assert await all_posts(db) == before
    else:
        assert response.json()["user_id"] == mallory.id
        assert (await all_posts(db))[: len(before)] == before


@each_write
async def test_the_owner_can_write(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, write: Write
) -> None:
    post = await alice.publish()
    before = await all_posts(db)

    response = await send(client, write, post["id"], alice.headers)

    assert response.status_code == write.as_owner
    assert await all_posts(db) != before


@each_write
async def test_a_stranger_gets_the_403_before_the_body_is_checked(
    client: httpx.AsyncClient, alice: Person, mallory: Person, write: Write
) -> None:
    post = await alice.publish()

    response = await client.request(
        write.method, write.path.format(post_id=post["id"]), content=b"{", headers=mallory.headers
    )

    assert response.status_code == (write.as_stranger[0] if write.as_stranger else 400)


@pytest.mark.parametrize("write", [write for write in WRITES if write.as_stranger], ids=lambda write: write.name)
async def test_the_statement_itself_does_not_change_a_post_of_another_user(
    alice: Person, mallory: Person, db: asyncpg.Connection, write: Write
) -> None:
    """Ownership is checked in the statement too, not only in the guard."""
    from service.queries import posts  # noqa: PLC0415

    post = await alice.publish()
    before = await all_posts(db)
    session_id = await db.fetchval("select id from sessions where user_id = $1", mallory.id)

    if write.method == "PATCH":
        changed = await db.fetch(posts.UPDATE, post["id"], session_id, "Changed", None, None, None)
        changed += await db.fetch(posts.UPDATE_MANY, [post["id"]], [session_id], ["Changed"], [None], [None], [None])
    else:
        changed = await db.fetch(posts.DELETE, post["id"], session_id, None, None)

    assert changed == []
    assert await all_posts(db) == before
