"""Migrations: every file is applied once and in order, by any number of processes."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.database import schema
from service.database.schema import SchemaError
from tests.waiting import WAITERS

FILES = {
    "001_one.sql": "create table one (id bigint);",
    "002_two.sql": "alter table one add column name text;\ncreate table two (id bigint);",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


async def applied(url: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("select name from schema_files order by name")
    await connection.close()
    return [row["name"] for row in rows]


async def verify(url: str, directory: Path) -> None:
    connection = await asyncpg.connect(url)
    try:
        await schema.verify(connection, directory)
    finally:
        await connection.close()


async def test_files_are_applied_once_and_in_order(empty_database: str, directory: Path) -> None:
    assert await schema.migrate(empty_database, directory) == ["001_one.sql", "002_two.sql"]
    assert await schema.migrate(empty_database, directory) == []
    (directory / "003_three.sql").write_text("create table three (id bigint);")
    assert await schema.migrate(empty_database, directory) == ["003_three.sql"]
    assert await applied(empty_database) == ["001_one.sql", "002_two.sql", "003_three.sql"]


async def test_ten_concurrent_migrations_apply_the_files_once(empty_database: str, directory: Path) -> None:
    results = await asyncio.gather(*(schema.migrate(empty_database, directory) for _ in range(10)))

    assert sorted(name for names in results for name in names) == ["001_one.sql", "002_two.sql"]
    assert await applied(empty_database) == ["001_one.sql", "002_two.sql"]


async def test_a_file_that_was_changed_after_it_was_applied_is_an_error(empty_database: str, directory: Path) -> None:
    await schema.migrate(empty_database, directory)
    (directory / "001_one.sql").write_text("create table one (id integer);")

    with pytest.raises(SchemaError, match=r"001_one\.sql was changed after it was applied"):
        await schema.migrate(empty_database, directory)
    with pytest.raises(SchemaError, match=r"001_one\.sql was changed after it was applied"):
        await verify(empty_database, directory)


async def test_a_file_that_fails_is_rolled_back(empty_database: str, directory: Path) -> None:
    (directory / "002_two.sql").write_text("create table two (id bigint);\ncreate table one (id bigint);")

    with pytest.raises(SchemaError, match=r'002_two\.sql cannot be applied: relation "one" already exists'):
        await schema.migrate(empty_database, directory)

    assert await applied(empty_database) == ["001_one.sql"]
    (directory / "002_two.sql").write_text(FILES["002_two.sql"])
    assert await schema.migrate(empty_database, directory) == ["002_two.sql"]


async def test_a_new_file_must_not_sort_before_an_applied_one(empty_database: str, directory: Path) -> None:
    await schema.migrate(empty_database, directory)
    (directory / "001_a_late_one.sql").write_text("create table late (id bigint);")

    with pytest.raises(SchemaError, match="give it a higher number"):
        await schema.migrate(empty_database, directory)

    assert await applied(empty_database) == ["001_one.sql", "002_two.sql"]


async def test_an_applied_file_of_a_newer_release_is_ignored(empty_database: str, directory: Path) -> None:
    await schema.migrate(empty_database, directory)
    (directory / "002_two.sql").unlink()

    assert await schema.migrate(empty_database, directory) == []
    await verify(empty_database, directory)


async def test_verify_names_the_missing_files(empty_database: str, directory: Path) -> None:
    with pytest.raises(SchemaError, match=r"lacks 001_one\.sql, 002_two\.sql: run `python -m service migrate` first"):
        await verify(empty_database, directory)

    await schema.migrate(empty_database, directory)
    await verify(empty_database, directory)


async def test_a_migration_continues_when_the_holder_of_the_lock_disconnects(
    empty_database: str, directory: Path
) -> None:
    holder = await asyncpg.connect(empty_database)
    await holder.execute("select pg_advisory_lock($1)", schema.LOCK_KEY)
    waiting = asyncio.create_task(schema.migrate(empty_database, directory))
    while not await holder.fetchval(WAITERS):
        assert not waiting.done()

    await holder.close()

    assert await waiting == ["001_one.sql", "002_two.sql"]


async def test_the_wait_for_another_migration_is_bounded(empty_database: str, directory: Path) -> None:
    holder = await asyncpg.connect(empty_database)
    await holder.execute("select pg_advisory_lock($1)", schema.LOCK_KEY)

    with pytest.raises(SchemaError, match=r"another process has been migrating for 0\.1 seconds"):
        await schema.migrate(empty_database, directory, lock_timeout=0.1)

    assert await holder.fetchval("select to_regclass('schema_files')") is None
    await holder.close()


async def test_an_older_postgresql_is_refused(
    empty_database: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "OLDEST_POSTGRESQL", 99)

    with pytest.raises(SchemaError, match=r"PostgreSQL 99 or newer is required, this is \d+\.\d+"):
        await schema.migrate(empty_database, directory)


async def test_the_error_of_a_file_is_one_line(empty_database: str, directory: Path) -> None:
    (directory / "002_two.sql").write_text("create table two (id bigint);\nselect id from two where name = 'x';")

    with pytest.raises(SchemaError) as caught:
        await schema.migrate(empty_database, directory)

    assert str(caught.value) == 'sql/002_two.sql cannot be applied: column "name" does not exist'
    assert await applied(empty_database) == ["001_one.sql"]
