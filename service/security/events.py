"""Security events as log records, named as in OWASP's logging vocabulary.

A record has the user id, never the name as it was typed: people type passwords into the field of the name.
"""

import logging
from collections import Counter
from typing import Any, Final

from litestar.connection import ASGIConnection

logger = logging.getLogger(__name__)

# How many of each event have occurred in this process.
counts: Final[Counter[str]] = Counter()

Connection = ASGIConnection[Any, Any, Any, Any]


def user_created(connection: Connection, user_id: int) -> None:
    _record(logging.INFO, "user_created", "success", connection, user_id)


def login_succeeded(connection: Connection, user_id: int) -> None:
    _record(logging.INFO, "authn_login_success", "success", connection, user_id)


def login_failed(connection: Connection, user_id: int | None) -> None:
    """``None`` stands for an account that does not exist."""
    _record(logging.WARNING, "authn_login_fail", "failure", connection, user_id)


def _record(level: int, event: str, outcome: str, connection: Connection, user_id: int | None) -> None:
    counts[event] += 1
    client = connection.client
    fields = {"event": event, "outcome": outcome, "user_id": user_id, "client": client.host if client else None}
    logger.log(level, event, extra=fields)
