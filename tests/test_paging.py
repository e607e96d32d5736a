"""Random walks over pages, while posts are written and deleted, against a plain model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from msgspec import Struct

from service.queries import search
from tests.people import Person, next_page

TEXTS = ("apple", "pear", "apple apple pear", "pear apple", "plum")

# What each query means.
QUERIES: dict[str, Callable[[str], object]] = {
    "apple": lambda text: "apple" in text,
    "-apple": lambda text: "apple" not in text,
    "plum or pear": lambda text: "plum" in text or "pear" in text,
    '"apple pear"': lambda text: "apple pear" in text,
}
PARAMETERS: list[dict[str, str]] = [{}, {"sort": "id"}, {"sort": "-id"}, *({"q": query} for query in QUERIES)]

new_posts = strategies.tuples(strategies.integers(0, 1), strategies.sampled_from(TEXTS))
# Either a new post, or the place of one that is deleted.
events = strategies.lists(new_posts | strategies.integers(0, 30), max_size=8)

NAIVE = """
select id
from posts
where
    search @@ websearch_to_tsquery('simple', $1)
    and user_id = any($2::bigint[])
order by ts_rank(search, websearch_to_tsquery('simple', $1)) desc, id desc
"""


class Sizes(Struct):
    """Sizes of the windows of a search, so small that a few posts need several windows.

    With ``common`` above 1 all words count as rare, and with 0 as common.
    """

    ranked: int
    scanned: int
    common: float

    @contextmanager
    def patched(self) -> Iterator[None]:
        patched: dict[str, Any] = {
            "RANKED": self.ranked,
            "SCANNED": self.scanned,
            "SCANNED_OF_USER": self.scanned,
            "SMALL": 0,
            "COMMON": self.common,
        }
        with mock.patch.multiple(search, **patched):
            yield

    def make_one_window(self, posts: int) -> bool:
        return self.ranked >= posts and self.common > 1


sizes = strategies.builds(
    Sizes,
    ranked=strategies.integers(1, 3) | strategies.integers(1, 30),
    scanned=strategies.integers(1, 30),
    common=strategies.sampled_from([0, 0.02, 2]),
)


class Model:
    """All posts that have ever existed, in the order of their ids, and which of them are deleted."""

    def __init__(self, db: asyncpg.Connection, users: tuple[int, int]) -> None:
        self.db = db
        self.users = users
        self.posts: dict[int, tuple[int, str]] = {}
        self.deleted: set[int] = set()

    async def change(self, event: tuple[int, str] | int) -> None:
        """Insert a post, or delete the one at a place."""
        if isinstance(event, tuple):
            user, text = event
            statement = "insert into posts (title, content, user_id) values ('x', $1, $2) returning id"
            self.posts[await self.db.fetchval(statement, text, self.users[user])] = event
        elif event < len(self.posts):
            post_id = [*self.posts][event]
            await self.db.execute("delete from posts where id = $1", post_id)
            self.deleted.add(post_id)

    def listed(self, parameters: dict[str, str], *, of_user: bool) -> list[int]:
        """The posts that a list without pages has, and those that it had before they were deleted."""
        matches = QUERIES[parameters["q"]] if "q" in parameters else len
        found = [post_id for post_id, (user, text) in self.posts.items() if matches(text) and not (of_user and user)]
        return sorted(found, reverse=parameters.get("sort") == "-id")

    async def ranked(self, query: str, *, of_user: bool) -> list[int]:
        """All matches of a search, in the order that they have in one window."""
        rows = await self.db.fetch(NAIVE, query, self.users[:1] if of_user else self.users)
        return [row["id"] for row in rows]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize("of_user", [False, True], ids=["all", "of a user"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=strategies.lists(new_posts, max_size=25),
    between=strategies.lists(events, max_size=10),
    limit=strategies.integers(1, 6),
    sizes=sizes,
)
async def test_following_the_links_visits_every_post_exactly_once(
    client: httpx.AsyncClient,
    db: asyncpg.Connection,
    alice: Person,
    mallory: Person,
    parameters: dict[str, str],
    of_user: bool,  # noqa: FBT001 - a parameter of the test
    before: list[tuple[int, str]],
    between: list[list[tuple[int, str] | int]],
    limit: int,
    sizes: Sizes,
) -> None:
    await db.execute("delete from posts")
    model = Model(db, (alice.id, mallory.id))
    for post in before:
        await model.change(post)
    expected = model.listed(parameters, of_user=of_user)
    if "q" in parameters:
        ranked = await model.ranked(parameters["q"], of_user=of_user)
        assert sorted(ranked) == expected  # PostgreSQL understands the query as the model does
        expected = ranked
    query: dict[str, Any] = {"limit": limit, **parameters} | ({"user_id": alice.id} if of_user else {})

    with sizes.patched():
        visited = await follow(client, query, between, model)

    assert len({*visited}) == len(visited)
    assert {*visited} <= {*model.listed(parameters, of_user=of_user)}
    assert {*expected} - model.deleted <= {*visited}
    if "q" not in parameters:
        assert visited == sorted(visited, reverse=parameters.get("sort") == "-id")
    if not any(between) and ("q" not in parameters or sizes.make_one_window(len(before))):
        assert visited == expected


async def follow(
    client: httpx.AsyncClient, query: dict[str, Any], between: list[list[tuple[int, str] | int]], model: Model
) -> list[int]:
    """Visit all pages, with events between them."""
    pending = iter(between)
    visited: list[int] = []
    response = await client.get("/posts", params=query)
    while True:
        assert response.status_code == 200, response.text
        assert len(response.json()) <= query["limit"]
        assert len(visited) <= len(model.posts), "the links lead in a circle"
        visited += [post["id"] for post in response.json()]
        if (following := next_page(response)) is None:
            return visited
        for event in next(pending, ()):
            await model.change(event)
        response = await client.get(following)
