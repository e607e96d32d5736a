"""The page of metrics, by Prometheus's own client, on a port of its own."""

import logging
import sys
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.observability.families import FAMILIES, Family
from service.observability.metrics import Labels, Numbers, add
from service.observability.snapshots import Snapshots
from service.settings import Settings

logger = logging.getLogger(__name__)


class Totals(Collector):
    """The sum of all workers."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        total = add(self._snapshots.read_all())
        for name, family in FAMILIES.items():
            yield _metric(name, family, total.get(name, {}))


def _metric(name: str, family: Family, cells: dict[Labels, Numbers]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        bounds = [*map(str, map(float, family.buckets)), "+Inf"]
        for labels, (*counts, total) in cells.items():
            buckets = [*zip(bounds, accumulate(counts), strict=True)]
            histogram.add_metric(labels, buckets, sum_value=total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=family.labels)
    for labels, [value] in cells.items():
        metric.add_metric(labels, value)
    return metric


def _log_error(*_: object) -> None:
    """Called in place of a method that writes a traceback to standard error, also if a client resets its connection."""
    logger.debug("a request for the metrics failed: %r", sys.exception())


def expose(settings: Settings, snapshots: Snapshots) -> None:
    """Serve the page in a thread; ends the process with a line if the port cannot be used."""
    registry = CollectorRegistry()
    registry.register(Totals(snapshots))
    try:
        server, _ = start_http_server(settings.metrics_port, settings.host, registry)
    except OSError as error:
        raise SystemExit(
            f"Cannot listen on {settings.host}, port {settings.metrics_port} (METRICS_PORT): {error.strerror}"
        ) from error
    server.handle_error = _log_error  # type: ignore[method-assign,assignment]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    logger.info("Metrics on http://%s:%d/metrics", host, settings.metrics_port)
