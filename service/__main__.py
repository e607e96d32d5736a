"""The command line: ``python -m service`` serves, ``python -m service migrate`` applies the schema."""

import signal

if __name__ == "__main__":
    # While the modules are imported, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import asyncio
import logging.config
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from service import settings
from service.database import schema
from service.database.check import check
from service.database.faults import DatabaseFault, DatabaseUnreachable, explained
from service.server import server, supervisor
from service.settings import Settings

logger = logging.getLogger("service")


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["migrate"]):
        fail("usage: python -m service [migrate]")
    handle_stop_signals(exit_on_signal)
    logging.config.dictConfig(server.LOGGING)
    chosen = load_settings()
    if arguments:
        migrate(chosen)
    else:
        serve(chosen)


def load_settings() -> Settings:
    try:
        return settings.load()
    except settings.SettingsError as error:
        fail(f"The settings are not valid:\n{error}")


def migrate(chosen: Settings) -> None:
    try:
        with explained(chosen.database_url):
            applied = asyncio.run(schema.migrate(chosen.database_url))
    except DatabaseFault as error:
        fail(str(error))
    logger.info("schema: %s", f"applied {', '.join(applied)}" if applied else "all files were applied before")


def serve(chosen: Settings) -> None:
    listener = server.listen(chosen)
    try:
        asyncio.run(check(chosen))
    except DatabaseUnreachable as error:
        logger.warning("starting all the same, the service connects when it can: %s", error)
    except DatabaseFault as error:
        fail(str(error))
    supervisor.serve(chosen, listener)


def handle_stop_signals(handler: Callable[[int, object], Any] | signal.Handlers) -> None:
    """Set a handler also for SIGTERM, which the kernel delivers to process 1 of a container only if it has one."""
    for number in server.STOP_SIGNALS:
        signal.signal(number, handler)


def exit_on_signal(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)  # noqa: T201 - for the person at the terminal
    raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
