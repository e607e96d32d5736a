"""The command line: ``python -m service`` serves; ``--help`` lists the commands and the settings."""

import signal

if __name__ == "__main__":
    # While the modules are imported, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import asyncio
import logging.config
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

from service import settings, usage
from service.database import check as database
from service.database import schema, search_language, signing_key
from service.database.faults import DatabaseFault, DatabaseUnreachable, explained
from service.observability import logs
from service.server import server, supervisor
from service.settings import Settings

logger = logging.getLogger("service")

T = TypeVar("T")


def main(arguments: list[str]) -> None:
    command = usage.parser().parse_args(arguments).command
    handle_stop_signals(exit_on_signal)
    run = {None: serve, "migrate": migrate, "check": check, "reindex-search": reindex_search}[command]
    with failures_as_records():
        run(load_settings())


@contextmanager
def failures_as_records() -> Iterator[None]:
    """Log why the process ends if ``LOG_FORMAT`` is ``json``. Otherwise Python writes it as text."""
    try:
        yield
    except Exception:
        if not logs.as_json():
            raise
        logger.critical("the service ends because of a bug", exc_info=True)
        raise SystemExit(1) from None
    except SystemExit as end:
        if not (logs.as_json() and isinstance(end.code, str)):
            raise
        logger.critical(end.code)
        raise SystemExit(1) from None


def load_settings() -> Settings:
    """Read the settings and configure logging."""
    try:
        chosen = settings.load()
    except settings.SettingsError as error:
        logging.config.dictConfig(logs.configuration(os.environ.get("LOG_FORMAT", "").strip().lower()))
        _warn_of_misspelt()
        fail(f"The settings are not valid:\n{error}")
    logging.config.dictConfig(logs.configuration(chosen.log_format, chosen.log_level))
    _warn_of_misspelt()
    return chosen


def _warn_of_misspelt() -> None:
    for name, meant in usage.misspelt(os.environ).items():
        logger.warning("%s is not a setting and has no effect: is %s meant?", name, meant)


def migrate(chosen: Settings) -> None:
    try:
        with explained(chosen.database_url):
            applied = run_until_signal(schema.migrate(chosen.database_url))
    except DatabaseFault as error:
        fail(str(error))
    if not applied:
        logger.info("schema: all files were applied before")


def reindex_search(chosen: Settings) -> None:
    try:
        with explained(chosen.database_url):
            run_until_signal(search_language.change(chosen.database_url, chosen.search_language))
    except DatabaseFault as error:
        fail(str(error))
    logger.info("search: the index of the posts is in %s", chosen.search_language)


def serve(chosen: Settings) -> None:
    listener = server.listen(chosen)
    check_database(chosen)
    supervisor.serve(chosen, listener)


def check_database(chosen: Settings) -> None:
    """End the process if the service cannot serve on its database, and waiting cannot change that.

    A signing key that the database was not used with before is only logged.
    """
    try:
        run_until_signal(_check_at_start(chosen))
    except DatabaseUnreachable as error:
        logger.warning("starting all the same, the service connects when it can: %s", error)
    except DatabaseFault as error:
        fail(str(error))


async def _check_at_start(chosen: Settings) -> None:
    await database.check(chosen)  # the pool logs a warning if the server is read-only
    await _compare_signing_key(chosen)


async def _compare_signing_key(chosen: Settings) -> None:
    """Log a warning if the service that started last on this database has another key."""
    url, timeout = chosen.database_url, chosen.database_timeout_seconds
    try:
        with explained(url):
            differs = await signing_key.replaces_another(
                url, chosen.secret_key, chosen.secret_key_previous, timeout=timeout
            )
    except DatabaseFault as error:
        logger.warning("SECRET_KEY cannot be compared with the one that was used before: %s", error)
        return
    if differs:
        logger.warning(
            "SECRET_KEY is not the one that this database was used with before: access tokens signed with that one are "
            "refused. This is expected once after the key was changed. If another service still uses the other key, "
            "give both the same"
        )


def check(chosen: Settings) -> None:
    try:
        read_only = run_until_signal(database.check(chosen))
    except DatabaseFault as error:
        fail(str(error))
    if read_only:
        logger.warning(read_only)
    print("The settings are valid, and the service can serve on its database.")  # noqa: T201


def run_until_signal(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine. A stop signal cancels it; the handler that was set before then gets the signal.

    A handler that raises would not do meanwhile. It runs between any two steps of the interpreter, and Python ignores
    what is raised in a destructor, or in a callback of an extension.
    """
    received: list[int] = []
    cancel: Callable[[], object] | None = None

    def receive(number: int, _: object) -> None:
        received.append(number)
        if cancel:
            cancel()

    async def cancellable() -> T:
        nonlocal cancel
        task = asyncio.create_task(work)
        cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        if received:
            task.cancel()
        try:
            return await task
        finally:
            cancel = None

    before = {number: signal.getsignal(number) for number in server.STOP_SIGNALS}
    handle_stop_signals(receive)
    try:
        return asyncio.run(cancellable())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def handle_stop_signals(handler: Callable[[int, object], Any] | signal.Handlers) -> None:
    """Set a handler also for SIGTERM, which the kernel delivers to process 1 of a container only if it has one."""
    for number in server.STOP_SIGNALS:
        signal.signal(number, handler)


def exit_on_signal(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def fail(message: str) -> NoReturn:
    raise SystemExit(message)


if __name__ == "__main__":
    main(sys.argv[1:])
