"""Traces by OpenTelemetry: a span for each request and each statement. Only imported if they are switched on.

OpenTelemetry's instrumentation of ASGI makes two more spans for each request and does not know our routes; its
instrumentation of asyncpg does not know that a statement serves several requests.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.database.database import Database, Rows
from service.database.transaction import Transaction
from service.observability.context import current_scopes
from service.observability.run import Run
from service.server.exchange import Exchange

# Seconds at the end of the process in which the last spans are sent.
FLUSH_SECONDS: Final = 2

_SERVER_ERROR: Final = 500

# In the scope of a request.
_SPAN: Final = "service.span"

_tracer = trace.get_tracer("service")
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Sends the spans of this process."""

    def __init__(self, endpoint: str) -> None:
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "accounts-and-posts"}
        exporter = OTLPSpanExporter(
            os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or f"{endpoint.rstrip('/')}/v1/traces"
        )
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(self._provider)

    def close(self) -> None:
        """Send the last spans. A collector that does not answer must not keep the process from ending."""
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)


def traced(run: Run) -> Run:
    """Run an exchange within a span, which continues the trace of its ``traceparent``."""

    async def run_traced(exchange: Exchange) -> None:
        scope = exchange.scope
        fields = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if b"trace" in name
        }
        method = scope["method"] or "HTTP"
        with _tracer.start_as_current_span(
            method, _propagator.extract(fields), SpanKind.SERVER, record_exception=False
        ) as span:
            scope[_SPAN] = span
            try:
                await run(exchange)
            finally:
                _describe(span, exchange, method)

    return run_traced


def _describe(span: Span, exchange: Exchange, method: str) -> None:
    status, client = exchange.status, exchange.scope["client"]
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "http.response.status_code": status,
        "request.id": exchange.request_id.decode(),
    }
    if client:
        attributes["client.address"] = client[0]
    if route := exchange.scope.get("path_template"):
        attributes["http.route"] = route
        span.update_name(f"{method} {route}")
    span.set_attributes(attributes)
    if status >= _SERVER_ERROR:
        span.set_status(StatusCode.ERROR)


@contextmanager
def _statement_span(statement: str) -> Iterator[None]:
    """A span within that of the first request that the statement serves. It is linked to those of the others.

    Our statements contain no values: they have parameters.
    """
    spans = [scope[_SPAN] for scope in current_scopes() if _SPAN in scope]
    context = trace.set_span_in_context(spans[0]) if spans else None
    links = [Link(span.get_span_context()) for span in spans[1:]]
    text = statement.strip()
    attributes = {"db.system.name": "postgresql", "db.query.text": text}
    with _tracer.start_as_current_span(
        text.split(maxsplit=1)[0],
        context,
        SpanKind.CLIENT,
        attributes,
        links,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)  # its text may contain values
            raise


class TracedTransaction(Transaction):
    async def run(self, statement: str, *arguments: Any) -> Rows:
        with _statement_span(statement):
            return await super().run(statement, *arguments)


class TracedDatabase(Database):
    transaction_class = TracedTransaction

    async def run(self, statement: str, *arguments: Any) -> Rows:
        with _statement_span(statement):
            return await super().run(statement, *arguments)
