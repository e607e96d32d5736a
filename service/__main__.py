"""The command line: ``python -m service`` serves, ``python -m service migrate`` applies the schema."""

import asyncio
import logging.config
import signal
import sys
from typing import NoReturn

import asyncpg

from service import server, settings, workers
from service.database import schema
from service.settings import Settings

logger = logging.getLogger("service")

UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
# What time does not mend: an impossible URL, an unknown role or a wrong password, an unknown database.
REFUSED = (
    asyncpg.exceptions.ClientConfigurationError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["migrate"]):
        fail("usage: python -m service [migrate]")
    # As process 1 of a container Python would not hear it before uvicorn, which has its own handler, does.
    signal.signal(signal.SIGTERM, leave)
    logging.config.dictConfig(server.LOGGING)
    chosen = load_settings()
    try:
        if arguments:
            migrate(chosen)
        else:
            serve(chosen)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def load_settings() -> Settings:
    try:
        return settings.load()
    except settings.SettingsError as error:
        fail(f"The settings do not hold:\n{error}")


def migrate(chosen: Settings) -> None:
    try:
        applied = asyncio.run(schema.migrate(chosen.database_url))
    except schema.SchemaError as error:
        fail(f"The schema cannot be applied: {error}")
    except UNREACHABLE as error:
        fail(f"The database cannot be reached: {_reason(error)}")
    logger.info("schema: %s", f"applied {', '.join(applied)}" if applied else "all files were applied before")


def serve(chosen: Settings) -> None:
    listener = server.listen(chosen)
    try:
        asyncio.run(schema.verify(chosen.database_url, timeout=chosen.database_timeout_seconds))
    except schema.SchemaError as error:
        fail(f"The schema does not fit: {error}")
    except REFUSED as error:
        fail(f"The database refuses: {_reason(error)}")
    except UNREACHABLE as error:
        logger.warning("the database cannot be reached yet, starting all the same: %s", _reason(error))
    try:
        workers.serve(chosen, listener)
    except SystemExit as ended:
        # What uvicorn has answered by a stop in good order, it raises again afterwards.
        if ended.code != 128 + signal.SIGTERM:
            raise


def leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)  # noqa: T201 - for the person at the terminal
    raise SystemExit(1)


def _reason(error: Exception) -> str:
    return schema.in_one_line(error) or type(error).__name__


if __name__ == "__main__":
    main(sys.argv[1:])
