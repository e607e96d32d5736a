"""Calls with the same key, of which one runs at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

V = TypeVar("V")


class SingleFlight:
    """Runs one call for each key. Others with its key wait for it to end, without a connection."""

    def __init__(self, timeout: float) -> None:
        """``timeout`` in seconds bounds the wait for the call in flight."""
        self._timeout = timeout
        self._in_flight: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, V]]) -> V | None:
        """Run ``call`` and return its result, or wait for the call in flight and return ``None``.

        Raises the error of either, or ``TimeoutError``. A caller that is cancelled does not cancel the call.
        """
        if running := self._in_flight.get(key):
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(running)
            return None
        task = self._in_flight[key] = asyncio.create_task(call())
        task.add_done_callback(lambda _: self._in_flight.pop(key))
        return await asyncio.shield(task)
