"""The measured routes, with the load and the targets of each."""

from typing import Final

from msgspec import Struct

from tests.bench.database import CONTENT
from tests.bench.servers import BARE, FASTAPI, FASTIFY_PG, GO_PGX, Kind
from tests.bench.wrk import Load

USERS: Final = 200
POSTS_PER_USER: Final = 20
POSTS: Final = USERS * POSTS_PER_USER
PAGE: Final = 50


class Route(Struct, frozen=True, kw_only=True):
    name: str
    load: Load
    # The service's requests per second divided by those of another server: the target.
    targets: dict[Kind, float]
    writes: bool = False
    # The peers have no such route.
    service_only: bool = False


ROOT: Final = Route(name="GET /", load=Load(path="/"), targets={BARE: 0.6})
ONE_POST: Final = Route(
    name="GET /posts/{random id}",
    load=Load(path="/posts/%d", numbers=range(1, POSTS + 1)),
    targets={FASTAPI: 16, FASTIFY_PG: 1.15, BARE: 0.75},
)

ROUTES: Final = (
    ROOT,
    ONE_POST,
    Route(
        name="GET /posts, 50, the same page",
        load=Load(path="/posts"),
        targets={FASTAPI: 18, FASTIFY_PG: 2.5},
    ),
    Route(
        name="GET /posts, 50, another page each",
        load=Load(path="/posts?after=%d", numbers=range(POSTS - PAGE)),
        targets={FASTAPI: 7, FASTIFY_PG: 1.25, GO_PGX: 1},
    ),
    Route(
        name="GET /posts, 50, another page each, at the end of the list",
        load=Load(path="/posts?after=%d", numbers=range(POSTS - 10 * PAGE, POSTS - PAGE)),
        targets={GO_PGX: 1},
    ),
    Route(
        name="GET /posts?q=, a word of one post",
        load=Load(path="/posts?q=%d", numbers=range(1, POSTS + 1)),
        targets={},
        service_only=True,
    ),
    Route(
        name="GET /users/{random id}, 20 posts",
        load=Load(path="/users/%d", numbers=range(1, USERS + 1)),
        targets={FASTAPI: 25, FASTIFY_PG: 2},
    ),
    Route(
        name="GET /users/{the same id}, 20 posts",
        load=Load(path="/users/1"),
        targets={},
    ),
    Route(
        name="GET /users/me",
        load=Load(path="/users/me", numbers=range(1, USERS + 1), users=USERS),
        targets={FASTAPI: 20, FASTIFY_PG: 1.3},
    ),
    Route(
        name="POST /posts",
        load=Load(
            method="POST",
            path="/posts",
            body=f'{{"title": "Written %d", "content": "{CONTENT}"}}',
            numbers=range(1, 1001),
            users=USERS,
        ),
        targets={FASTAPI: 22, FASTIFY_PG: 1.7},
        writes=True,
    ),
    Route(
        name="PATCH /posts/{random id}, the caller's",
        load=Load(
            method="PATCH",
            path="/posts/%d",
            body=f'{{"title": "Edited %d", "content": "{CONTENT}"}}',
            numbers=range(1, POSTS + 1),
            users=USERS,
        ),
        targets={FASTAPI: 18, FASTIFY_PG: 1.4},
        writes=True,
    ),
)
