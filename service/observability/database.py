"""The database as the app uses it: by itself, measured or traced."""

from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from service.database.batching import Row
from service.database.database import Database, Grouping, Key, Rows
from service.database.pool import ConnectionPool
from service.errors import DatabaseUnavailable
from service.observability.families import BATCH_ROWS, POOL_WAIT, STATEMENTS
from service.observability.metrics import Histogram
from service.settings import Settings


class MeasuredPool(ConnectionPool):
    """Measures how long its callers wait for a connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.waits = Histogram(POOL_WAIT)
        self._wait = self.waits.cell(())

    async def acquire(self) -> Any:
        begun = perf_counter()
        try:
            return await super().acquire()
        finally:
            self.waits.observe(self._wait, perf_counter() - begun)


class MeasuredDatabase(Database):
    """Measures statements and batches."""

    _pool: MeasuredPool
    pool_class = MeasuredPool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        statements, batches = Histogram(STATEMENTS), Histogram(BATCH_ROWS)
        self.histograms = [statements, batches, self._pool.waits]
        self._observe, self._observe_batch = statements.observe, batches.observe
        self._ok, self._error, self._unavailable = (statements.cell((name,)) for name in ("ok", "error", "unavailable"))
        self._reads, self._writes = (batches.cell((name,)) for name in ("read", "write"))

    async def run(self, statement: str, *arguments: Any) -> Rows:
        begun = perf_counter()
        outcome = self._error
        try:
            rows = await super().run(statement, *arguments)
            outcome = self._ok
        except DatabaseUnavailable:
            outcome = self._unavailable
            raise
        finally:
            self._observe(outcome, perf_counter() - begun)
        return rows

    def _fetch_keys(
        self, statement: str, group: Grouping, build: Any, arguments: Row, batch: dict[Key, list[Any]]
    ) -> Coroutine[Any, Any, None]:
        self._observe_batch(self._reads, len(batch))
        return super()._fetch_keys(statement, group, build, arguments, batch)

    def _write_all(self, batch_statement: str, rows: list[Row]) -> Coroutine[Any, Any, dict[int, Row]]:
        self._observe_batch(self._writes, len(rows))
        return super()._write_all(batch_statement, rows)

    def _write_one(self, statement: str, row: Row) -> Coroutine[Any, Any, Any]:
        self._observe_batch(self._writes, 1)
        return super()._write_one(statement, row)


def database_class(settings: Settings) -> type[Database]:
    """The class that the settings ask for."""
    if settings.otel_exporter_otlp_endpoint:
        from service.observability import tracing  # noqa: PLC0415 - its packages are optional

        return tracing.TracedAndMeasuredDatabase if settings.metrics_port else tracing.TracedDatabase
    return MeasuredDatabase if settings.metrics_port else Database
