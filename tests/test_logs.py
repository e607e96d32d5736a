"""What the service writes: the access log, request ids, security events, and no secret."""

import asyncio
import io
import logging
import re
import signal
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from service.observability.access_log import AccessLog
from service.observability.logs import TextFormatter
from service.observability.metrics import Metrics
from service.observability.recording import Recording
from tests.exchanges import ended
from tests.people import Person
from tests.processes import Start, pause, read_output, read_until, wait_until_serving
from tests.raw_http import Client, exchange, get, post
from tests.records import accesses, parse, read_record, stop
from tests.waiting import wait_for_blocked_session

JSON_LOG = {"ACCESS_LOG": "on", "LOG_FORMAT": "json"}
PASSWORD = "a password that stays secret"
EMAIL = "alice.secret@example.com"
ACCOUNT = {"username": "alice", "email": EMAIL, "password": PASSWORD}


async def test_the_access_log_has_a_line_for_every_request(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, CLIENT_TIMEOUT_SECONDS="0.5", **JSON_LOG)
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    post_id = (await alice.publish())["id"]
    await process_client.get(f"/posts/{post_id}", headers={"X-Request-ID": "mine"})
    await process_client.get("/nowhere/alice@example.com")
    await process_client.put("/posts")
    address = str(process_client.base_url)
    await exchange(address, b"nonsense\r\n\r\n")
    await exchange(address, get(fields=b"X: " + b"x" * 100_000 + b"\r\n"))
    await exchange(address, post(b"Content-Length: 5\r\nContent-Type: application/json\r\n", b"{"))
    await exchange(address, b"GET /posts HTTP/1.1\r\n")

    records = await stop(process)

    assert accesses(records) == [
        ("GET", "/health/live", 200, None),
        ("POST", "/auth/register", 201, None),
        ("POST", "/auth/token", 200, None),
        ("POST", "/posts", 201, alice.id),
        ("GET", "/posts/{post_id}", 200, None),
        ("GET", None, 404, None),
        ("PUT", None, 405, None),
        (None, None, 400, None),
        (None, None, 431, None),
        ("POST", "/auth/register", 408, None),
        (None, None, 408, None),
    ]
    [record] = [record for record in records if record.get("request_id") == "mine"]
    assert record["client"] == "127.0.0.1"
    assert 0 < record["duration_ms"] < 10_000
    assert datetime.fromisoformat(record["timestamp"]).utcoffset() == timedelta(0)
    [late] = [record for record in records if record["logger"] == "service.access" and record["method"] == "POST"][-1:]
    assert late["duration_ms"] >= 500


async def test_a_refused_request_and_a_client_that_has_gone_are_in_the_access_log(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await start(
        "service", DATABASE_URL=database_url, MAX_REQUESTS="1", DATABASE_TIMEOUT_SECONDS="2", **JSON_LOG
    )
    await wait_until_serving(process_client)
    async with db.transaction():
        await db.execute("lock table posts in access exclusive mode")
        with Client(str(process_client.base_url)) as client:
            await client.send(get(b"/posts/1"))
            await wait_for_blocked_session(db)
            refused = await process_client.get("/posts/2")
            client.reset()
        gone = await read_record(process, route="/posts/{post_id}", status=499)
    await stop(process)

    assert refused.status_code == 503
    assert gone["method"] == "GET"


async def test_the_access_log_of_people_is_a_line_of_text(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, ACCESS_LOG="on")
    await wait_until_serving(process_client)
    await process_client.get("/users/7", headers={"X-Request-ID": "mine"})

    text = await read_until(process, "/users/{user_id}")

    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    service\.access: "
        r"GET     /users/{user_id}       404 +\d+\.\d ms client=127\.0\.0\.1 user_id=- request_id=mine",
        text.splitlines()[-1],
    )


def recording(log: AccessLog) -> Recording:
    return Recording(Metrics({}), log)


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_line_has_the_time_at_which_its_request_ended_and_its_duration(log_format: str) -> None:
    written = io.BytesIO()
    log = AccessLog(log_format, written, shared=False)
    record = recording(log)
    times, durations = [], []
    for seconds in (0.002, 0.002, 1 - time.time() % 1):  # the last line is in another second
        request = ended()
        await asyncio.sleep(seconds)
        before, least = time.time(), time.perf_counter() - request.begun
        record([request] * 2)
        times += [(before - 0.001, time.time())] * 2
        durations += [(least, time.perf_counter() - request.begun)] * 2
    log.flush()

    lines = written.getvalue().decode()
    found = [datetime.fromisoformat(text).timestamp() for text in re.findall(r"\d{4}-\S+?Z", lines)]
    assert all(before <= at <= after for at, (before, after) in zip(found, times, strict=True))
    logged = [float(text) for text in re.findall(r'(?:"duration_ms":|200 +)([\d.]+)', lines)]
    assert all(
        least * 1000 - 0.06 < duration < most * 1000 + 0.06
        for duration, (least, most) in zip(logged, durations, strict=True)
    )


class Pieces(io.BytesIO):
    """A stream that keeps what each call of ``write`` has written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, piece: Any) -> int:
        self.written.append(piece)
        return len(piece)


@pytest.mark.parametrize(("shared", "max_write"), [(True, 4096), (False, 64 * 1024)])
async def test_lines_are_written_together_and_no_write_is_too_long_for_a_shared_pipe(
    max_write: int, *, shared: bool
) -> None:
    stream = Pieces()
    log = AccessLog("json", stream, shared=shared)
    record = recording(log)

    for first in range(0, 500, 5):
        record([ended(request_id=b"%d" % number) for number in range(first, first + 5)])
    before_flush = sum(map(len, stream.written))
    log.flush()

    assert sum(map(len, stream.written)) - before_flush <= max_write
    assert all(len(piece) <= max_write and piece.endswith(b"\n") for piece in stream.written)
    assert len(stream.written) <= 150_000 // max_write
    assert [record["request_id"] for record in parse(b"".join(stream.written).decode())] == [*map(str, range(500))]


async def test_a_line_that_is_too_long_for_a_shared_pipe_is_written_by_itself() -> None:
    stream = Pieces()
    log = AccessLog("text", stream, shared=True)

    recording(log)([ended(client=client) for client in ("short", "c" * 5000, "short")])
    log.flush()

    assert [b"client=" + b"c" * 5000 in piece for piece in stream.written] == [False, True, False]
    assert all(piece.count(b"\n") == 1 for piece in stream.written)


async def test_just_up_writes_a_line_for_each_request(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service.development", DATABASE_URL=database_url)
    await read_until(process, "Uvicorn running on")
    await process_client.get("/posts")

    await read_until(process, "service.access: GET     /posts ")


async def test_without_the_access_log_a_request_writes_nothing(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, LOG_LEVEL="debug")
    await wait_until_serving(process_client)
    await read_until(process, "Uvicorn running on")
    await process_client.get("/posts")
    process.terminate()

    assert "/posts" not in await read_output(process)


async def test_the_lines_of_uvicorn_do_not_look_like_errors(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, **JSON_LOG)
    await wait_until_serving(process_client)
    records = await stop(process)

    assert {record["logger"] for record in records} >= {"uvicorn"}
    assert [record for record in records if "error" in record["logger"] or "Draining" in record["message"]] == []


@pytest.mark.parametrize("module", ["service", "service.development"])
@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"PORT": "none"}, "The settings are not valid:\nPORT: must be a whole number from 0 to 65535"),
        ({"HOST": "192.0.2.1"}, "Cannot listen on 192.0.2.1, port "),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/app", "WORKER": "2"}, "The database cannot be reached: "),
        ({"SECRET_KEY": "", "DATA_DIRECTORY": "/dev/null/data"}, "The settings are not valid:\n"),
    ],
    ids=["setting", "port", "database", "directory"],
)
async def test_a_start_that_fails_is_one_record(
    start: Start, database_url: str, module: str, variables: dict[str, str], cause: str
) -> None:
    arguments = [module] if module != "service" or "WORKER" not in variables else [module, "check"]
    process = await start(*arguments, **JSON_LOG | {"DATABASE_URL": database_url} | variables)
    records = parse(await read_output(process))

    assert process.returncode == 1
    assert [record["level"] for record in records if record["level"] != "warning"] == ["critical"]
    assert records[-1]["message"].startswith(cause)


def test_a_record_has_the_request_id_although_its_message_contains_the_same_letters() -> None:
    record = logging.makeLogRecord({"msg": "a statement failed", "request_id": "a"})

    assert TextFormatter().format(record).endswith("a statement failed request_id=a")


async def test_a_traceback_is_one_record_with_the_request_id(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    await db.execute("alter table posts rename to moved")
    process = await start("service", DATABASE_URL=database_url, **JSON_LOG)
    await wait_until_serving(process_client)

    response = await process_client.get("/posts/7", headers={"X-Request-ID": "mine"})
    records = await stop(process)

    assert response.status_code == 500
    [record] = [record for record in records if record["level"] == "error"]
    assert record["request_id"] == "mine"
    assert record["exc_info"].startswith("Traceback")
    assert 'relation "posts" does not exist' in record["exc_info"]
    assert [record.get("status") for record in records if record.get("request_id") == "mine"][-1:] == [500]


async def test_a_record_of_a_batch_names_all_its_requests(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await start("service", DATABASE_URL=database_url, DATABASE_TIMEOUT_SECONDS="0.5", **JSON_LOG)
    await wait_until_serving(process_client)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(str(process_client.base_url))) for _ in range(12)]
        for client in clients:
            await client.status_of(get())
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            pause(process.pid)  # all requests arrive in the same turn of its loop
            for number, client in enumerate(clients, 1):
                await client.send(get(b"/posts/%d" % number, fields=b"X-Request-ID: r-%d\r\n" % number))
            process.send_signal(signal.SIGCONT)
            statuses = {(await client.read_response()).status for client in clients}
    records = await stop(process)

    assert statuses == {503}
    [record] = [record for record in records if record["message"].startswith("a statement failed")]
    assert record["request_count"] == 12
    assert len(record["request_ids"]) == 10
    assert set(record["request_ids"]) < {f"r-{number}" for number in range(1, 13)}


async def test_registration_and_logins_are_security_events(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await start("service", DATABASE_URL=database_url, LOG_FORMAT="json")
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    for username in ("alice", "nobody"):
        await process_client.post(
            "/auth/token", data={"username": username, "password": "wrong"}, headers={"X-Request-ID": username}
        )

    records = await stop(process)

    events = [record for record in records if "event" in record]
    assert [(record["event"], record["outcome"], record["user_id"], record["level"]) for record in events] == [
        ("user_created", "success", alice.id, "info"),
        ("authn_login_success", "success", alice.id, "info"),
        ("authn_login_fail", "failure", alice.id, "warning"),
        ("authn_login_fail", "failure", None, "warning"),
    ]
    assert {record["client"] for record in events} == {"127.0.0.1"}
    assert [record["request_id"] for record in events[2:]] == ["alice", "nobody"]
    assert "nobody" not in str([{**record, "request_id": ""} for record in records])


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_no_secret_is_in_the_log(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection, log_format: str
) -> None:
    process = await start(
        "service", DATABASE_URL=database_url, ACCESS_LOG="on", LOG_FORMAT=log_format, LOG_LEVEL="debug"
    )
    await wait_until_serving(process_client)
    await process_client.post("/auth/register", json=ACCOUNT)
    await process_client.post("/auth/register", json=ACCOUNT)
    form = {"username": "alice", "password": PASSWORD}
    token = (await process_client.post("/auth/token", data=form)).json()["access_token"]
    await process_client.post("/auth/token", files={name: (None, value) for name, value in form.items()})
    await process_client.post("/auth/token", data={"username": PASSWORD, "password": PASSWORD + "?"})
    secrets = {"Authorization": f"Bearer {token}", "Cookie": "session=a-cookie-that-stays-secret"}
    await process_client.get(f"/users/me?token={token}&email={EMAIL}", headers=secrets)
    await process_client.get(f"/users/{EMAIL}")
    # A trigger that quotes the row and the password, and a constraint that names its key.
    await db.execute("alter table users add constraint chosen unique (email, id)")
    await db.execute(
        "create function quote() returns trigger language plpgsql as $$ begin "
        f"raise exception '% % % {PASSWORD}', new.username, new.email, new.password_hash; end $$"
    )
    await db.execute("create trigger quote before insert on users for each row execute function quote()")
    failed = await process_client.post("/auth/register", json=ACCOUNT | {"username": "bob"}, headers=secrets)
    process.terminate()

    text = await read_output(process)

    assert failed.status_code == 500
    assert "Traceback" in text
    for secret in (PASSWORD, token, token.rpartition(".")[2], "a-cookie", EMAIL, "alice.secret", "$argon2"):
        assert secret not in text, text
    if log_format == "json":
        assert parse(text)
