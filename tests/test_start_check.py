"""The service does not start on a database on which it cannot serve, and names the true cause."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import httpx
import msgspec
import pytest

from service.app import create_app
from service.database import schema
from service.database.address import parse
from service.database.check import check
from service.database.database import Database
from service.database.faults import DatabaseFault, DatabaseUnreachable
from service.database.rights import FUNCTIONS, TABLES
from service.security.cleanup import Cleanup
from service.settings import Settings
from service.structs.auth import LoginRules
from tests.conftest import Serve
from tests.databases import Databases, with_database, with_role
from tests.people import Person, Tokens, is_ready
from tests.poolers import StartPgBouncer
from tests.processes import Start, read_output, read_until
from tests.serving import open_client
from tests.tls import make_certificate, tls_proxy


async def faults(settings: Settings, url: str, kind: type[DatabaseFault] = DatabaseFault) -> list[str]:
    """Why the service does not start on a database."""
    with pytest.raises(DatabaseFault) as caught:
        await check(msgspec.structs.replace(settings, database_url=url))
    assert isinstance(caught.value, DatabaseUnreachable) == (kind is DatabaseUnreachable)
    return str(caught.value).splitlines()


@pytest.fixture
async def role(db: asyncpg.Connection) -> AsyncIterator[str]:
    """A new role without any rights."""
    name = f"role_{uuid.uuid4().hex}"
    await db.execute(f"create role {name} login password 'hidden'")
    yield name
    await db.execute(f"drop owned by {name}")
    await db.execute(f"drop role {name}")


@pytest.fixture
def role_url(database_url: str, role: str) -> str:
    return with_role(database_url, role, "hidden")


async def grant_all(db: asyncpg.Connection, role: str) -> None:
    await db.execute(f"grant select, insert, update, delete on {', '.join(TABLES)} to {role}")
    await db.execute(f"grant select on schema_files to {role}")


async def test_the_owner_of_the_tables_may_serve(settings: Settings) -> None:
    await check(settings)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_in_another_encoding_than_utf8_is_refused(
    databases: Databases, settings: Settings, encoding: str
) -> None:
    name = f"test_{uuid.uuid4().hex}"
    await databases.admin.execute(f"create database {name} encoding '{encoding}' locale 'C' template template0")
    url = with_database(databases.url, name)
    try:
        [fault] = await faults(settings, url)
        with pytest.raises(DatabaseFault, match=f"the encoding of the database is {encoding}, not UTF8"):
            await schema.migrate(url)
    finally:
        await databases.drop(name)

    assert fault.startswith(f"the encoding of the database is {encoding}, not UTF8: create another with ")


async def test_a_role_without_rights_is_refused_and_every_missing_right_is_named(
    settings: Settings, role: str, role_url: str
) -> None:
    remedy = "grant what README.md lists, as the owner of the tables"

    assert await faults(settings, role_url) == [
        f'the role "{role}" lacks {rights} on table {table}: {remedy}'
        for table in sorted([*TABLES, "schema_files"])
        for rights in ["select" if table == "schema_files" else "delete, insert, select, update"]
    ]


@pytest.mark.parametrize(
    ("revoke", "missing"),
    [
        ("revoke update on posts from {}", "lacks update on table posts"),
        ("revoke insert, delete on users from {}", "lacks delete, insert on table users"),
        ("revoke select on schema_files from {}", "lacks select on table schema_files"),
        ("revoke execute on function rfc3339 from public", "lacks execute on function rfc3339(timestamptz)"),
        ("revoke usage on schema public from public", "may not use it: grant usage"),
        ("alter role {} set search_path = other", "does not have it in its search_path: set its search_path"),
    ],
)
async def test_a_single_missing_right_is_named(
    settings: Settings, role: str, role_url: str, db: asyncpg.Connection, revoke: str, missing: str
) -> None:
    await grant_all(db, role)
    await check(msgspec.structs.replace(settings, database_url=role_url))

    await db.execute(revoke.format(role))

    [fault] = await faults(settings, role_url)
    assert missing in fault
    assert f'the role "{role}"' in fault


async def test_a_role_that_may_not_connect_is_refused(
    settings: Settings, role_url: str, db: asyncpg.Connection
) -> None:
    database = await db.fetchval("select current_database()")
    await db.execute(f'revoke connect on database "{database}" from public')

    [fault] = await faults(settings, role_url)

    assert fault.startswith(f'The database refuses the connection: permission denied for database "{database}"')
    assert fault.endswith("README.md lists the rights that the role needs")


async def test_the_service_does_not_start_without_rights_and_migrate_names_them(
    start: Start, empty_database: str, role: str, role_url: str
) -> None:
    service = await start("service", DATABASE_URL=role_url)
    migrate = await start("service", "migrate", DATABASE_URL=with_role(empty_database, role, "hidden"))

    assert "lacks select on table schema_files" in await read_output(service)
    assert await read_output(migrate) == (
        "The database refuses the connection: permission denied for schema public: "
        "README.md lists the rights that the role needs\n"
    )
    assert (service.returncode, migrate.returncode) == (1, 1)


async def test_migrate_with_nothing_to_apply_needs_no_more_rights_than_the_service(
    start: Start, db: asyncpg.Connection, role: str, role_url: str
) -> None:
    await grant_all(db, role)
    migrate = await start("service", "migrate", DATABASE_URL=role_url)

    assert "all files were applied before" in await read_output(migrate)
    assert migrate.returncode == 0


async def test_the_rights_are_those_on_all_tables_and_functions_of_the_schema(db: asyncpg.Connection) -> None:
    tables = await db.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
    )
    functions = await db.fetch(
        "select oid::regprocedure::text from pg_proc where pronamespace = 'public'::regnamespace"
    )

    assert sorted(row[0] for row in tables) == sorted([*TABLES, "schema_files"])
    expected = [await db.fetchval("select $1::text::regprocedure::text", function) for function in FUNCTIONS]
    only_for_the_owner = {"set_search_language(regconfig)"}
    assert {row[0] for row in functions} - only_for_the_owner == {*expected}


def readme_statements(repository: Path) -> str:
    """The statements of README.md that create a role with the rights that the service needs."""
    [statements] = [
        block.partition("```")[0]
        for block in (repository / "README.md").read_text(encoding="utf-8").split("```sql\n")[1:]
        if "create role" in block.partition("```")[0]
    ]
    return statements


# One request for each route, with its status; the ids are those of the first user and post.
PASSWORD = "the password of alice"
REQUESTS = [
    ("GET", "/", None, 200),
    ("GET", "/health/live", None, 200),
    ("GET", "/health/ready", None, 200),
    ("GET", "/users/me", None, 200),
    ("GET", "/users/{user_id}", None, 200),
    ("POST", "/posts", {"title": "Another", "content": "Text"}, 201),
    ("GET", "/posts", None, 200),
    ("GET", "/posts/{post_id}", None, 200),
    ("PATCH", "/posts/{post_id}", {"title": "Edited"}, 200),
    ("DELETE", "/posts/{post_id}", None, 204),
    ("GET", "/users/me/sessions", None, 200),
    ("DELETE", "/users/me/sessions/{session_id}", None, 204),
    ("DELETE", "/users/me/sessions", None, 204),
    ("PATCH", "/users/me", {"current_password": PASSWORD, "email": "a@example.com"}, 200),
    ("POST", "/users/me/password", {"current_password": PASSWORD, "new_password": PASSWORD}, 204),
    ("GET", "/users/me/export", None, 200),
    ("POST", "/users/me/deletion", {"current_password": PASSWORD}, 204),
]


async def test_a_role_with_the_rights_of_the_readme_serves_every_route(
    repository: Path, settings: Settings, serve: Serve, database_url: str, db: asyncpg.Connection
) -> None:
    # So that nothing comes from the rights that every role has.
    await db.execute("revoke all on schema public from public")
    await db.execute("revoke execute on all functions in schema public from public")
    await db.execute("alter default privileges revoke execute on functions from public")
    await db.execute(readme_statements(repository))
    try:
        chosen = msgspec.structs.replace(settings, database_url=with_role(database_url, "service_user", "choose one"))
        await check(chosen)
        chosen = msgspec.structs.replace(chosen, login_failures_per_account=5, registrations_per_hour=5)
        stronger = msgspec.structs.replace(chosen, password_passes=2)
        async with open_client(await serve(create_app(chosen))) as client:
            alice = await Person.register(client, "alice")
            bob = await Person.register(client, "bob")
            await alice.publish()
            answers = []
            for method, path, body, _ in REQUESTS:
                tokens = await (await Tokens.log_in(alice)).refreshed()  # some of the requests end all sessions
                url = path.format(user_id=1, post_id=1, session_id=(await tokens.sessions())[0]["id"])
                answers.append(await client.request(method, url, json=body, headers=tokens.headers))
            failed = await client.post("/auth/token", data={"username": "bob", "password": "wrong"})
            revoked = await client.post("/auth/revoke", data={"token": bob.token})
            paths = (await client.get("/openapi.json")).json()["paths"]
        async with open_client(await serve(create_app(stronger))) as client:
            rehashed = await client.post("/auth/token", data={"username": "bob", "password": bob.password})
        database = Database(chosen.database_url, connections=1, timeout=5)
        async with database.lifespan():
            await Cleanup(database, LoginRules(10, 50, timedelta(1), timedelta(90))).run()
        await db.execute("create table later (id bigint); create function later() returns int return 1")
        later = await db.fetchrow(
            """
            select
                has_table_privilege('service_user', 'later', 'insert'),
                has_function_privilege('service_user', 'later()', 'execute')
            """
        )
        writes_schema = await db.fetchval("select has_table_privilege('service_user', 'schema_files', 'insert')")
    finally:
        await db.execute("drop owned by service_user")
        await db.execute("drop role service_user")

    assert [answer.status_code for answer in answers] == [status for *_, status in REQUESTS]
    assert (failed.status_code, revoked.status_code, rehashed.status_code) == (401, 200, 200)
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    public = {("POST", f"/auth/{name}") for name in ("register", "token", "revoke")}
    tested = {(method, path) for method, path, *_ in REQUESTS} | public
    assert {(method, path) for method, path in documented if method not in {"HEAD", "OPTIONS"}} == tested
    assert later
    assert (*later, writes_schema) == (True, True, False)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("postgresql://nobody:hidden@127.0.0.1:1/app", "127.0.0.1, port 1: "),
        ("postgresql://nobody:hidden@no-such-host.invalid/app", "no-such-host.invalid: "),
        ("postgresql://nobody:hidden@/app?host=/no/such/folder", "/no/such/folder: "),
        ("postgresql://nobody:hidden@127.0.0.1:1,127.0.0.1:2/app", "127.0.0.1, port 1: "),
    ],
    ids=["port", "name", "socket", "several hosts"],
)
async def test_a_database_that_cannot_be_reached_is_named_and_may_come_later(
    settings: Settings, url: str, cause: str
) -> None:
    [fault] = await faults(settings, url, DatabaseUnreachable)

    assert fault.startswith(f"The database cannot be reached: {cause}")
    assert fault.count(cause) == 1


async def test_a_read_only_database_prevents_neither_the_check_nor_the_start_and_each_logs_it_once(
    settings: Settings, start: Start, db: asyncpg.Connection
) -> None:
    database = await db.fetchval("select current_database()")
    await db.execute(f'alter database "{database}" set default_transaction_read_only = on')

    checked = await start("service", "check", DATABASE_URL=settings.database_url)
    said = await read_output(checked)
    served = await start("service", DATABASE_URL=settings.database_url)
    logged = await read_until(served, "the database is read-only: ")
    url = extended(settings.database_url, "target_session_attrs=read-write")
    [fault] = await faults(settings, url, DatabaseUnreachable)

    assert checked.returncode == 0
    assert said.count("the database is read-only (default_transaction_read_only)") == 1
    assert logged.count("the database is read-only") == 1
    assert fault.endswith(": it is a standby or read-only")


async def test_migrate_reports_a_read_only_database(start: Start, empty_database: str) -> None:
    url = extended(empty_database, "options=-c%20default_transaction_read_only%3Don")
    process = await start("service", "migrate", DATABASE_URL=url)

    assert await read_output(process) == (
        "The database is read-only: cannot execute CREATE TABLE in a read-only transaction: "
        "let DATABASE_URL lead to the primary\n"
    )
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        (
            "options=-c%20no_such_setting%3D1",
            'unrecognized configuration parameter "no_such_setting": check the settings',
        ),
        ("options=-c%20statement_timeout%3Dsoon", 'invalid value for parameter "statement_timeout": "soon"'),
        ("application_name=a&options=-z", "invalid command-line argument for server process: -z"),
    ],
)
async def test_a_setting_that_postgresql_refuses_is_reported(settings: Settings, query: str, fault: str) -> None:
    [found] = await faults(settings, extended(settings.database_url, query))

    assert fault in found


async def test_what_pgbouncer_refuses_is_reported(settings: Settings, pgbouncer: StartPgBouncer) -> None:
    open_to_all = pgbouncer(settings.database_url).url
    with_passwords = pgbouncer(settings.database_url, auth_type="plain", auth_file="/dev/null").url
    prefix = "The database refuses the connection: "

    [setting] = await faults(settings, extended(open_to_all, "options=-c%20work_mem%3D5MB"))
    [database] = await faults(settings, with_database(open_to_all, "no_such_database"))
    [password] = await faults(settings, with_passwords)

    assert setting.startswith(f"{prefix}unsupported startup parameter: options: let PgBouncer's ")
    assert database.startswith(f'{prefix}database "no_such_database" does not exist')
    assert password.endswith("check the password in DATABASE_URL, PGPASSWORD or PGPASSFILE")


@pytest.mark.parametrize(("name", "value"), [("PGPORT", "none"), ("PGSSLMODE", "never"), ("PGSSLNEGOTIATION", "none")])
async def test_an_invalid_variable_of_libpq_is_reported(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    [fault] = await faults(settings, "postgresql://u:hidden@127.0.0.1/app")

    assert fault.startswith("The database refuses the connection: ")
    assert fault.endswith("check DATABASE_URL and the variables PG…")
    assert "hidden" not in fault


def extended(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslcrl"])
async def test_a_missing_certificate_is_named(settings: Settings, tmp_path: Path, name: str) -> None:
    url = f"postgresql://u:hidden@127.0.0.1:1/app?sslmode=require&{name}={tmp_path}/no-such-file"

    assert await faults(settings, url) == [
        f"DATABASE_URL: {name}: {tmp_path}/no-such-file cannot be read: No such file or directory"
    ]


async def test_every_unusable_file_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openssl: str
) -> None:
    certificate, key = make_certificate(openssl, tmp_path, "client")
    _, other_key = make_certificate(openssl, tmp_path, "other")
    (tmp_path / "garbage").write_text("garbage")
    monkeypatch.setenv("PGSSLROOTCERT", f"{tmp_path}/garbage")
    url = f"postgresql://u@127.0.0.1:1/app?sslmode=require&sslcert={certificate}&sslkey="

    root, mismatch = await faults(settings, f"{url}{other_key}")
    assert await faults(settings, f"{url}{tmp_path}") == [
        f"DATABASE_URL: sslkey: {tmp_path} cannot be read: Is a directory"
    ]
    monkeypatch.delenv("PGSSLROOTCERT")
    [unreachable] = await faults(settings, f"{url}{key}", DatabaseUnreachable)

    assert root.startswith(f"PGSSLROOTCERT: {tmp_path}/garbage cannot be used: ")
    assert mismatch.startswith(f"DATABASE_URL: sslcert: {certificate} cannot be used: ")
    assert "127.0.0.1, port 1: [Errno" in unreachable


async def test_migrate_names_an_unreadable_certificate(start: Start, tmp_path: Path) -> None:
    url = f"postgresql://u:hidden@127.0.0.1:1/app?sslmode=verify-full&sslrootcert={tmp_path}/none"
    process = await start("service", "migrate", DATABASE_URL=url)

    assert await read_output(process) == (
        f"DATABASE_URL: sslrootcert: {tmp_path}/none cannot be read: No such file or directory\n"
    )
    assert process.returncode == 1


async def test_the_certificates_of_the_system_verify_the_server(
    start: Start, database_url: str, tmp_path: Path, openssl: str
) -> None:
    certificate, key = make_certificate(openssl, tmp_path, "localhost")
    async with tls_proxy(parse(database_url).hosts[0], certificate, key) as port:
        urls = [
            with_hosts(database_url, f"host=localhost&port={port}&sslrootcert=system"),
            with_hosts(database_url, f"host=localhost&port={port}&sslmode=verify-full&sslrootcert={certificate}"),
            with_hosts(database_url, f"host=127.0.0.1&port={port}&sslrootcert=system"),
        ]
        trusted = [await start("service", "migrate", DATABASE_URL=url, SSL_CERT_FILE=str(certificate)) for url in urls]
        unknown = await start("service", "migrate", DATABASE_URL=urls[0])
        said = [await read_output(process) for process in (*trusted, unknown)]

    assert [process.returncode for process in (*trusted, unknown)] == [0, 0, 1, 1]
    for text, reason in ((said[2], "IP address mismatch"), (said[3], "self-signed certificate")):
        assert text.startswith("The database refuses the connection: ")
        assert reason in text
        assert "check the host name in DATABASE_URL, and sslrootcert" in text


def with_hosts(url: str, query: str) -> str:
    """The URL of a database through other servers."""
    arguments = parse(url).arguments
    password = arguments.get("password", "")
    return f"postgresql://{arguments['user']}:{password}@/{arguments['database']}?{query}"


async def test_a_host_that_does_not_respond_does_not_prevent_the_next(settings: Settings, database_url: str) -> None:
    """The first host refuses connections, the second accepts them and never responds, the third is the database."""
    accepted = asyncio.Event()

    async def never_respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()

    live = parse(database_url).hosts[0]
    async with await asyncio.start_server(never_respond, "127.0.0.1") as silent:
        port = silent.sockets[0].getsockname()[1]
        names, ports = f"127.0.0.1,127.0.0.1,{live.name}", f"1,{port},{live.port or 5432}"
        query = f"host={names}&port={ports}&target_session_attrs=primary"
        await check(
            msgspec.structs.replace(settings, database_url=with_hosts(database_url, query), database_timeout_seconds=2)
        )
        assert accepted.is_set()
        [fault] = await faults(
            msgspec.structs.replace(settings, database_timeout_seconds=0.5),
            f"postgresql://u@127.0.0.1:1,127.0.0.1:{port}/app",
            DatabaseUnreachable,
        )

    assert "127.0.0.1, port 1: " in fault
    assert f"127.0.0.1, port {port}: no response within " in fault


async def test_parameters_that_make_no_difference_are_logged_and_the_service_serves(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    query = (
        "channel_binding=prefer&connect_timeout=10&keepalives=1&keepalives_idle=30&tcp_user_timeout=1000"
        "&gssencmode=disable&client_encoding=utf8&load_balance_hosts=disable&sslnegotiation=postgres"
        "&application_name=mine&options=-c%20work_mem%3D5MB&target_session_attrs=read-write"
    )
    process = await start("service", DATABASE_URL=extended(database_url, query))
    text = await read_until(process, "Uvicorn running")

    assert await is_ready(process_client)
    names = ["client_encoding", "keepalives", "keepalives_idle", "load_balance_hosts", "tcp_user_timeout"]
    assert (
        sorted(line.split("DATABASE_URL: ")[1].split()[0] for line in text.splitlines() if "no effect" in line) == names
    )
    assert await db.fetchval("select count(*) from pg_stat_activity where application_name = 'mine'") >= 1
