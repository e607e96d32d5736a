"""The page of metrics, as Prometheus reads it, and the files that name its metrics."""

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.database.database import Database
from service.errors import DatabaseUnavailable
from service.observability.database import DatabaseMetrics
from service.observability.families import BATCH_ROWS, FAMILIES, POOL_WAIT, STATEMENTS
from tests.people import Person
from tests.processes import Start, free_port, read_output, read_until, wait_for_workers, wait_until_serving
from tests.raw_http import Client, exchange, get
from tests.records import stop
from tests.serving import open_client
from tests.waiting import until, wait_for_blocked_session

OPERATIONS = Path("service/operations")

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Page:
    """The metrics of a service."""

    def __init__(self, port: str) -> None:
        self.url = f"http://127.0.0.1:{port}/metrics"

    async def text(self) -> str:
        async with open_client("") as client:
            return (await client.get(self.url)).text

    async def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(await self.text())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def becomes(self, expected: float, name: str, **labels: str) -> None:
        """Wait until the samples have this sum. A worker publishes its numbers every second."""

        async def holds() -> bool:
            if await self.value(name, **labels) == expected:
                return True
            await asyncio.sleep(0.1)
            return False

        try:
            await until(holds, 15)
        except TimeoutError:
            pytest.fail(f"{name} {labels} is {await self.value(name, **labels)}, not {expected}:\n{await self.text()}")


@pytest.fixture
def page(environment: dict[str, str]) -> Page:
    environment["METRICS_PORT"] = str(free_port())
    return Page(environment["METRICS_PORT"])


async def test_requests_logins_and_batches_are_counted(
    start: Start, process_client: httpx.AsyncClient, database_url: str, page: Page
) -> None:
    await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    post = await alice.publish()
    await asyncio.gather(*(alice.read(post["id"]) for _ in range(5)))
    await process_client.post("/auth/token", data={"username": "alice", "password": "wrong"})
    address = str(process_client.base_url)
    for target in (b"/nowhere", b"/a-name-of-the-client"):
        await exchange(address, get(target, fields=b"Connection: close\r\n"))
    await exchange(address, b"PROPFIND /posts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await exchange(address, b"INVENTED /posts HTTP/1.1\r\nHost: x\r\n\r\n")

    requests = "http_request_duration_seconds_count"
    await page.becomes(5, requests, method="GET", route="/posts/{post_id}", status="200")
    await page.becomes(1, requests, method="POST", route="/posts", status="201")
    await page.becomes(2, requests, method="GET", route="none", status="404")
    await page.becomes(1, requests, method="other", route="none", status="405")
    await page.becomes(1, requests, method="other", route="none", status="400")
    await page.becomes(1, "logins_total", outcome="success")
    await page.becomes(1, "logins_total", outcome="failure")
    await page.becomes(1, "registrations_total")
    await page.becomes(1, "database_batch_rows_count", kind="write")
    assert await page.value("database_batch_rows_sum", kind="read") >= 1
    assert await page.value("database_statement_duration_seconds_count", outcome="ok") >= 4
    assert await page.value("database_pool_wait_seconds_count") >= 4
    assert await page.value("database_pool_connections_max") == 10
    assert await page.value("password_queue_max") == 256
    assert await page.value("service_workers_with_database") == 1
    assert "a-name" not in await page.text()
    assert "INVENTED" not in await page.text()


async def test_requests_in_flight_and_shed_and_the_wait_for_a_connection_are_counted(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection, page: Page
) -> None:
    await start("service", DATABASE_URL=database_url, MAX_REQUESTS="3", DATABASE_CONNECTIONS="1")
    await wait_until_serving(process_client)
    with (
        Client(str(process_client.base_url)) as one,
        Client(str(process_client.base_url)) as two,
        Client(str(process_client.base_url)) as three,
    ):
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            await one.send(get(b"/posts/1"))
            await wait_for_blocked_session(db)
            await two.send(get(b"/posts/2"))
            await three.send(get(b"/posts?limit=2"))
            await page.becomes(3, "http_requests_in_flight")
            refused = await process_client.get("/posts/3")
            await page.becomes(1, "database_pool_connections_in_use")
            await page.becomes(2, "database_pool_waiting")
            await page.becomes(1, "http_requests_shed_total")
        assert {(await client.read_response()).status for client in (one, two, three)} == {200, 404}

    assert refused.status_code == 503
    await page.becomes(0, "http_requests_in_flight")
    await page.becomes(0, "database_pool_waiting")
    assert await page.value("database_pool_wait_seconds_sum") > 0.1


async def test_the_numbers_of_several_workers_add_up_also_after_one_was_replaced(
    start: Start, database_url: str, environment: dict[str, str], page: Page
) -> None:
    process = await start("service", DATABASE_URL=database_url, WORKERS="2")
    await read_until(process, *["Application startup complete"] * 2)
    url = f"http://127.0.0.1:{environment['PORT']}"
    served = {"name": "http_request_duration_seconds_count", "route": "/", "status": "200"}

    async def visit(times: int) -> None:
        for _ in range(times):
            async with open_client(url) as process_client:  # a new connection, for either worker
                assert (await process_client.get("/")).status_code == 200

    await visit(30)
    await page.becomes(30, **served)
    await page.becomes(2, "service_workers")
    first, second = await wait_for_workers(process)
    os.kill(first, signal.SIGKILL)
    await wait_for_workers(process, without=first)
    await read_until(process, "Application startup complete")
    await visit(10)

    await page.becomes(40, **served)
    await page.becomes(2, "service_workers")
    await page.becomes(20, "database_pool_connections_max")
    assert second in await wait_for_workers(process, without=first)


async def test_a_metrics_port_that_is_in_use_is_an_error_at_start(start: Start, database_url: str) -> None:
    port = str(free_port())
    first = await start("service", DATABASE_URL=database_url, METRICS_PORT=port)
    await read_until(first, "Application startup complete")

    second = await start("service", DATABASE_URL=database_url, PORT=str(free_port()), METRICS_PORT=port)

    assert f"port {port} (METRICS_PORT): Address already in use" in await read_output(second)
    assert second.returncode == 1


async def test_there_are_no_metrics_by_default(
    start: Start, process_client: httpx.AsyncClient, database_url: str, page: Page
) -> None:
    await start("service", DATABASE_URL=database_url, METRICS_PORT="")
    await wait_until_serving(process_client)

    assert (await process_client.get("/metrics")).status_code == 404
    with pytest.raises(httpx.ConnectError):
        await page.text()


async def test_promtool_finds_no_fault_with_the_page(
    start: Start, process_client: httpx.AsyncClient, database_url: str, page: Page, promtool: str
) -> None:
    await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)
    await page.becomes(1, "http_request_duration_seconds_count")

    check = await asyncio.create_subprocess_exec(
        promtool,
        "check",
        "metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await check.communicate((await page.text()).encode())

    assert (check.returncode, said.decode()) == (0, "")


async def test_promtool_finds_no_fault_with_the_alert_rules(repository: Path, promtool: str) -> None:
    check = await asyncio.create_subprocess_exec(
        promtool, "check", "rules", str(repository / OPERATIONS / "alerts.yaml"), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await check.communicate()

    assert check.returncode == 0, said.decode()


def test_the_dashboard_and_the_alerts_name_metrics_that_exist(repository: Path) -> None:
    dashboard = json.loads((repository / OPERATIONS / "dashboard.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    alerts = (repository / OPERATIONS / "alerts.yaml").read_text(encoding="utf-8")
    queries += re.findall(r"expr: (.*(?:\n {10}.*)*)", alerts)
    series = {
        name
        for family, declared in FAMILIES.items()
        for name in {
            "histogram": [f"{family}_bucket", f"{family}_count", f"{family}_sum"],
            "counter": [f"{family}_total"],
            "gauge": [family],
        }[declared.kind]
    }
    labels = {label for declared in FAMILIES.values() for label in declared.labels} | {"le", "instance", "job"}

    assert len(queries) > 15
    for query in queries:
        without_strings = re.sub(r'"[^"]*"|\[[^]]*\]', "", query)
        assert named(without_strings) - {"up"} <= series | labels, query
        assert named(without_strings) & (series | {"up"}), query
    assert {name.removesuffix("_total") for query in queries for name in named(query)} >= {
        name for name, declared in FAMILIES.items() if declared.kind != "histogram"
    }


def named(query: str) -> set[str]:
    """The metrics and labels of a query."""
    words = set(re.findall(r"\b(?<!\$)[a-z_]+\b(?!\()", query))
    return words - {
        "by",
        "without",
        "sum",
        "rate",
        "increase",
        "and",
        "or",
        "unless",
        "m",
        "s",
        "h",
        "max",
        "min",
        "on",
    }


async def test_a_client_of_the_metrics_that_resets_its_connection_writes_nothing(
    start: Start, process_client: httpx.AsyncClient, database_url: str, page: Page
) -> None:
    process = await start("service", DATABASE_URL=database_url, LOG_FORMAT="json")
    await wait_until_serving(process_client)
    with Client(page.url) as client:
        await client.send(b"GET /met")
        client.reset()
    await page.text()

    assert [record for record in await stop(process) if record["level"] != "info"] == []


async def test_every_outcome_wait_and_batch_of_the_database_is_counted(database_url: str) -> None:
    metrics = DatabaseMetrics()
    database = Database(database_url, connections=2, timeout=5, observer=metrics)
    begun = time.monotonic()
    async with database.lifespan():
        await database.fetch("select pg_sleep(0.02)")
        with pytest.raises(asyncpg.UndefinedTableError):
            await database.fetch("select * from nothing")
        with pytest.raises(DatabaseUnavailable):
            await database.run("select pg_terminate_backend(pg_backend_pid())")
        numbered = "select number, value from unnest($1::int[]) with ordinality as given (value, number)"
        written = await asyncio.gather(*(database.write("select $1::int", numbered, value) for value in (7, 8, 9)))
        await database.write("select $1::int", numbered, 10)
    elapsed = time.monotonic() - begun

    counted = {
        (histogram.name, *labels): (sum(counts), total)
        for histogram in metrics.histograms
        for labels, (*counts, total) in histogram.numbers.items()
    }
    assert [row[0] for row in written] == [7, 8, 9]
    assert {outcome: counted[STATEMENTS, outcome][0] for outcome in ("ok", "error", "unavailable")} == {
        "ok": 3,
        "error": 1,
        "unavailable": 1,
    }
    assert 0.02 <= counted[STATEMENTS, "ok"][1] <= elapsed
    assert counted[POOL_WAIT,][0] == 5
    assert counted[POOL_WAIT,][1] <= elapsed
    assert (counted[BATCH_ROWS, "write"], counted[BATCH_ROWS, "read"]) == ((2, 4), (0, 0))
