"""A short random walk over sessions. `just fuzz-sessions` walks for longer."""

import asyncpg
import httpx
import pytest

from tests.session_walk import walk


@pytest.mark.parametrize("seed", range(4))
async def test_a_random_walk_over_sessions_agrees_with_the_model(
    client: httpx.AsyncClient, db: asyncpg.Connection, seed: int
) -> None:
    assert await walk(client, db, seed, steps=60) > 30
