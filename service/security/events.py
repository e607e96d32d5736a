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


def login_throttled(connection: Connection, user_id: int | None = None) -> None:
    """Too many logins have failed. The account is known only if the request has a session."""
    _record(logging.WARNING, "authn_login_fail_max", "failure", connection, user_id)


def registration_throttled(connection: Connection) -> None:
    _record(logging.WARNING, "excess_rate_limit_exceeded", "failure", connection, None)


def session_ended(connection: Connection, user_id: int) -> None:
    """One or all sessions of the user have ended on request."""
    _record(logging.INFO, "authn_token_revoked", "success", connection, user_id)


def refresh_token_reused(connection: Connection, user_id: int) -> None:
    """An old refresh token was used again, so its session has ended."""
    _record(logging.WARNING, "authn_token_reuse", "failure", connection, user_id)


def password_changed(connection: Connection, user_id: int) -> None:
    _record(logging.INFO, "authn_password_change", "success", connection, user_id)


def user_updated(connection: Connection, user_id: int) -> None:
    _record(logging.INFO, "user_updated", "success", connection, user_id)


def user_deleted(connection: Connection, user_id: int) -> None:
    _record(logging.INFO, "user_deleted", "success", connection, user_id)


def _record(level: int, event: str, outcome: str, connection: Connection, user_id: int | None) -> None:
    counts[event] += 1
    client = connection.client
    fields = {"event": event, "outcome": outcome, "user_id": user_id, "client": client.host if client else None}
    logger.log(level, event, extra=fields)
