"""What the parts of the app count, as samples of metrics."""

from collections.abc import Iterator

from service.observability.metrics import Metrics, Sample
from service.security import events
from service.server.shedding import LoadShedding


def attach(metrics: Metrics, shedding: LoadShedding) -> None:
    """Let ``metrics`` include the app's database, passwords, logins and load shedding."""
    database, passwords = shedding.app.state["db"], shedding.app.state["passwords"]
    metrics.histograms += database.observer.histograms

    def samples() -> Iterator[Sample]:
        yield "http_requests_in_flight", (), shedding.in_flight
        yield "http_requests_shed", (), shedding.refused
        usage = database.usage()
        yield "database_pool_connections_max", (), usage.size
        yield "database_pool_connections_in_use", (), usage.open - usage.idle
        yield "database_pool_connections_idle", (), usage.idle
        yield "database_pool_waiting", (), usage.waiting
        yield "password_queue", (), passwords.queued
        yield "password_queue_max", (), passwords.capacity
        yield "logins", ("success",), events.counts["authn_login_success"]
        yield "logins", ("failure",), events.counts["authn_login_fail"]
        yield "logins", ("refused",), events.counts["authn_login_fail_max"]
        yield "registrations", (), events.counts["user_created"]
        yield "service_workers", (), 1
        yield "service_workers_with_database", (), usage.available

    metrics.sources.append(samples)
