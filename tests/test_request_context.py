"""Which requests the running code serves, also in batches."""

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from service.database.batching import BatchLoader, Row, WriteBatcher, resolve
from service.observability.context import current_requests, current_scopes


def current_ids() -> list[str]:
    return [scope["id"] for scope in current_scopes()]


async def as_request(request_id: str, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    current_requests.set(({"id": request_id},))
    return await work(*arguments)


async def as_requests(work: Callable[..., Awaitable[Any]], arguments: dict[str, Any]) -> None:
    """Call ``work`` for several requests at once."""
    await asyncio.gather(*(asyncio.create_task(as_request(name, work, one)) for name, one in arguments.items()))


async def test_a_batch_of_reads_serves_the_requests_that_wait_for_it() -> None:
    seen: list[list[str]] = []

    async def send(batch: dict[int, list[Future[None]]]) -> None:
        seen.append(current_ids())
        for futures in batch.values():
            resolve(futures, None)

    outer: BatchLoader[int, None] = BatchLoader(send)

    async def send_to_another(batch: dict[int, list[Future[None]]]) -> None:
        await outer.load(1)
        for futures in batch.values():
            resolve(futures, None)

    inner: BatchLoader[int, None] = BatchLoader(send_to_another)
    for loader in (outer, inner):
        await as_requests(loader.load, {"a": 1, "b": 1, "c": 2})

    assert seen == [["a", "b", "c"], ["a", "b", "c"]]


async def test_a_batch_of_writes_serves_the_requests_that_wait_for_it_and_a_row_alone_its_own() -> None:
    together: list[list[str]] = []
    alone: list[tuple[Row, list[str]]] = []

    async def write_all(rows: list[Row]) -> Mapping[int, str]:
        together.append(current_ids())
        return {0: "written"} if len(rows) == 3 else dict.fromkeys(range(len(rows)), "written")

    async def write_one(row: Row) -> str:
        alone.append((row, current_ids()))
        return "written"

    batcher: WriteBatcher[str] = WriteBatcher(write_all, write_one, (ValueError,), OSError)
    await as_requests(batcher.write, {name: (name,) for name in ("a", "b", "c")})

    assert together == [["a", "b", "c"]]
    assert alone == [(("b",), ["b"]), (("c",), ["c"])]
