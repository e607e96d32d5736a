"""The rights that a role needs which does not own the tables. README.md has the statements that grant them."""

from typing import Final

from asyncpg import Connection

# With the rights to select, insert, update and delete. The table schema_files is only read.
TABLES: Final = ("users", "posts", "signing_key", "sessions", "login_failures", "known_addresses", "idempotency_keys")
FUNCTIONS: Final = ("rfc3339(timestamptz)", "search_language()")

# A table is invisible if the role must not use its schema, or if the schema is not in its search_path.
SELECT_INVISIBLE_SCHEMA: Final = """
select
    pg_namespace.nspname as name,
    has_schema_privilege(pg_namespace.oid, 'usage') as is_usable
from pg_class
inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
where
    pg_class.relname = 'schema_files'
    and to_regclass('schema_files') is null
order by pg_namespace.oid
limit 1
"""

# Tables and functions that do not exist are not listed: the schema check names the files that create them.
SELECT_MISSING_RIGHTS: Final = """
select
    'table ' || relation as object,
    string_agg(privilege, ', ' order by privilege) as missing
from unnest($1::text[]) as relation
cross join unnest(array['select', 'insert', 'update', 'delete']) as privilege
where
    not has_table_privilege(to_regclass(relation), privilege)
    and (relation <> 'schema_files' or privilege = 'select')
group by relation
union all
select
    'function ' || routine as object,
    'execute' as missing
from unnest($2::text[]) as routine
where not has_function_privilege(to_regprocedure(routine), 'execute')
order by object
"""


async def missing_rights(connection: Connection) -> list[str]:
    """What the role of this connection lacks, one line each."""
    role = await connection.fetchval("select current_user")
    if row := await connection.fetchrow(SELECT_INVISIBLE_SCHEMA):
        schema, usable = row
        remedy = "set its search_path" if usable else f'grant usage on schema "{schema}" to it'
        reason = "does not have it in its search_path" if usable else "may not use it"
        return [f'the tables are in the schema "{schema}", and the role "{role}" {reason}: {remedy}']
    rows = await connection.fetch(SELECT_MISSING_RIGHTS, ["schema_files", *TABLES], [*FUNCTIONS])
    return [
        f'the role "{role}" lacks {missing} on {named}: grant what README.md lists, as the owner of the tables'
        for named, missing in rows
    ]
