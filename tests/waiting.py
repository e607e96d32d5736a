"""Waiting for what is about to happen, with a bound."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Ask until it holds. Raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.01)
