"""PgBouncer between the service and PostgreSQL."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import psutil
import pytest

from tests.processes import free_port

# A user's PATH may lack the directory in which Debian installs servers.
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

# Seconds for a start or a stop.
TIMEOUT: Final = 20

# PgBouncer's defaults, except where it listens and that it believes the client's user name.
CONFIGURATION: Final = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
{settings}
"""


class PgBouncer:
    """A pooler in front of the server of a URL. Its own URL leads to the same database."""

    def __init__(self, directory: Path, url: str, **settings: object) -> None:
        """``settings`` are PgBouncer's own, such as ``pool_mode``."""
        assert PGBOUNCER
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        host, port = parts.hostname or options["host"], free_port()
        server = {
            "host": host,
            "port": str(parts.port or options.get("port", 5432)),
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
        }
        self.file = directory / f"pgbouncer_{port}.ini"
        self.file.write_text(
            CONFIGURATION.format(
                server=" ".join(f"{name}='{value}'" for name, value in server.items() if value),
                port=port,
                settings="\n".join(f"{name} = {value}" for name, value in settings.items()),
            )
        )
        self._port = port
        self._command = [PGBOUNCER, "--quiet", str(self.file)]
        if os.getuid() == 0:  # it does not run as root, and a socket may be accessible to its owner only
            self._command += ["--user", Path(host).owner() if host.startswith("/") else "nobody"]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://app@127.0.0.1:{port}{parts.path}"

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)  # noqa: S603
        process, last = psutil.Process(self._process.pid), time.monotonic() + TIMEOUT
        while not any(one.laddr.port == self._port for one in process.net_connections("tcp")):
            assert self._process.poll() is None, f"PgBouncer does not start: {' '.join(self._command)}"
            assert time.monotonic() < last
            time.sleep(0.01)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Stop it, if it runs."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(TIMEOUT)


@contextmanager
def running(directory: Path, url: str, **settings: object) -> Iterator[PgBouncer]:
    """A pooler that has been started. Its file is in ``directory``."""
    pooler = PgBouncer(directory, url, **settings)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.stop()
        pooler.file.unlink()


StartPgBouncer = Callable[..., PgBouncer]


@pytest.fixture
def pgbouncer(tmp_path: Path) -> Iterator[StartPgBouncer]:
    """Starts a pooler in front of the server of a URL, with PgBouncer's settings as keywords."""
    with ExitStack() as stack:
        yield lambda url, **settings: stack.enter_context(running(tmp_path, url, **settings))
