"""Traces, as a collector of OpenTelemetry gets them."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import httpx
import pytest

from service import settings
from service.settings import SettingsError
from tests.collector import Collector, attributes
from tests.people import Person
from tests.processes import Start, free_port, pause, read_output, wait_until_serving
from tests.raw_http import Client, get

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("metrics", [False, True], ids=["traces alone", "traces and metrics"])
async def test_a_trace_is_continued_with_a_span_for_the_request_and_one_for_its_statement(
    start: Start,
    process_client: httpx.AsyncClient,
    database_url: str,
    collector: Collector,
    metrics: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    port = str(free_port()) if metrics else ""
    process = await start(
        "service", DATABASE_URL=database_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, METRICS_PORT=port
    )
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    await process_client.get(
        f"/users/{alice.id}", headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
    )
    await process_client.get("/users/me")
    process.terminate()
    said = await read_output(process)

    assert process.returncode == 0, said
    [request] = collector.named("GET /users/{user_id}")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    described = attributes(request)
    assert (described["http.route"], described["http.response.status_code"], described["request.id"]) == (
        "/users/{user_id}",
        200,
        "mine",
    )
    [statement] = [span for span in collector.spans if span.trace_id == request.trace_id and span != request]
    assert (statement.name, statement.parent_span_id) == ("select", request.span_id)
    assert "from users" in str(attributes(statement)["db.query.text"])
    [unauthorized] = collector.named("GET /users/me")
    assert attributes(unauthorized)["http.response.status_code"] == 401
    sent = str(collector.spans)
    for secret in (alice.password, alice.token, alice.email, "$argon2"):
        assert secret not in sent


async def test_a_statement_of_a_batch_is_linked_to_its_other_requests(
    start: Start,
    process_client: httpx.AsyncClient,
    database_url: str,
    collector: Collector,
) -> None:
    process = await start("service", DATABASE_URL=database_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    await wait_until_serving(process_client)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(str(process_client.base_url))) for _ in range(3)]
        for client in clients:
            await client.status_of(get())
        pause(process.pid)  # all requests arrive in the same turn of its loop
        for number, client in enumerate(clients, 1):
            await client.send(get(b"/posts/%d" % number))
        process.send_signal(signal.SIGCONT)
        for client in clients:
            await client.read_response()
    process.terminate()
    await read_output(process)

    requests = {span.span_id for span in collector.named("GET /posts/{post_id}")}
    [statement] = [span for span in collector.spans if span.parent_span_id in requests]
    assert len(requests) == 3
    assert {statement.parent_span_id, *(link.span_id for link in statement.links)} == requests


async def test_a_collector_that_does_not_answer_changes_nothing(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start(
        "service", DATABASE_URL=database_url, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}"
    )
    await wait_until_serving(process_client)
    response = await process_client.get("/posts")
    process.terminate()
    said = await read_output(process)

    assert response.status_code == 200
    assert (process.returncode, "Traceback" in said) == (0, False), said


def test_traces_without_their_packages_are_a_fault_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(SettingsError, match=r"requirements-otel\.lock"):
        settings.load(
            {
                "DATABASE_URL": "postgresql://db/app",
                "DATA_DIRECTORY": str(tmp_path),
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
            }
        )


async def test_opentelemetrys_own_endpoint_of_traces_takes_precedence(
    start: Start, process_client: httpx.AsyncClient, database_url: str, collector: Collector
) -> None:
    process = await start(
        "service",
        DATABASE_URL=database_url,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
    )
    await wait_until_serving(process_client)
    await process_client.get("/posts")
    process.terminate()
    await read_output(process)

    assert len(collector.named("GET /posts")) == 1
