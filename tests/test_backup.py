"""Backups: what one holds is served after it was restored, and nothing else is ever lost."""

import asyncio
import stat
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
import httpx
import psutil
import pytest

from service.database import schema
from tests.databases import with_database
from tests.people import Person, login
from tests.processes import Start, read_output, read_until, wait_until_serving
from tests.waiting import WAITERS

# No test may find the containers of a developer: it would replace their data.
NO_DOCKER = "/nowhere"
POSTS = ("One", "Zwei \N{SNOWMAN}", "three\ttabs\\n")


async def succeeds(process: Process) -> str:
    text = await read_output(process)
    assert process.returncode == 0, text
    return text


async def fails(process: Process) -> str:
    text = await read_output(process)
    assert process.returncode == 1, text
    return text


async def write_some(client: httpx.AsyncClient) -> Person:
    alice = await Person.register(client, "alice")
    for title in POSTS:
        await alice.publish(title)
    return alice


async def assert_served(client: httpx.AsyncClient) -> None:
    """What ``write_some`` wrote is there, and the service goes on with the next id."""
    assert [post["title"] for post in (await client.get("/posts")).json()] == [*POSTS]
    token = await login(client, "alice", "the password of alice")
    created = await client.post(
        "/posts", json={"title": "New", "content": "C"}, headers={"Authorization": f"Bearer {token}"}
    )
    assert (created.status_code, created.json()["id"]) == (201, len(POSTS) + 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "with a space"
    folder.mkdir()
    return folder / "a 'backup'.dump"


@pytest.fixture
def recipe(start: Start) -> Start:
    """Runs `just backup` or `just restore` without `just`."""

    async def run(*arguments: str, **more: str) -> Process:
        return await start("service.development.backup", *arguments, PATH=NO_DOCKER, **more)

    return run


@pytest.fixture
async def backup(recipe: Start, database_url: str, client: httpx.AsyncClient, file: Path) -> Path:
    """A backup of the database of ``client``."""
    await write_some(client)
    await succeeds(await recipe("backup", str(file), DATABASE_URL=database_url))
    return file


@pytest.mark.usefixtures("created_data")
async def test_the_embedded_database_is_backed_up_and_restored(
    start: Start, recipe: Start, process_client: httpx.AsyncClient, file: Path, tmp_path: Path
) -> None:
    up = await start("service.development")
    await read_until(up, "Uvicorn running on")
    await write_some(process_client)
    text = await succeeds(await recipe("backup", file.name, INVOKED_IN=str(file.parent)))
    assert "Database  the embedded PostgreSQL in " in text
    up.terminate()
    await read_output(up)
    stopped = file.with_name("stopped")
    await succeeds(await recipe("backup", str(stopped)))

    other = str(tmp_path / "other data")
    for one in (file, stopped):
        # The first time there is no data directory yet; then it has data.
        overwrite = ["--overwrite"] * (one is stopped)
        await succeeds(await recipe("restore", *overwrite, str(one), DATA_DIRECTORY=other))

    await read_until(await start("service.development", DATA_DIRECTORY=other), "Uvicorn running on")
    await wait_until_serving(process_client)
    await assert_served(process_client)


async def test_a_backup_is_restored_into_an_empty_database(
    start: Start, recipe: Start, process_client: httpx.AsyncClient, backup: Path, empty_database: str
) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    await succeeds(await recipe("restore", str(backup), DATABASE_URL=empty_database))

    await start("service", DATABASE_URL=empty_database)
    await wait_until_serving(process_client)

    await assert_served(process_client)


async def test_a_backup_is_restored_into_a_database_with_a_schema_and_no_data(
    start: Start, recipe: Start, process_client: httpx.AsyncClient, backup: Path, empty_database: str
) -> None:
    await schema.migrate(empty_database)
    await start("service", DATABASE_URL=empty_database)
    await wait_until_serving(process_client)

    await succeeds(await recipe("restore", str(backup), DATABASE_URL=empty_database))

    await assert_served(process_client)


async def test_data_are_replaced_only_on_demand(
    recipe: Start, client: httpx.AsyncClient, backup: Path, database_url: str, db: asyncpg.Connection
) -> None:
    mallory = await Person.register(client, "mallory")
    for title in POSTS:
        await mallory.publish(title.upper())
    # As a newer release would.
    await db.execute("create table notes (user_id bigint references users (id)); create view v as select id from users")
    await db.execute("create type mood as enum ('good'); create function f(mood) returns mood return $1")
    await db.execute("insert into notes select id from users")

    refused = await fails(await recipe("restore", str(backup), DATABASE_URL=database_url))

    assert "ERROR:  the table users holds data, which `just restore --overwrite FILE` would replace" in refused
    assert len((await client.get("/posts")).json()) == 2 * len(POSTS)
    assert await db.fetchval("select count(*) from notes") == 2

    await succeeds(await recipe("restore", "--overwrite", str(backup), DATABASE_URL=database_url))

    await assert_served(client)
    assert await db.fetchval("select to_regclass('notes')") is None
    assert await db.fetchval("select to_regtype('mood')") is None


async def test_a_damaged_backup_changes_nothing(
    recipe: Start, client: httpx.AsyncClient, backup: Path, database_url: str
) -> None:
    content = backup.read_bytes()
    for damaged, words in ((b"nonsense", "archive"), (content[: len(content) * 9 // 10], ""), (b"", "")):
        backup.write_bytes(damaged)

        text = await fails(await recipe("restore", "--overwrite", str(backup), DATABASE_URL=database_url))

        assert "Nothing is restored, and the database is unchanged" in text
        assert words in text
        assert "Traceback" not in text
    await assert_served(client)


async def test_a_failure_leaves_the_previous_backup(recipe: Start, backup: Path, database_url: str) -> None:
    content = backup.read_bytes()

    text = await fails(await recipe("backup", str(backup), DATABASE_URL=with_database(database_url, "nothing")))

    assert 'database "nothing" does not exist' in text
    assert backup.read_bytes() == content
    assert [path.name for path in backup.parent.iterdir()] == [backup.name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["backup"], "usage: just backup FILE"),
        (["restore", "--force", "x"], "usage: just backup FILE"),
        (["restore", "/nothing/here"], "/nothing/here: No such file or directory"),
        (["backup", "/nothing/here"], "/nothing is not a directory"),
    ],
)
async def test_faults_of_the_command_line_are_one_line(
    recipe: Start, database_url: str, arguments: list[str], words: str
) -> None:
    text = await fails(await recipe(*arguments, DATABASE_URL=database_url))

    assert words in text
    assert "Traceback" not in text


async def test_without_a_database_there_is_nothing_to_back_up(recipe: Start, file: Path) -> None:
    text = await fails(await recipe("backup", str(file)))

    assert text.startswith("There is no database: DATABASE_URL is not set")
    assert not file.exists()


@pytest.mark.parametrize("form", ["user", "parameter"])
async def test_no_password_is_on_a_command_line(
    recipe: Start, db: asyncpg.Connection, database_url: str, file: Path, form: str
) -> None:
    parts = urlsplit(database_url)
    password = parts.password or "s%2Fecret"  # the embedded server asks for none
    user, host = f"{parts.username}:{password}", parts.netloc.rpartition("@")[2]
    query = parts.query
    if form == "parameter":
        user, query = f"{parts.username}", "&".join(filter(None, [query, f"password={password}"]))
    url = f"postgresql+asyncpg://{user}@{host}{parts.path}?{query}"
    async with db.transaction():
        await db.execute("lock table users in access exclusive mode")  # pg_dump waits for it

        process = await recipe("backup", str(file), DATABASE_URL=url)

        async with asyncio.timeout(30):
            while not await db.fetchval(WAITERS):
                await asyncio.sleep(0.02)
        commands = [child.cmdline() for child in psutil.Process(process.pid).children(recursive=True)]
        assert [Path(command[0]).name for command in commands] == ["pg_dump"]
        assert not any(unquote(password) in unquote(word) for word in commands[0])
    await succeeds(process)


@pytest.mark.process
async def test_just_takes_a_file_relative_to_the_directory_in_which_it_was_called(
    just: str, repository: Path, environment: dict[str, str], database_url: str, file: Path
) -> None:
    for arguments, code in ((["backup", file.name], 0), (["restore", "--overwrite", file.name], 0), (["backup"], 1)):
        process = await asyncio.create_subprocess_exec(
            *(just, "--no-deps", "--justfile", str(repository / "justfile"), *arguments),
            cwd=file.parent,
            env=environment | {"DATABASE_URL": database_url},
            stdout=PIPE,
            stderr=STDOUT,
        )
        said = await read_output(process)

        assert process.returncode == code, said
    assert file.exists()
    assert said == "usage: just backup FILE, or just restore [--overwrite] FILE\n"
