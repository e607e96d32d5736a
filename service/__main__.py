"""The command line: ``python -m service`` serves, ``python -m service migrate`` applies the schema."""

import asyncio
import logging.config
import signal
import socket
import sys
from typing import NoReturn

import asyncpg

from service import schema, server, settings
from service.settings import Settings

logger = logging.getLogger("service")

UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
# What time does not mend: an impossible URL, an unknown role or a wrong password, an unknown database.
REFUSED = (
    asyncpg.exceptions.ClientConfigurationError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)

# How uvicorn ends when it cannot start.
_STARTUP_FAILURE = 3


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
    check_address(chosen)
    try:
        asyncio.run(schema.verify(chosen.database_url, timeout=chosen.database_timeout_seconds))
    except schema.SchemaError as error:
        fail(f"The schema does not fit: {error}")
    except REFUSED as error:
        fail(f"The database refuses: {_reason(error)}")
    except UNREACHABLE as error:
        logger.warning("the database cannot be reached yet, starting all the same: %s", _reason(error))
    try:
        server.serve(chosen)
    except SystemExit as ended:
        # What uvicorn has answered by a stop in good order, it raises again afterwards.
        if ended.code != 128 + signal.SIGTERM:
            raise SystemExit(1 if ended.code == _STARTUP_FAILURE else ended.code) from None


def check_address(chosen: Settings) -> None:
    """Say in a line that the address cannot be listened on, before anything else is started; uvicorn needs ten."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            chosen.host, chosen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        fail(f"Cannot listen on {chosen.host}, port {chosen.port}: {error.strerror}")


def leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)  # noqa: T201 - for the person at the terminal
    raise SystemExit(1)


def _reason(error: Exception) -> str:
    return schema.in_one_line(error) or type(error).__name__


if __name__ == "__main__":
    main(sys.argv[1:])
