"""Connects to the first host of an address that accepts the connection."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode

import asyncpg

from service.database.address import parse
from service.database.faults import in_one_line

# This host cannot serve now, another one may.
_TRY_NEXT: Final = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
    asyncpg.TargetServerAttributeNotMatched,
)


async def connect_to_any(
    url: str,
    *,
    timeout: float,  # noqa: ASYNC109 - bounds all attempts together
    server_settings: Mapping[str, str] = MappingProxyType({}),
    **options: Any,
) -> Any:
    """Open a connection. ``timeout`` is in seconds; ``options`` are those of ``asyncpg.connect``.

    asyncpg would give the whole time to the first host, and never try the others if that one does not respond. The
    settings of the URL take precedence over ``server_settings``. Unless the URL or ``options`` say otherwise, the
    server is a primary, because the service writes.

    Raises asyncpg's errors. If the server is of another kind, or there are several hosts and none accepts, this is a
    ``ConnectionError`` that names the reason of each.
    """
    address = parse(url)
    arguments = {"target_session_attrs": "primary", **address.arguments, **options}
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
                server_settings={**server_settings, **address.session},
                **arguments,
            )
        except _TRY_NEXT as error:
            if len(address.hosts) == 1 and not isinstance(error, asyncpg.TargetServerAttributeNotMatched):
                raise
            failures.append(f"{host}: {_reason(error, share)}")
    raise ConnectionError("; ".join(failures))


def _reason(error: Exception, share: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no response within {share:.1f} seconds"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "it is a standby or read-only"
    return in_one_line(error)
