"""A separate PostgreSQL server on TCP that can be stopped, killed, frozen and replicated."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from service.development import embedded, programs
from tests.processes import pause

ROLE: Final = "app"

# The contents of pg_hba.conf.
AUTHENTICATION: Final = """
local all all trust
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""

# Seconds for a start or a stop.
TIMEOUT: Final = 30


class Cluster:
    """A server with PostgreSQL's default settings, except ``settings``. The service connects as ``ROLE``."""

    def __init__(self, data: Path, program: Path, user: int | None, settings: dict[str, str]) -> None:
        self._data = data
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._port: int = listener.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": str(self._port)} | settings
        self._command = [str(program), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())]
        self.user = user
        self.start()

    def url(self, database: str = "postgres", role: str = "postgres") -> str:
        return f"postgresql://{role}@127.0.0.1:{self._port}/{database}?sslmode=disable"

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        with (self._data / "log").open("a") as log:
            # A direct child, so that it can be waited for.
            self._postmaster = subprocess.Popen(self._command, user=self.user, stdout=log, stderr=log, cwd="/")  # noqa: S603
        last = time.monotonic() + TIMEOUT
        while not self._is_ready():
            assert self._postmaster.poll() is None, (self._data / "log").read_text()
            assert time.monotonic() < last
            time.sleep(0.005)

    def _is_ready(self) -> bool:
        file = self._data / "postmaster.pid"
        lines = file.read_text().splitlines() if file.exists() else []
        return lines[:1] == [str(self._postmaster.pid)] and lines[-1].strip() == "ready"

    def stop(self) -> None:
        """A fast shutdown: sessions are terminated and their transactions rolled back."""
        self._postmaster.send_signal(signal.SIGINT)
        self._postmaster.wait(TIMEOUT)

    def kill(self) -> None:
        """Kill all processes of the server at once."""
        self._signal(signal.SIGKILL)
        self._postmaster.wait(TIMEOUT)

    def freeze(self) -> None:
        for process in self._processes():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):  # a session may end at any time
                pause(process.pid)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @contextmanager
    def standby(self, tablespace: Path | None = None) -> Iterator["Cluster"]:
        """A streaming standby of this server, which may have a tablespace."""
        with tempfile.TemporaryDirectory(prefix="standby-", dir=self._data.parent) as directory:
            if self.user:
                shutil.chown(directory, self.user)
            program, data = Path(self._command[0]), Path(directory) / "data"
            copy = [str(program.with_name("pg_basebackup")), "-D", str(data), "-d", self.url(), "-c", "fast", "-R"]
            if tablespace:
                copy.append(f"--tablespace-mapping={tablespace}={directory}/tablespace")
            subprocess.run(copy, user=self.user, check=True, cwd="/", stdout=subprocess.DEVNULL)  # noqa: S603
            standby = Cluster(data, program, self.user, {})
            try:
                yield standby
            finally:
                standby.close()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):  # a session may end at any time
                process.send_signal(number)

    def _processes(self) -> Iterator[psutil.Process]:
        """The postmaster first, because it starts the others, which are looked up afterwards."""
        postmaster = psutil.Process(self._postmaster.pid)
        yield postmaster
        yield from postmaster.children()

    def close(self) -> None:
        if self._postmaster.poll() is None:
            self.thaw()
            self._postmaster.send_signal(signal.SIGQUIT)
            self._postmaster.wait(TIMEOUT)


@contextmanager
def started(parent: Path | None = None, data: Path | None = None, **settings: str) -> Iterator[Cluster]:
    """A new server with its data under ``parent``, else in memory if the machine has a memory file system.

    ``data`` is a data directory to copy.
    """
    memory = Path("/dev/shm")  # noqa: S108 - as in tests/postgres.py
    parent = parent or (memory if memory.is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="faults-", dir=parent) as directory:
        Path(directory).chmod(0o711)  # the server may be another user's
        own = Path(directory, "postgres")
        if data:
            copy(data, own)
        else:
            configure(own)
        user = own.stat().st_uid if os.geteuid() == 0 else None
        cluster = Cluster(own, programs.program("postgres"), user, settings)
        try:
            yield cluster
        finally:
            cluster.close()


def configure(data: Path) -> None:
    """Prepare a data directory, which is created unless it exists, for ``Cluster``."""
    embedded.prepare(data, announce=lambda _: None)
    (data / "pg_hba.conf").write_text(AUTHENTICATION)
    with embedded.running(data, announce=lambda _: None) as url:
        psql = [str(programs.program("psql")), url, "--quiet", f"--command=create role {ROLE} login"]
        subprocess.run(psql, check=True)  # noqa: S603


def copy(data: Path, destination: Path) -> None:
    """Copy a data directory with its owner."""
    subprocess.run(["cp", "-a", str(data), str(destination)], check=True)  # noqa: S603, S607
