"""The data directory of the embedded PostgreSQL: who uses it, and how it is created."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from service.development import programs
from service.development.errors import EmbeddedError
from service.development.system_user import SystemUser

STOP_SECONDS: Final = 60  # for a fast shutdown, which writes a checkpoint

LOCK_FILE: Final = "postmaster.pid"

INITDB_OPTIONS: Final = (
    "--username=postgres",
    "--auth-local=trust",  # the directory of the socket is private
    "--auth-host=reject",
    # The same on every machine, whatever its locales are.
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)


@contextmanager
def exclusive(data: Path) -> Iterator[None]:
    """Hold the lock of a data directory. Raises ``EmbeddedError`` if another process holds it."""
    data.parent.mkdir(parents=True, exist_ok=True)
    with (data.parent / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedError(
                f"Another `just up` uses {data}: stop it, or set another DATA_DIRECTORY and another PORT"
            ) from None
        yield


def create(data: Path, user: SystemUser | None) -> None:
    """Create a data directory. It has another name until it is complete, so an interruption leaves nothing behind."""
    if data.exists() and any(data.iterdir()):
        raise EmbeddedError(f"{data} is not empty, and is not a data directory of PostgreSQL")
    new = Path(tempfile.mkdtemp(prefix=f"{data.name}.new-", dir=data.parent))
    if user:
        os.chown(new, user.uid, user.gid)
    try:
        with programs.shell_safe("initdb") as initdb, tempfile.TemporaryFile("w+", errors="replace") as log:
            with programs.started([initdb, "--pgdata", new, *INITDB_OPTIONS], user, log, _kill) as process:
                process.wait()
            if process.returncode:
                log.seek(0)
                raise EmbeddedError(f"PostgreSQL's initdb cannot create {data}:\n{programs.last_lines(log.read())}")
        new.rename(data)
    finally:
        # Also those of processes that were killed. Their initdb may have run on, but for less time than this one.
        for unfinished in data.parent.glob(f"{data.name}.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _kill(initdb: subprocess.Popen[bytes]) -> None:
    os.killpg(initdb.pid, signal.SIGKILL)  # also the servers that it runs
    initdb.wait()


def server_of(data: Path) -> psutil.Process | None:
    """The server that runs on a data directory. Another process that has the number of a former server is not it."""
    try:
        process = psutil.Process(int(_lock_file(data)[0]))
        is_server = process.name() == "postgres" and Path(process.cwd()).samefile(data)
    except (OSError, IndexError, ValueError, psutil.Error):  # also: it has ended, or belongs to another user
        return None
    return process if is_server else None


def url_of(data: Path) -> str | None:
    """The URL of the database of the server that runs on a data directory."""
    if not server_of(data):
        return None
    # The process, the data directory, the time of the start, the port, the directory of the socket, …
    _, _, _, port, sockets, *_ = _lock_file(data)
    return f"postgresql://postgres@/postgres?host={sockets}&port={port}"


def is_ready(data: Path, pid: int) -> bool:
    """Whether the server with the process id ``pid`` says that it accepts connections."""
    lines = _lock_file(data)
    return lines[:1] == [str(pid)] and lines[-1].strip() == "ready"


def stop_leftover(data: Path, announce: Callable[[str], None]) -> None:
    """Stop the server of a process that was killed, and remove a lock file that names some other process."""
    if process := server_of(data):
        announce(f"Stopping the PostgreSQL of a `just up` that was killed (process {process.pid})")
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    while process := server_of(data):
        if time.monotonic() > deadline:
            raise EmbeddedError(f"PostgreSQL (process {process.pid}) still runs on {data}: stop it first")
        time.sleep(0.05)
    lock_file = _lock_file(data)
    if lock_file and (not lock_file[0].isdigit() or psutil.pid_exists(int(lock_file[0]))):
        # PostgreSQL would not start if that process has the same user, or if the file is incomplete. Without the file,
        # it still does not start while the shared memory of this data directory is in use.
        (data / LOCK_FILE).unlink()


def _lock_file(data: Path) -> list[str]:
    """The lines of the file that a running server keeps in its data directory."""
    try:
        return (data / LOCK_FILE).read_text(errors="replace").splitlines() or [""]
    except FileNotFoundError:
        return []
