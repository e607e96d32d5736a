"""What observes the requests of a server. It is chosen at the start: if nothing is, an exchange runs by itself."""

import sys
from typing import Any

from service.observability.access_log import AccessLog
from service.observability.metrics import Metrics
from service.observability.recording import Recording
from service.observability.run import Run
from service.observability.snapshots import Snapshots
from service.observability.sources import attach
from service.server.exchange import Exchange
from service.server.shedding import LoadShedding
from service.settings import Settings

# Ticks of uvicorn, which has ten a second, between two snapshots of the metrics.
_PUBLISH_TICKS = 10


class Observers:
    """The access log, metrics and traces of a server, as far as the settings ask for them."""

    def __init__(self, settings: Settings, snapshots: Snapshots | None, slot: int) -> None:
        """``snapshots`` is ``None`` without metrics; ``slot`` is the number of the worker."""
        self._snapshots = snapshots
        self._slot = slot
        self._access_log = None
        if settings.access_log == "on":
            self._access_log = AccessLog(settings.log_format, sys.stderr.buffer, shared=settings.workers > 1)
        self._metrics = Metrics(snapshots.read(slot)) if snapshots else None
        self.record = None
        if self._metrics or self._access_log:
            self.record = Recording(self._metrics or Metrics({}), self._access_log)
        self.run: Run = Exchange.run
        self._tracing = None
        if settings.otel_exporter_otlp_endpoint:
            from service.observability.tracing import Tracing, traced  # noqa: PLC0415 - its packages are optional

            self._tracing = Tracing(settings.otel_exporter_otlp_endpoint)
            self.run = traced(self.run)

    def attach(self, app: Any) -> None:
        """Take the metrics of an app, which other ASGI apps may wrap."""
        if self._metrics:
            while not isinstance(app, LoadShedding):
                app = app.app
            attach(self._metrics, app)
            self._publish()

    def on_tick(self, counter: int) -> None:
        if counter % _PUBLISH_TICKS == 0:
            self._publish()

    def _publish(self) -> None:
        if self._metrics and self._snapshots:
            self._snapshots.write(self._slot, self._metrics.snapshot())

    def close(self) -> None:
        try:
            if self._access_log:
                self._access_log.flush()
        finally:
            self._publish()
            if self._tracing:
                self._tracing.close()
