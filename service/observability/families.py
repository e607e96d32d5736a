"""The metrics of this service: their names, types and labels. No label has a value that a client can choose."""

from typing import Final, Literal

from msgspec import Struct

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Family(Struct, frozen=True):
    """A metric. ``buckets`` are the upper bounds of a histogram."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS: Final = "http_request_duration_seconds"
STATEMENTS: Final = "database_statement_duration_seconds"
POOL_WAIT: Final = "database_pool_wait_seconds"
BATCH_ROWS: Final = "database_batch_rows"

FAMILIES: Final[dict[str, Family]] = {
    REQUESTS: Family("histogram", "Requests and their durations.", ("method", "route", "status"), _SECONDS),
    "http_requests_in_flight": Family("gauge", "Requests that are being served."),
    "http_requests_shed": Family("counter", "Requests that got a 503 because MAX_REQUESTS were in flight."),
    STATEMENTS: Family(
        "histogram", "Statements and their durations, with the wait for a connection.", ("outcome",), _SECONDS
    ),
    POOL_WAIT: Family("histogram", "How long statements waited for a connection.", (), _SECONDS),
    "database_pool_connections_max": Family("gauge", "The most connections: DATABASE_CONNECTIONS of each worker."),
    "database_pool_connections_in_use": Family("gauge", "Connections that run a statement."),
    "database_pool_connections_idle": Family("gauge", "Connections that are open and not in use."),
    "database_pool_waiting": Family("gauge", "Statements that wait for a connection."),
    BATCH_ROWS: Family("histogram", "Keys or rows per batch.", ("kind",), (1, 2, 5, 10, 20, 50, 100)),
    "password_queue": Family("gauge", "Passwords that wait or are being hashed."),
    "password_queue_max": Family("gauge", "The most passwords in the queue: PASSWORD_QUEUE of each worker."),
    "logins": Family("counter", "Logins by outcome.", ("outcome",)),
    "registrations": Family("counter", "Accounts that were registered."),
    "service_workers": Family("gauge", "Workers that have reported."),
    "service_workers_with_database": Family("gauge", "Workers whose database is available."),
}
