"""Connects to the first host of an address that accepts the connection."""

import asyncio
from typing import Any, Final
from urllib.parse import urlencode

import asyncpg
from asyncpg import Connection

from service.database.address import Address
from service.database.faults import in_one_line

# This host cannot serve now, another one may.
_TRY_NEXT: Final = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
    asyncpg.TargetServerAttributeNotMatched,
)


async def connect_to_any(address: Address, *, timeout: float, **options: Any) -> Connection:  # noqa: ASYNC109 - bounds all
    """Open a connection. ``timeout`` in seconds bounds all attempts together; ``options`` are ``asyncpg.connect``'s.

    asyncpg would give the whole time to the first host, and never try the others if that one does not respond.

    Raises asyncpg's errors. If there are several hosts and none accepts, this is a ``ConnectionError`` that names the
    reason of each.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    failures = []
    for tried, host in enumerate(address.hosts):
        share = (end - loop.time()) / (len(address.hosts) - tried)
        if address.host_timeout:
            share = min(share, address.host_timeout)
        try:
            return await asyncpg.connect(
                f"postgresql://?{urlencode(address.tls)}",
                host=host.name,
                port=host.port,
                timeout=share,
                **(address.arguments | options),
            )
        except _TRY_NEXT as error:
            if len(address.hosts) == 1:
                raise
            failures.append(f"{host}: {_reason(error, share)}")
    raise ConnectionError("; ".join(failures))


def _reason(error: Exception, share: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no response within {share:.1f} seconds"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "is a standby"
    return in_one_line(error)
