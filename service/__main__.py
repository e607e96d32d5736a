"""The command line: ``python -m service`` serves; ``migrate`` applies the schema, ``reindex-search`` the language."""

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
from service.database import schema, search_language
from service.database.check import check
from service.database.faults import DatabaseFault, DatabaseUnreachable, explained
from service.server import server, supervisor
from service.settings import Settings

logger = logging.getLogger("service")


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["migrate"], ["reindex-search"]):
        fail("usage: python -m service [migrate | reindex-search]")
    handle_stop_signals(exit_on_signal)
    logging.config.dictConfig(server.LOGGING)
    chosen = load_settings()
    run = {"": serve, "migrate": migrate, "reindex-search": reindex_search}["".join(arguments)]
    run(chosen)


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


def reindex_search(chosen: Settings) -> None:
    try:
        with explained(chosen.database_url):
            asyncio.run(search_language.change(chosen.database_url, chosen.search_language))
    except DatabaseFault as error:
        fail(str(error))
    logger.info("search: the index of the posts is in %s", chosen.search_language)


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
