"""``just up``: run the service on this machine, with an embedded PostgreSQL unless ``DATABASE_URL`` is set."""

import signal

if __name__ == "__main__":
    # While the modules are imported, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from service import __main__ as commands
from service import settings
from service.development import data_directory, embedded
from service.development.address import url as url_of_service
from service.development.errors import EmbeddedError
from service.server import server, supervisor

# Stands in for the URL of the embedded database until that runs.
PLACEHOLDER: Final = "postgresql://postgres@/postgres"


def main() -> None:
    commands.handle_stop_signals(_exit_once)
    url = os.environ.get("DATABASE_URL", "").strip()
    os.environ["DATABASE_URL"] = url or PLACEHOLDER
    if not os.environ.get("ACCESS_LOG", "").strip():
        os.environ["ACCESS_LOG"] = "on"
    chosen = commands.load_settings()
    data = settings.data_directory() / "postgres"
    with ExitStack() as stack:
        try:
            if not url:
                stack.enter_context(data_directory.exclusive(data))
            listener = server.listen(chosen)
            if not url:
                os.environ["DATABASE_URL"] = stack.enter_context(embedded.running(data, announce=_say))
                chosen = settings.load()
        except EmbeddedError as error:
            commands.fail(str(error))
        except OSError as error:
            commands.fail(f"DATA_DIRECTORY: cannot use {error.filename or data.parent} ({error.strerror})")
        commands.migrate(chosen)
        commands.check_database(chosen)
        where = f"DATABASE_URL on {urlsplit(url).hostname or 'a local socket'}" if url else _embedded(data)
        address = url_of_service(chosen.host, listener.getsockname()[1])
        _say(f"Database  {where}\nService   {address}\nAPI page  {address}/docs\nStop      Ctrl-C")
        supervisor.serve(chosen, listener)
        # A signal has ended it. `just` was interrupted, too, and prints an error if the status is 0.
        raise SystemExit(128 + signal.SIGINT)


def _exit_once(number: int, _: object) -> NoReturn:
    """End the process. Further signals do nothing, so that they do not interrupt the stop of the database."""
    commands.handle_stop_signals(lambda *_: None)
    commands.exit_on_signal(number, None)


def _embedded(data: Path) -> str:
    shown = data.relative_to(Path.cwd()) if data.is_relative_to(Path.cwd()) else data
    return f"embedded PostgreSQL, its data in {shown}"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for the person at the terminal


if __name__ == "__main__":
    with commands.failures_as_records():
        main()
