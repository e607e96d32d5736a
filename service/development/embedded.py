"""Runs an embedded PostgreSQL as a child process."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from service.development import data_directory, programs, system_user
from service.development.data_directory import STOP_SECONDS
from service.development.errors import EmbeddedError
from service.development.system_user import SystemUser

STALLED_SECONDS: Final = 120  # without a new line in its log, a server that starts is taken to hang
SLOW_SECONDS: Final = 3  # after which a start is announced

SERVER_OPTIONS: Final = {
    "listen_addresses": "",  # no TCP: `trust` would let every user of this machine in
    "unix_socket_permissions": "0700",
    "port": "5432",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_startup_progress_interval": "5s",
}

Announce = Callable[[str], None]


@contextmanager
def running(
    data: Path,
    options: Mapping[str, str] = MappingProxyType({}),
    *,
    announce: Announce,
    stalled_seconds: float = STALLED_SECONDS,
) -> Iterator[str]:
    """Run a server on a data directory, which is created unless it exists, and yield the URL of its database.

    ``options`` are settings of the server. Only one process may use a data directory, see ``exclusive``. Raises
    ``EmbeddedError``, or the ``OSError`` of a file.
    """
    data = data.resolve()
    user = prepare(data, announce)
    data_directory.stop_leftover(data, announce)
    with programs.private_directory(user) as sockets, log_of(data).open("w") as log:
        given = {**SERVER_OPTIONS, "unix_socket_directories": str(sockets), **options}
        settings = [f"--{name}={value}" for name, value in given.items()]
        command: list[str | Path] = [programs.program("postgres"), "-D", data, *settings]
        url = f"postgresql://postgres@/postgres?host={sockets}&port={given['port']}"
        with programs.started(command, user, log, _stop) as process:
            _wait_until_ready(process, data, url, announce, stalled_seconds)
            yield url


def prepare(data: Path, announce: Announce) -> SystemUser | None:
    """Create a data directory unless it exists. Returns the user that runs the server, if that is another one."""
    user = system_user.for_data(data)
    if user:
        system_user.let_pass(user, [data, programs.program("postgres")], announce)
        system_user.check_readable(user, programs.folders())
    if not (data / "PG_VERSION").exists():
        data_directory.create(data, user)
    return user


def _wait_until_ready(
    postgres: subprocess.Popen[bytes], data: Path, url: str, announce: Announce, stalled_seconds: float
) -> None:
    """Connect as soon as the server is ready. Crash recovery may take as long as it goes on logging its progress."""
    log = log_of(data)
    begun = progress = time.monotonic()
    size, announced = 0, False
    while not (data_directory.is_ready(data, postgres.pid) and _accepts(url)):
        now = time.monotonic()
        if postgres.poll() is not None:
            raise EmbeddedError(f"PostgreSQL does not start on {data}:\n{_last_lines(log)}")
        if (grown := log.stat().st_size) > size:
            size, progress = grown, now
        elif now - progress > stalled_seconds:
            raise EmbeddedError(
                f"PostgreSQL does not start on {data}, and has logged nothing for {stalled_seconds:g} s:\n"
                f"{_last_lines(log)}"
            )
        if not announced and now - begun > SLOW_SECONDS:
            announce(f"PostgreSQL is starting; its log is {log}")
            announced = True
        time.sleep(0.02)


def _accepts(url: str) -> bool:
    """Whether the server accepts a connection."""
    connect = [str(programs.program("pg_isready")), "--quiet", f"--dbname={url}"]
    return subprocess.run(connect, check=False).returncode == 0  # noqa: S603


def log_of(data: Path) -> Path:
    """The server's log since its last start."""
    return data.with_name(f"{data.name}.log")


def _last_lines(log: Path) -> str:
    return programs.last_lines(log.read_text(encoding="utf-8", errors="replace"))


def _stop(postgres: subprocess.Popen[bytes]) -> None:
    """A fast shutdown; if that takes too long an immediate one, after which the next start recovers."""
    postgres.send_signal(signal.SIGINT)
    try:
        postgres.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        postgres.send_signal(signal.SIGQUIT)
        postgres.wait()
