"""How PostgreSQL reads the tables of a statement."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import msgspec
from msgspec import Struct


class Scan(Struct, frozen=True):
    """One scan of a plan: its type, the index or table that it reads, and the condition that it looks up in the index.

    A scan of an index without a condition reads it from its beginning.
    """

    type: str
    name: str
    condition: str | None


async def scans(connection: asyncpg.Connection, statement: str) -> list[Scan]:
    """Every scan in the plan of a statement.

    The connection needs the settings of the service's own, which ask for a generic plan.
    """
    parameters = (await connection.prepare(statement)).get_parameters()
    await connection.execute(f"prepare explained as {statement}")
    # A generic plan does not depend on the values.
    nulls = f"({', '.join(['null'] * len(parameters))})" if parameters else ""
    plan = await connection.fetchval(f"explain (format json) execute explained{nulls}")
    await connection.execute("deallocate explained")
    return list(_scans(msgspec.json.decode(plan)[0]["Plan"]))


def _scans(plan: dict[str, Any]) -> Iterator[Scan]:
    if plan["Node Type"].endswith("Scan") and ("Relation Name" in plan or "Index Name" in plan):
        yield Scan(plan["Node Type"], plan.get("Index Name") or plan["Relation Name"], plan.get("Index Cond"))
    for part in plan.get("Plans", ()):
        yield from _scans(part)
