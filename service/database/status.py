"""What is known about the database: whether it is available and accepts writes. Every change is logged."""

import logging
from time import monotonic
from typing import Final

from service.database.pooler import REMEDY, SHARED_SESSION_ERRORS

# The name of the pool's module: operators and tests search the log for it.
logger = logging.getLogger("service.database.pool")

# Seconds before the same failure is logged again. During an outage every request would log it.
_LOG_INTERVAL: Final = 60


class Status:
    """The database is unavailable if no connection is open and the last attempt to connect has failed.

    It is read-only if a server has refused a write, or reports that it would, and none has been found that accepts it.
    """

    def __init__(self, timeout: float) -> None:
        """``timeout`` is the setting to which an error without a message refers."""
        self.available = True
        self.read_only = False
        self.connect_error: Exception | None = None  # of the last attempt, if the pool still needs a connection
        self._timeout = timeout
        self._logged_at: dict[tuple[str, type[BaseException]], float] = {}

    def update(self, *, connected: bool) -> None:
        """Decide again whether the database is available. ``connected`` tells whether any connection is open."""
        # While one is open, a failed attempt may only mean that PostgreSQL has no free slot.
        available = connected or not self.connect_error
        if self.connect_error and self.available and not available:
            logger.warning(
                "the database is unavailable: %s. Requests get a 503 until the service has reconnected by itself. "
                "Check that PostgreSQL runs and that DATABASE_URL is right",
                self._describe(self.connect_error),
            )
        elif available and not self.available:
            logger.warning("the database is available again")
        self.available = available

    def set_read_only(self, *, read_only: bool) -> None:
        if read_only and not self.read_only:
            logger.warning(
                "the database is read-only: writes and /health/ready get a 503 until DATABASE_URL leads to a server "
                "that accepts writes. Check default_transaction_read_only, and which server is the primary"
            )
        elif self.read_only and not read_only:
            logger.warning("the database accepts writes again")
        self.read_only = read_only

    def log_failure(self, what: str, error: BaseException) -> None:
        """Log a failure of the database, but not the same one again within a minute."""
        now = monotonic()
        kind = (what, type(error))
        if now - self._logged_at.get(kind, -_LOG_INTERVAL) >= _LOG_INTERVAL:
            self._logged_at[kind] = now
            logger.warning("%s: %s", what, self._describe(error))

    def _describe(self, error: BaseException) -> str:
        reason = str(error)
        if not reason and isinstance(error, TimeoutError):
            reason = f"no response within {self._timeout:g} seconds (DATABASE_TIMEOUT_SECONDS)"
        if isinstance(error, SHARED_SESSION_ERRORS):
            reason = f"{error.args[0]}: {REMEDY}"  # without asyncpg's hint, which has ten lines
        return ": ".join(filter(None, (type(error).__name__, reason)))
