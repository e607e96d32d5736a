"""The metrics of the database, and the database that the settings ask for."""

from typing import Literal

from service.database.database import Database
from service.database.observer import Outcome
from service.observability.families import BATCH_ROWS, POOL_WAIT, STATEMENTS
from service.observability.metrics import Histogram
from service.settings import Settings


class DatabaseMetrics:
    """Counts statements, waits for a connection, and batches."""

    def __init__(self) -> None:
        self._statements, self._waits, self._batches = self.histograms = (
            Histogram(STATEMENTS),
            Histogram(POOL_WAIT),
            Histogram(BATCH_ROWS),
        )
        outcomes: tuple[Outcome, ...] = ("ok", "error", "unavailable")
        self._of_outcome = {outcome: self._statements.cell((outcome,)) for outcome in outcomes}
        self._of_kind = {kind: self._batches.cell((kind,)) for kind in ("read", "write")}
        self._wait = self._waits.cell(())

    def statement_ended(self, outcome: Outcome, seconds: float) -> None:
        self._statements.observe(self._of_outcome[outcome], seconds)

    def connection_awaited(self, seconds: float) -> None:
        self._waits.observe(self._wait, seconds)

    def batch_sent(self, kind: Literal["read", "write"], rows: int) -> None:
        self._batches.observe(self._of_kind[kind], rows)


def create_database(settings: Settings) -> Database:
    """The database, measured and traced if the settings say so."""
    database_class = Database
    if settings.otel_exporter_otlp_endpoint:
        from service.observability.tracing import TracedDatabase  # noqa: PLC0415 - its packages are optional

        database_class = TracedDatabase
    return database_class(
        settings.database_url,
        connections=settings.database_connections,
        timeout=settings.database_timeout_seconds,
        observer=DatabaseMetrics() if settings.metrics_port else None,
    )
