"""Statements that arrive together: equal reads, reads by key, and writes of one kind.

A round trip costs the event loop, the kernel and PostgreSQL far more than a row does, so what comes in during one turn
of the loop goes out in one statement. Nothing is kept for a later request: a read joins only a batch that has not been
sent, so every read is sent after its request came in, and who has just written reads his own write.
"""

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar

from service.errors import Overloaded

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
P = ParamSpec("P")

Row = Sequence[Any]

# With more rows than this the first of them would wait for the last.
MAX_ROWS: Final = 100

# Batches of one kind of read. With one the service would have nothing to do while PostgreSQL works on it; more would be
# smaller.
_AT_ONCE: Final = 2

# Seconds that reads wait at the most for the batches before them; those take a fraction of that while all is well.
_PATIENCE: Final = 0.01

# Writes of one kind. What a lock holds up must not take the room of all other requests.
MAX_WAITING: Final = 3 * MAX_ROWS

_running: set[asyncio.Task[None]] = set()


def start(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` on its own. It deals with its errors itself."""
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)  # the loop holds its tasks only weakly
    task.add_done_callback(_running.discard)


async def answer(futures: Sequence["Future[V]"], work: Awaitable[V]) -> None:
    """Give all of ``futures`` what ``work`` returns or raises."""
    try:
        result = await work
    except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for it are told
        fail(futures, error)
    else:
        for future in futures:
            if not future.done():
                future.set_result(result)


def fail(futures: Sequence["Future[V]"], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


class Turn(Generic[K, V]):
    """Gathers reads by their keys, and has them sent together: those of one turn of the event loop at its end.

    While two batches are under way the next one goes on gathering, which makes it larger and so cheaper for each of its
    keys; but not for long, because what holds one statement up need not hold up the next.
    """

    def __init__(self, send: Callable[[dict[K, list["Future[V]"]]], Coroutine[Any, Any, None]]) -> None:
        """``send`` deals with its errors itself. Belongs to the running loop."""
        # Asked for once: the question is a system call each time.
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._under_way = 0
        self._waiting: dict[K, list[Future[V]]] = {}
        self._departure: asyncio.Handle | None = None

    def join(self, key: K) -> "Future[V]":
        if not self._waiting:
            if self._under_way >= _AT_ONCE:
                self._departure = self._loop.call_later(_PATIENCE, self._depart)
            else:
                self._departure = self._loop.call_soon(self._depart)
        # A future for each, also under the same key: one that is cancelled must not take the others along.
        future: Future[V] = self._loop.create_future()
        if futures := self._waiting.get(key):
            futures.append(future)
        else:
            self._waiting[key] = [future]
        return future

    def _depart(self) -> None:
        batch, self._waiting = self._waiting, {}
        self._under_way += 1
        start(self._run(batch))

    async def _run(self, batch: dict[K, list["Future[V]"]]) -> None:
        await self._send(batch)
        self._under_way -= 1
        if self._waiting and self._departure:
            self._departure.cancel()
            self._depart()


class Shares(Protocol):
    """Where equal reads meet: the database."""

    shared: Turn[Any, Any]


D = TypeVar("D", bound=Shares)


def once_a_turn(
    read: Callable[Concatenate[D, P], Coroutine[Any, Any, V]],
) -> Callable[Concatenate[D, P], Awaitable[V]]:
    """Make equal calls of one turn of the event loop one call.

    All of them get its one result, which nobody may change. Arguments are given by position.
    """

    @wraps(read)
    def joined(db: D, /, *arguments: P.args, **_: P.kwargs) -> Awaitable[V]:
        return db.shared.join((read, arguments))

    return joined


class Writes(Generic[V]):
    """Writes of one kind: those that wait while a statement is under way go together in the next.

    Each is answered only after the commit of its statement, and succeeds or fails alone: when a row makes a batch fail,
    or is left out of it, it is written by itself. Where the outcome of a statement is unknown nothing is repeated.
    """

    def __init__(
        self,
        write_all: Callable[[list[Row]], Awaitable[Mapping[int, V]]],
        write_one: Callable[[Row], Awaitable[V]],
        row_faults: tuple[type[Exception], ...],
        lost: type[Exception],
    ) -> None:
        """``write_all`` answers by position; with one of ``row_faults`` it says that nothing was written at all.

        With ``lost`` it says that its connection broke, which is nothing to those who wait. They fail with a batch that
        fails otherwise: each batch would have to wait out the same as the one before, and the last for ever.
        """
        self._loop = asyncio.get_running_loop()
        self._write_all = write_all
        self._write_one = write_one
        self._row_faults = row_faults
        self._lost = lost
        self._waiting: list[tuple[Hashable, Row, Future[V]]] = []
        self._under_way = False

    def join(self, row: Row, key: Hashable = None) -> "Future[V]":
        """Two rows with the same ``key``, unless it is ``None``, never share a statement. Raises ``Overloaded``."""
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded
        future: Future[V] = self._loop.create_future()
        self._waiting.append((key, row, future))
        if not self._under_way:
            self._under_way = True
            self._loop.call_soon(lambda: start(self._run()))
        return future

    async def _run(self) -> None:
        while self._waiting:
            batch: list[tuple[Row, Future[V]]] = []
            later, keys = [], set()
            for key, row, future in self._waiting:
                if future.done():
                    continue  # cancelled before it was sent: not written
                if len(batch) == MAX_ROWS or key in keys:
                    later.append((key, row, future))
                    continue
                batch.append((row, future))
                if key is not None:
                    keys.add(key)
            self._waiting = later
            await self._write(batch)
        self._under_way = False

    async def _write(self, batch: list[tuple[Row, "Future[V]"]]) -> None:
        written: Mapping[int, V] = {}
        if len(batch) > 1:
            try:
                written = await self._write_all([row for row, _ in batch])
            except self._row_faults:
                pass
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for it are told
                fail([future for _, future in batch], error)
                if not isinstance(error, self._lost):
                    waiting, self._waiting = self._waiting, []
                    fail([future for _, _, future in waiting], error)
                return
        for position, (row, future) in enumerate(batch):
            if position not in written:
                alone = answer([future], self._write_one(row))
                # A lone row is what the next ones wait for; those that a batch has left go their own way.
                if len(batch) == 1:
                    await alone
                else:
                    start(alone)
            elif not future.done():
                future.set_result(written[position])
