"""The language of full-text search: the one of the index, and the one that ``SEARCH_LANGUAGE`` names."""

from typing import Final

import asyncpg
from asyncpg import Connection

from service.database.faults import DatabaseFault, in_one_line
from service.database.hosts import connect_to_any
from service.database.schema import CONNECT_TIMEOUT

SELECT_LANGUAGE: Final = """
select
    search_language()::text as current,
    search_language() = $1::text::regconfig as is_wanted
"""

# See sql/008_posts_search.sql.
SET_LANGUAGE: Final = """
select set_search_language($1::text::regconfig)
"""


async def find_other(connection: Connection, wanted: str) -> str | None:
    """The language of the index, unless it is the wanted one. Raises ``DatabaseFault``, or an error of asyncpg."""
    try:
        [(current, is_wanted)] = await connection.fetch(SELECT_LANGUAGE, wanted)
    except asyncpg.UndefinedObjectError as error:
        raise _unknown(error) from error
    return None if is_wanted else str(current)


async def change(url: str, wanted: str) -> None:
    """Rebuild the column and the index. Raises ``DatabaseFault``, or an error of asyncpg."""
    connection = await connect_to_any(url, timeout=CONNECT_TIMEOUT, statement_cache_size=0)
    try:
        await connection.execute("set statement_timeout = 0")  # a role may have one, and this takes minutes
        await connection.fetch(SET_LANGUAGE, wanted)
    except asyncpg.UndefinedObjectError as error:
        raise _unknown(error) from error
    except asyncpg.UndefinedFunctionError as error:
        raise DatabaseFault("the database has no search yet: run `python -m service migrate` first") from error
    finally:
        await connection.close()


def _unknown(error: Exception) -> DatabaseFault:
    return DatabaseFault(f"SEARCH_LANGUAGE: {in_one_line(error)}; `\\dF` in psql lists those that exist")
