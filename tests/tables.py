"""What is stored: tests compare it before and after a request."""

import asyncpg


async def all_rows(db: asyncpg.Connection) -> list[tuple[object, ...]]:
    """All users and all posts."""
    rows = [*await db.fetch("select * from users order by id"), *await db.fetch("select * from posts order by id")]
    return [tuple(row) for row in rows]
