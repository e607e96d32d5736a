"""One connection of the pool: its states, how it is opened, and whether its server accepts writes.

==========  ============================================  ==============================  ============================
state       meaning                                       deadline                        at the deadline
==========  ============================================  ==============================  ============================
CONNECTING  it is being opened                            ``timeout``                     CLOSED, then another attempt
IDLE        it can be acquired                            ``MAX_IDLE``                    CLOSED
CHECKING    it was idle for longer than ``MAX_UNCHECKED`` ``CHECK_TIMEOUT``               CLOSED, as all that were idle
            and is tried before its next use                                              for as long
IN_USE      it is lent to a caller                        the statement's ``timeout``     CLOSED
RETIRED     as CHECKING or IN_USE, but closed afterwards  the same                        CLOSED
CLOSED
==========  ============================================  ==============================  ============================

Only ``ConnectionPool`` changes the state. A connection that is older than ``MAX_AGE`` is retired.
"""

import asyncio
from contextlib import suppress
from enum import Enum
from time import monotonic
from typing import Final

from asyncpg import Connection
from asyncpg.connect_utils import SessionAttribute

from service.database.connecting import connect
from service.database.sockets import set_keep_alive

# All in seconds.

# Firewalls and load balancers forget an idle connection after four minutes (Azure) or more, most of them silently.
MAX_IDLE: Final = 180

# A connection that responded so recently is used without a check. Under load, no statement pays for one.
MAX_UNCHECKED: Final = 0.05

# A round trip without any work. It delays the first request after a silent drop, as does opening a new connection.
CHECK_TIMEOUT: Final = 0.5

# It bounds the time on a server that the address no longer leads to and that says nothing of it.
MAX_AGE: Final = 900

# The search for a writable server while a read-only one can serve reads.
_SECOND_ATTEMPT_TIMEOUT: Final = 1


class State(Enum):
    CONNECTING = "connecting"
    IDLE = "idle"
    CHECKING = "checking"
    IN_USE = "in use"
    RETIRED = "retired"
    CLOSED = "closed"


class PooledConnection:
    """A connection and what the pool knows about it."""

    __slots__ = ("connection", "is_read_only", "last_response", "opened", "state")

    connection: Connection

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.is_read_only = False  # when it was opened
        self.opened = self.last_response = monotonic()

    async def open(self, url: str, timeout: float) -> None:  # noqa: ASYNC109 - passed to asyncpg
        """Connect, to a server that accepts writes if there is one. Raises the errors of ``connect``."""
        self.connection = await connect(url, timeout=timeout)
        try:
            self.is_read_only = await self.connection.fetchval("show transaction_read_only") == "on"
            if self.is_read_only:
                # It serves reads, unless another address of the same name or another host of the URL is writable.
                with suppress(Exception):
                    async with asyncio.timeout(_SECOND_ATTEMPT_TIMEOUT):
                        writable = await connect(url, timeout=timeout, target_session_attrs=SessionAttribute.read_write)
                    self.connection.terminate()
                    self.connection, self.is_read_only = writable, False
        except BaseException:
            self.connection.terminate()
            raise
        set_keep_alive(self.connection)
        self.opened = self.last_response = monotonic()

    async def check(self) -> Exception | None:
        """Try a round trip. Returns its error."""
        try:
            await self.connection.execute("select 1", timeout=CHECK_TIMEOUT)
        except TimeoutError:
            return TimeoutError(f"no response within {CHECK_TIMEOUT} s. A firewall may have dropped them silently")
        except Exception as error:  # noqa: BLE001 - the connection cannot be used, whatever it is
            return error
        return None

    def reports_read_only(self) -> bool:
        """Whether the last response said so. PostgreSQL reports the setting when it changes, a pooler may not."""
        return getattr(self.connection.get_settings(), "default_transaction_read_only", "off") == "on"
