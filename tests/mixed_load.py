"""A mixed load on several services, and a model of what their database may contain."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import asyncpg
import httpx
from msgspec import Struct, field

from service.security.keys import ACCESS_TOKEN, Keys, SecretKey
from service.security.tokens import AccessTokens
from service.structs.sessions import Principal
from tests.tables import INSERT_POSTS, INSERT_SESSIONS, INSERT_USERS

USERS: Final = 8
POSTS: Final = 80
REQUESTS: Final = 30  # of each user

READS: Final = 0.55  # the fraction of the requests


class Post(Struct):
    """What a post may be after the requests of its owner."""

    user_id: int
    asked: set[str]  # every title that it may have had
    titles: set[str]  # the titles that it may have now
    exists: bool | None = True  # ``None``: its deletion has been requested


class MixedLoad(Struct):
    """Users who read everything and write posts of their own, each on any of the services.

    A write without a successful response may or may not have been applied. Each post in a response must fit the model.
    """

    clients: Sequence[httpx.AsyncClient]
    secret_key: str
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - not a secret
    posts: dict[int, Post] = field(default_factory=dict)
    creating: dict[str, int] = field(default_factory=dict)  # the users of new posts without a 201, by title
    statuses: Counter[int] = field(default_factory=Counter)

    async def prepare(self, db: asyncpg.Connection) -> None:
        await db.execute(INSERT_USERS, USERS, "hash")
        await db.execute(INSERT_SESSIONS)
        await db.execute(INSERT_POSTS, POSTS, "C", USERS)
        for post in await db.fetch("select id, title, user_id from posts"):
            self.posts[post["id"]] = Post(post["user_id"], {post["title"]}, {post["title"]})

    async def run(self) -> None:
        await asyncio.gather(*(self._act_as(user_id) for user_id in range(1, USERS + 1)))

    async def _act_as(self, user_id: int) -> None:
        tokens = AccessTokens(Keys((SecretKey(self.secret_key.encode()),), ACCESS_TOKEN), 3600)
        headers = {"Authorization": f"Bearer {tokens.issue(Principal(user_id, user_id))}"}
        own = [post_id for post_id, post in self.posts.items() if post.user_id == user_id]
        for number in range(REQUESTS):
            if self.random.random() < READS:
                await self._read(user_id, headers)
            else:
                await self._write(own, user_id, headers, number)

    async def _read(self, user_id: int, headers: dict[str, str]) -> None:
        match self.random.choice(("post", "page", "profile", "account")):
            case "post":
                post_id = self.random.choice(list(self.posts))
                if post := await self._send("GET", f"/posts/{post_id}"):
                    assert post["id"] == post_id
                    self._check(post)
            case "page":
                for post in await self._send("GET", f"/posts?after={self.random.randint(0, POSTS)}&limit=5") or ():
                    self._check(post)
            case "profile":
                other = self.random.randint(1, USERS)
                if profile := await self._send("GET", f"/users/{other}"):
                    assert profile["id"] == other
                    assert {post["user_id"] for post in profile["posts"]} <= {other}
            case _:
                if account := await self._send("GET", "/users/me", headers):
                    assert account["id"] == user_id

    async def _write(self, own: list[int], user_id: int, headers: dict[str, str], number: int) -> None:
        match self.random.choice(("create", "update", "update", "delete")):
            case "create":
                own += await self._create(f"New {user_id}.{number}", user_id, headers)
            case "update":
                await self._update(self.random.choice(own), f"Changed {user_id}.{number}", headers)
            case _ if len(own) > 1:
                await self._delete(own.pop(self.random.randrange(len(own))), headers)

    async def _create(self, title: str, user_id: int, headers: dict[str, str]) -> list[int]:
        self.creating[title] = user_id
        if not (post := await self._send("POST", "/posts", headers, {"title": title, "content": "C"})):
            return []
        del self.creating[title]
        self.posts[post["id"]] = Post(user_id, {title}, {title})
        self._check(post)
        return [post["id"]]

    async def _update(self, post_id: int, title: str, headers: dict[str, str]) -> None:
        post = self.posts[post_id]
        post.asked.add(title)
        post.titles.add(title)
        if updated := await self._send("PATCH", f"/posts/{post_id}", headers, {"title": title}):
            post.titles = {title}
            assert (updated["id"], updated["title"]) == (post_id, title)

    async def _delete(self, post_id: int, headers: dict[str, str]) -> None:
        self.posts[post_id].exists = None
        if await self._send("DELETE", f"/posts/{post_id}", headers) == "":
            self.posts[post_id].exists = False

    def _check(self, post: dict[str, Any]) -> None:
        """Check a post in a response: its owner has asked for it at some time."""
        if known := self.posts.get(post["id"]):
            assert post["user_id"] == known.user_id
            assert post["title"] in known.asked
        else:
            assert post["user_id"] == self.creating[post["title"]]

    async def _send(self, method: str, path: str, headers: Any = None, body: Any = None) -> Any:
        """The body of a successful response, else ``None``."""
        response = await self.random.choice(self.clients).request(method, path, headers=headers, json=body)
        self.statuses[response.status_code] += 1
        if response.is_success:
            return response.json() if response.content else ""
        return None

    async def assert_stored(self, db: asyncpg.Connection) -> None:
        """Check that no post has disappeared or changed unless its owner asked for it, and no user at all."""
        stored = {post["id"]: post for post in await db.fetch("select id, title, content, user_id from posts")}
        for post_id, post in self.posts.items():
            if post.exists is not None:
                assert (post_id in stored) == post.exists, post
            if post_id in stored:
                assert stored[post_id]["user_id"] == post.user_id
                assert stored[post_id]["title"] in post.titles
        unknown = [stored[post_id] for post_id in stored.keys() - self.posts.keys()]
        assert len({post["title"] for post in unknown}) == len(unknown)
        assert all(self.creating.get(post["title"]) == post["user_id"] for post in unknown)
        assert {post["content"] for post in stored.values()} == {"C"}
        assert await db.fetchval("select count(*) from users where username = 'user' || id") == USERS
