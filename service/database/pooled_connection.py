"""One connection of the pool: its states, how it is opened, and whether its server accepts writes.

==========  ===========================================  ========================  =====================================
state       meaning                                      deadline                  at the deadline
==========  ===========================================  ========================  =====================================
CONNECTING  it is being opened                           ``timeout``               CLOSED, then another attempt
IDLE        it can be acquired                           ``MAX_IDLE``              CLOSED
CHECKING    it was idle for over ``MAX_UNCHECKED``, and  ``CHECK_TIMEOUT``         CLOSED, as are those that were idle
            is tried before its next use                                           all the time
IN_USE      it is lent to a caller                       ``MAX_SILENCE``           CLOSED if the server runs no
                                                                                   statement of this connection
                                                         the statement's timeout   CLOSED
RETIRED     as CHECKING or IN_USE, to be closed then     as before                 CLOSED
CLOSED
==========  ===========================================  ========================  =====================================

Only ``ConnectionPool`` changes the state. A connection that is older than ``MAX_AGE`` is retired.
"""

import asyncio
from enum import Enum
from time import monotonic
from typing import Any, Final

from asyncpg import Connection

from service.database.connecting import connect
from service.database.sockets import set_keep_alive

# All in seconds.

# Firewalls and load balancers forget an idle connection after four minutes (Azure) or more, most of them silently.
MAX_IDLE: Final = 180

# A connection that responded so recently is used without a check. Under load, no statement pays for one.
MAX_UNCHECKED: Final = 0.05

# A round trip without any work. It delays the first request after a silent drop, as does opening a new connection.
CHECK_TIMEOUT: Final = 0.5

# A statement without a response. A normal one takes milliseconds, but one that waits for a lock may take longer.
MAX_SILENCE: Final = 0.5

# After a failover, a server that is no longer the primary may not report it. This bounds the time of its use.
MAX_AGE: Final = 900

# The search for a server that accepts writes while a read-only one can serve reads.
_SEARCH_TIMEOUT: Final = 1

_SELECT_FACTS: Final = """
select
    current_setting('transaction_read_only')::boolean,
    pg_backend_pid()
"""


class State(Enum):
    CONNECTING = "connecting"
    IDLE = "idle"
    CHECKING = "checking"
    IN_USE = "in use"
    RETIRED = "retired"
    CLOSED = "closed"


class PooledConnection:
    """A connection and what the pool knows about it."""

    __slots__ = ("connection", "examined", "is_read_only", "last_response", "opened", "pid", "state")

    connection: Connection
    pid: int | None

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.is_read_only = False  # when it was opened
        self.opened = self.last_response = monotonic()
        self.examined = 0.0  # the last time when the server was asked about a statement of this connection

    async def open(self, url: str, timeout: float) -> None:  # noqa: ASYNC109 - passed to asyncpg
        """Connect, to a server that accepts writes if there is one. Raises the errors of ``connect``."""
        await self._connect(url, timeout)
        if self.is_read_only:
            # It serves reads, unless another address of the same name or another host of the URL accepts writes.
            serves_reads = self.connection
            try:
                async with asyncio.timeout(_SEARCH_TIMEOUT):
                    await self._connect(url, timeout, target_session_attrs="read-write")
            except Exception:  # noqa: BLE001 - there is none
                self.connection = serves_reads
            except BaseException:
                serves_reads.terminate()
                raise
            else:
                serves_reads.terminate()
        set_keep_alive(self.connection)
        self.opened = self.last_response = monotonic()

    async def _connect(self, url: str, timeout: float, **options: Any) -> None:  # noqa: ASYNC109 - as above
        connection = await connect(url, timeout=timeout, **options)
        try:
            statement = await connection.prepare(_SELECT_FACTS, name="")  # nothing of it remains in the session
            [(read_only, pid)] = await statement.fetch()
        except BaseException:
            connection.terminate()
            raise
        self.connection, self.is_read_only = connection, read_only
        # A pooler reports a number of its own.
        self.pid = pid if pid == connection.get_server_pid() else None

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
