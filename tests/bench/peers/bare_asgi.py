"""The lower bound of cost: a bare ASGI function on the service's server, and one connection with batches of reads."""

import asyncio
import os
from typing import Any, Final

import asyncpg
import msgspec
import uvicorn
from msgspec import Struct

from service.database.connecting import SESSION_SETTINGS
from service.server import server
from service.settings import load

SELECT: Final = """
select
    id,
    title,
    content,
    user_id,
    date_posted
from posts
where id = any($1)
"""

HEADERS: Final = ((b"content-type", b"application/json"),)
GREETING: Final = msgspec.json.encode(
    {"message": "Accounts and posts. The API page is at docs, relative to this address."}
)


class Post(Struct, gc=False):
    id: int
    title: str
    content: str
    user_id: int
    date_posted: Any


class Posts:
    """Reads of posts: those that arrive while a statement is in flight share the next one."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self.running: asyncio.Task[None] | None = None

    def read(self, post_id: int) -> asyncio.Future[bytes | None]:
        """The post as JSON, ``None`` if there is none."""
        if (future := self.waiting.get(post_id)) is None:
            future = self.waiting[post_id] = asyncio.get_running_loop().create_future()
        if self.running is None:
            # A task starts in the next iteration of the event loop, so all reads of this iteration join.
            self.running = asyncio.create_task(self.run())
        return future

    async def run(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, {}
            for row in await self.connection.fetch(SELECT, list(batch)):
                batch.pop(row[0]).set_result(msgspec.json.encode(Post(*row)))
            for missing in batch.values():
                missing.set_result(None)
        self.running = None


posts: Posts


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return await run_lifespan(receive, send)
    path: str = scope["path"]
    if path == "/":
        return await respond(send, 200, GREETING)
    if path.startswith("/posts/") and (body := await posts.read(int(path[7:]))):
        return await respond(send, 200, body)
    return await respond(send, 404, b"{}")


async def respond(send: Any, status: int, body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*HEADERS, length]})
    await send({"type": "http.response.body", "body": body})


async def run_lifespan(receive: Any, send: Any) -> None:
    global posts  # noqa: PLW0603 - a bare function has no other place for it
    await receive()
    connection = await asyncpg.connect(os.environ["DATABASE_URL"], server_settings=SESSION_SETTINGS)
    posts = Posts(connection)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await connection.close()
    await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    settings = load()
    if os.environ.get("BENCH_SERVER") == "uvicorn":  # to measure what the service's server gains
        uvicorn.run(app, port=settings.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    else:
        server.Server(server.Config(settings, app)).run([server.listen(settings)])
