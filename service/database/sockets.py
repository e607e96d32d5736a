"""TCP options with which the kernel keeps a connection known to firewalls, and notices that it is dead."""

import socket
from asyncio import BaseTransport
from contextlib import suppress
from typing import Any, Final

# Seconds, except the last, which is in milliseconds. A name that the system lacks is left out.
_OPTIONS: Final = {
    "TCP_KEEPIDLE": 60,  # Linux: the first probe of an idle connection, well before a firewall forgets it
    "TCP_KEEPALIVE": 60,  # macOS: the same
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    # Linux: the time for the other side to acknowledge what was sent. Its kernel does so, however long the statement
    # takes. A packet is sent about four times until then. A read is then repeated within its own timeout.
    "TCP_USER_TIMEOUT": 2000,
}


def set_keep_alive(connection: Any) -> None:
    transport: BaseTransport = connection._transport  # noqa: SLF001 - asyncpg offers no other way to the socket
    tcp = transport.get_extra_info("socket")
    if tcp.family == socket.AF_UNIX:
        return
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            with suppress(OSError):  # a sandbox may lack it
                tcp.setsockopt(socket.IPPROTO_TCP, option, value)
