"""Starlette, asyncpg's pool and msgspec: a lean Python service."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Final

import asyncpg
import jwt
import msgspec
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

SELECT_POST: Final = "select id, title, content, user_id, date_posted from posts where id = $1"
SELECT_PAGE: Final = "select id, title, content, user_id, date_posted from posts where id > $1 order by id limit $2"
SELECT_POSTS_OF_USER: Final = """
select id, title, content, user_id, date_posted from posts where user_id = $1 order by id limit $2
"""
SELECT_OWNER: Final = "select user_id from posts where id = $1"
SELECT_USER: Final = "select id, username, email from users where id = $1"
INSERT_POST: Final = """
insert into posts (title, content, user_id) values ($1, $2, $3)
returning id, title, content, user_id, date_posted
"""
UPDATE_POST: Final = """
update posts set title = coalesce($3, title), content = coalesce($4, content)
where id = $1 and user_id = $2
returning id, title, content, user_id, date_posted
"""

SECRET_KEY: Final = os.environ["SECRET_KEY"]

Title = Annotated[str, Meta(min_length=1, max_length=100)]
Content = Annotated[str, Meta(min_length=1)]


class PostCreate(Struct):
    title: Title
    content: Content


class PostUpdate(Struct):
    title: Title | None = None
    content: Content | None = None


class Post(Struct):
    id: int
    title: str
    content: str
    user_id: int
    date_posted: datetime


class User(Struct):
    id: int
    username: str
    email: str


class Profile(Struct):
    id: int
    username: str
    email: str
    posts: list[Post]


def respond(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


async def authenticate(request: Request) -> User:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "Bearer"})
    try:
        claims = jwt.decode(token, SECRET_KEY, algorithms=["HS256"], issuer="accounts-and-posts")
    except jwt.InvalidTokenError:
        raise HTTPException(401, "Could not validate credentials", {"WWW-Authenticate": "Bearer"}) from None
    row = await request.state.pool.fetchrow(SELECT_USER, int(claims["sub"]))
    if row is None:
        raise HTTPException(401, "Could not validate credentials", {"WWW-Authenticate": "Bearer"})
    return User(*row)


async def decode(request: Request, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except msgspec.DecodeError as error:
        raise HTTPException(422, str(error)) from None


async def greet(_: Request) -> Response:
    return respond({"message": "Accounts and posts. The API page is at docs, relative to this address."})


async def read_post(request: Request) -> Response:
    row = await request.state.pool.fetchrow(SELECT_POST, request.path_params["id"])
    if row is None:
        raise HTTPException(404, "Post not found")
    return respond(Post(*row))


async def list_posts(request: Request) -> Response:
    try:
        after = int(request.query_params.get("after", 0))
        limit = min(max(int(request.query_params.get("limit", 50)), 1), 100)
    except ValueError:
        raise HTTPException(422, "limit and after are whole numbers") from None
    rows = await request.state.pool.fetch(SELECT_PAGE, after, limit)
    return respond([Post(*row) for row in rows])


async def read_profile(request: Request) -> Response:
    user_id = request.path_params["id"]
    async with request.state.pool.acquire() as connection:
        user = await connection.fetchrow(SELECT_USER, user_id)
        if user is None:
            raise HTTPException(404, "User not found")
        rows = await connection.fetch(SELECT_POSTS_OF_USER, user_id, 50)
    return respond(Profile(user["id"], user["username"], user["email"], [Post(*row) for row in rows]))


async def read_own_account(request: Request) -> Response:
    return respond(await authenticate(request))


async def create_post(request: Request) -> Response:
    user = await authenticate(request)
    post: PostCreate = await decode(request, PostCreate)
    row = await request.state.pool.fetchrow(INSERT_POST, post.title, post.content, user.id)
    return respond(Post(*row), 201, {"Location": f"/posts/{row['id']}"})


async def update_post(request: Request) -> Response:
    user = await authenticate(request)
    post_id = request.path_params["id"]
    change: PostUpdate = await decode(request, PostUpdate)
    row = await request.state.pool.fetchrow(UPDATE_POST, post_id, user.id, change.title, change.content)
    if row is not None:
        return respond(Post(*row))
    if await request.state.pool.fetchrow(SELECT_OWNER, post_id) is None:
        raise HTTPException(404, "Post not found")
    raise HTTPException(403, "Only the owner can update this post")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, asyncpg.Pool]]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10) as pool:
        yield {"pool": pool}


app = Starlette(
    routes=[
        Route("/", greet),
        Route("/posts", list_posts),
        Route("/posts", create_post, methods=["POST"]),
        Route("/posts/{id:int}", read_post),
        Route("/posts/{id:int}", update_post, methods=["PATCH"]),
        Route("/users/me", read_own_account),
        Route("/users/{id:int}", read_profile),
    ],
    lifespan=lifespan,
)
