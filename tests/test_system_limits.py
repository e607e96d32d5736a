"""The service needs no optional feature of the system: what a system refuses costs a log line, not the service."""

import asyncio
import resource
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from service import settings
from service.cores import cpu_quota
from service.security import secret_key
from service.server.open_files import new_limit
from tests.people import Person, assert_problem, login
from tests.processes import Start, read_output, read_until

LARGE_KIB = 256 * 1024  # so large that the C library asks the kernel for it, and returns it

UNLIMITED = resource.RLIM_INFINITY


@contextmanager
def limited(kind: int, soft: int) -> Iterator[int]:
    """Limit a resource of this process, and of those that it starts meanwhile. Yields the hard limit."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield before[1]
    finally:
        resource.setrlimit(kind, before)


async def test_the_limit_of_open_files_is_raised(start_python: Start, prlimit: str) -> None:
    with limited(resource.RLIMIT_NOFILE, 256) as hard:
        process = await start_python("service", DATABASE_URL="postgresql://nobody@127.0.0.1:1/app")
    await read_until(process, "Uvicorn running")

    arguments = ("--pid", str(process.pid), "--nofile", "--output=SOFT", "--noheadings", "--raw")
    program = await asyncio.create_subprocess_exec(prlimit, *arguments, stdout=PIPE)
    assert int(await read_output(program)) == new_limit(256, hard, 65_536) > 256


@pytest.mark.parametrize(
    ("soft", "hard", "limit"),
    [(256, UNLIMITED, 65_536), (256, 1024, 1024), (100_000, UNLIMITED, 100_000), (UNLIMITED, UNLIMITED, UNLIMITED)],
)
def test_the_new_limit_of_open_files_is_finite_and_not_lower(soft: int, hard: int, limit: int) -> None:
    assert new_limit(soft, hard, 65_536) == limit


async def test_a_system_that_does_not_raise_the_limit_of_open_files_costs_a_log_line(
    start: Start, seccomp: str, process_client: httpx.AsyncClient
) -> None:
    process = await start(seccomp, "prlimit64", "service", DATABASE_URL="postgresql://nobody@127.0.0.1:1/app")

    text = await read_until(process, "Uvicorn running")

    assert "the limit of open files stays as it is, because the system does not raise it: " in text
    assert (await process_client.get("/health/live")).status_code == 200


@pytest.mark.parametrize("call", ["setpriority", "getpriority"])
async def test_a_system_that_forbids_priorities_costs_a_log_line(
    start: Start, seccomp: str, process_client: httpx.AsyncClient, database_url: str, call: str
) -> None:
    process = await start(seccomp, call, "service", DATABASE_URL=database_url)
    await read_until(process, "Uvicorn running")

    alice = await Person.register(process_client, "alice")
    await asyncio.gather(*(login(process_client, alice.username, alice.password) for _ in range(8)))
    process.terminate()
    text = await read_output(process)

    assert text.count("passwords are hashed with the same priority as the event loop") == 1
    assert "Operation not permitted" in text


async def test_a_key_is_generated_on_a_volume_without_hard_links(start: Start, seccomp: str, tmp_path: Path) -> None:
    process = await start(seccomp, "link,linkat", "service", DATABASE_URL="postgresql://nobody@127.0.0.1:1/app")

    await read_until(process, "Uvicorn running")

    assert [len(file.read_text()) for file in (tmp_path / "data").iterdir()] == [2 * secret_key.MIN_BYTES]


def test_a_key_that_cannot_be_written_leaves_no_file_behind(tmp_path: Path) -> None:
    """A file may have no content: writing to it fails, as on a full disk."""
    environment = {"DATABASE_URL": "postgresql://app@db.example/app", "DATA_DIRECTORY": str(tmp_path)}
    for _ in range(2):
        with (
            limited(resource.RLIMIT_FSIZE, 0),
            pytest.raises(settings.SettingsError, match=r"cannot keep a generated secret key .*\(File too large\)"),
        ):
            settings.load(environment)

    assert list(tmp_path.iterdir()) == []


def test_a_key_whose_writer_was_interrupted_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_key, "_WRITE_SECONDS", 0.1)
    (tmp_path / "secret_key").touch()

    with pytest.raises(settings.SettingsError, match=r"secret_key is empty, its writer was interrupted: delete it"):
        settings.load({"DATABASE_URL": "postgresql://app@db.example/app", "DATA_DIRECTORY": str(tmp_path)})


async def test_without_memory_for_argon2_the_right_password_is_not_called_wrong(
    start: Start, prlimit: str, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start(
        "service", DATABASE_URL=database_url, PASSWORD_MEMORY_KIB=str(LARGE_KIB), PASSWORD_THREADS="1"
    )
    await read_until(process, "Uvicorn running")
    alice = await Person.register(process_client, "alice")
    in_use = psutil.Process(process.pid).memory_info().vms

    await limit_memory(prlimit, process.pid, f"{in_use + LARGE_KIB * 1024 // 2}")
    form = {"username": alice.username, "password": alice.password}
    refused = await process_client.post("/auth/token", data=form)
    unknown = await process_client.post("/auth/token", data=form | {"username": "nobody"})
    registered = await process_client.post(
        "/auth/register", json=form | {"username": "bob", "email": "bob@example.com"}
    )
    await limit_memory(prlimit, process.pid, "unlimited")
    assert await login(process_client, alice.username, alice.password)
    process.terminate()
    text = await read_output(process)

    for response in (refused, unknown, registered):
        assert_problem(response, 503, "hashing_failed", "Passwords cannot be checked now")
        assert response.headers["retry-after"]
    assert text.count("a password cannot be hashed or checked: Memory allocation error") == 3
    assert "Traceback" not in text


async def limit_memory(prlimit: str, pid: int, limit: str) -> None:
    program = await asyncio.create_subprocess_exec(prlimit, "--pid", str(pid), f"--as={limit}:unlimited")
    assert await program.wait() == 0


@pytest.mark.parametrize(
    "stored", ["", "not a hash", "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$short", "$argon2id$é", "$argon2id$v=19$m=1"]
)
async def test_an_invalid_stored_hash_is_not_a_wrong_password(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, caplog: pytest.LogCaptureFixture, stored: str
) -> None:
    await db.execute("update users set password_hash = $1", stored)

    response = await client.post("/auth/token", data={"username": alice.username, "password": alice.password})

    assert_problem(response, 503, "hashing_failed")
    assert "a password cannot be hashed or checked: " in caplog.text


V2, V1 = "0::/pod/container\n", "5:cpuset:/other\n4:cpu,cpuacct:/pod/container\n1:name=systemd:/x\n0::/\n"


@pytest.mark.parametrize(
    ("of_process", "files", "cores"),
    [
        (V2, {"pod/container/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"pod/container/cpu.max": "max 100000\n"}, float("inf")),
        (V2, {"pod/cpu.max": "50000 100000\n", "pod/container/cpu.max": "400000 100000\n"}, 0.5),
        (V2, {"cpu.max": "200000 100000\n"}, 2),  # the container sees its group as the root
        (V1, {"cpu/pod/container/cpu.cfs_quota_us": "300000\n", "cpu/pod/container/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {"cpu/pod/cpu.cfs_quota_us": "25000\n", "cpu/pod/cpu.cfs_period_us": "50000\n"}, 0.5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        (None, {}, float("inf")),
    ],
)
def test_the_cpu_quota_is_the_smallest_of_all_groups(
    tmp_path: Path, of_process: str | None, files: dict[str, str], cores: float
) -> None:
    if of_process:
        (tmp_path / "self").write_text(of_process)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert cpu_quota(tmp_path, tmp_path / "self") == cores
