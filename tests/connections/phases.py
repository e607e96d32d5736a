"""Phases: histories that are played at the same time against one service, with or without a fault."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from math import inf
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

from msgspec import Struct, field

from tests.connections import service as services
from tests.connections.client import Client, Trace
from tests.connections.histories import History, draw
from tests.connections.model import LATE, Checker, Circumstances
from tests.connections.service import POOL, Service
from tests.faults.cluster import Cluster

CLIENT_TIMEOUT: Final = 2
KEEP_ALIVE: Final = 3
SETTINGS: Final = {
    "CLIENT_TIMEOUT_SECONDS": str(CLIENT_TIMEOUT),
    "KEEP_ALIVE_SECONDS": str(KEEP_ALIVE),
    "DATABASE_TIMEOUT_SECONDS": "4",
}
FIRST_NUMBER: Final = 1000  # of a phase with a fault; the calm phase of the same seed has the numbers below
PATIENCE: Final = 40  # seconds for a history
STALL: Final = CLIENT_TIMEOUT + 6
EXIT: Final = 5  # seconds for the requests in flight when the service stops
BLOCKED: Final = 2  # the most seconds for `GET /`
BUSY: Final = 0.4  # the most seconds of CPU time of an idle process in a second
CLOSE_SECONDS: Final = 2  # until the connections of disconnected clients are closed
IDLE_EXIT: Final = 3  # seconds until a service without requests in flight has exited


GET: Final = b"GET / HTTP/1.1\r\nHost: model\r\n\r\n"
POST_WITHOUT_BODY: Final = b"POST /posts HTTP/1.1\r\nHost: model\r\nContent-Length: 100\r\n\r\n{"


class Run(Struct):
    """The state of a running phase."""

    service: Service
    random: Random
    around: Circumstances
    cluster: Cluster | None
    violations: list[str] = field(default_factory=list)  # that do not belong to one connection


class Phase(Struct, frozen=True):
    name: str
    fault: Callable[[Run], Coroutine[None, None, None]] | None = None
    settings: dict[str, str] = {}
    histories: int = 100
    expected: str = "^$"  # a regular expression for lines of the log
    overload: bool = False


async def play(
    histories: Sequence[History],
    port: int,
    *,
    at_once: int,
    patience: float = PATIENCE,
    last: Callable[[], float] = lambda: inf,
) -> list[Trace]:
    """Play histories, ``at_once`` of them at a time. None is started after ``last``."""
    traces: list[Trace] = []
    waiting = iter(histories)

    async def play_some() -> None:
        for history in waiting:
            if monotonic() > last():
                break
            traces.append(await Client(history, port, patience=patience, stall=STALL).play())

    await asyncio.gather(*(play_some() for _ in range(at_once)))
    return traces


async def check(url: str, traces: Sequence[Trace], around: Circumstances) -> list[str]:
    """The violations of each connection, with its history."""
    kept = await services.stored(url, [trace.history for trace in traces])
    found = [(trace, list(Checker(trace, around, kept).violations())) for trace in traces]
    return ["\n".join([*map("! {}".format, what), trace.describe()]) for trace, what in found if what]


async def run_calm(service: Service, seed: int, *, histories: int, at_once: int) -> tuple[int, list[str]]:
    """Run histories without a fault; returns their number and the violations."""
    around = Circumstances(CLIENT_TIMEOUT, KEEP_ALIVE)
    drawn = [draw(seed, number, service.account) for number in range(histories)]
    await services.prepare(service.database_url, drawn)
    async with probed(service) as found:
        traces = await play(drawn, service.port, at_once=at_once)
    found += await check(service.database_url, traces, around)
    return len(traces), found + await check_end(service)


@asynccontextmanager
async def probed(service: Service) -> AsyncIterator[list[str]]:
    """Check all the time that no client blocks the others; yields the list of violations."""
    found: list[str] = []

    started = monotonic()

    async def probe() -> None:
        nonlocal started
        while True:
            started = monotonic()
            with socket.socket() as connection:
                connection.setblocking(False)  # noqa: FBT003 - as the method is
                loop = asyncio.get_running_loop()
                await loop.sock_connect(connection, ("127.0.0.1", service.port))
                await loop.sock_sendall(connection, GET)
                await loop.sock_recv(connection, 1 << 16)
            if (seconds := monotonic() - started) > BLOCKED:
                found.append(f"the process was blocked for {seconds:.1f} s")
            await asyncio.sleep(0.2)

    probing = asyncio.create_task(probe())
    yield found
    if not probing.cancel() or monotonic() - started > BLOCKED:
        found.append("the process does not respond any more")
    await asyncio.wait([probing])


async def run_phase(
    phase: Phase, seed: int, database_url: str, log: Path, *, cluster: Cluster | None = None, at_once: int
) -> tuple[int, list[str]]:
    """Run a phase on a service of its own; returns the number of histories played, and the violations."""
    around = Circumstances(CLIENT_TIMEOUT, KEEP_ALIVE, overload=phase.overload)
    service = Service(database_url, log, **SETTINGS | phase.settings)
    run = Run(service, Random(seed), around, cluster)  # noqa: S311 - no secret
    try:
        await service.start()
        histories = [draw(seed, FIRST_NUMBER + number, service.account) for number in range(phase.histories)]
        await services.prepare(database_url, histories)
        fault = asyncio.create_task(phase.fault(run)) if phase.fault else None
        traces = await play(histories, service.port, at_once=at_once, last=lambda: around.drained + 0.5)
        if fault:
            await fault
        if around.terminated > monotonic():
            run.violations += await check_end(service)
            run.violations += await stop(service)
        run.violations += [f"in the log: {lines}" for lines in service.unexpected_log_lines(phase.expected)]
        run.violations += await check(database_url, traces, around)
    finally:
        service.kill()
    return len(traces), run.violations


async def check_end(service: Service) -> list[str]:
    """Check what is left after all clients have disconnected."""
    async with idle_connections(service):
        pass
    found = []
    last = monotonic() + CLOSE_SECONDS
    while (left := service.connections()) and monotonic() < last:
        await asyncio.sleep(0.05)
    if left:
        found.append(f"{left} connections are left after all clients have closed theirs")
    used = service.cpu_seconds()
    await asyncio.sleep(1)
    if (used := service.cpu_seconds() - used) > BUSY:
        found.append(f"{used:.2f} s of CPU time in a second without clients")
    connections, transactions = await services.sessions(service.database_url)
    if connections > POOL * service.workers:
        found.append(f"{connections} connections to the database")
    if transactions:
        found.append(f"{transactions} transactions are left open")
    return found


async def stop(service: Service, limit: float = IDLE_EXIT) -> list[str]:
    """Stop the service by SIGTERM while it has connections without a request in flight."""
    limit += int(service.settings.get("DRAIN_SECONDS", "0"))
    async with idle_connections(service):
        service.signal(signal.SIGTERM)
        if (code := await service.wait(limit)) is None:
            return [f"SIGTERM has not ended it within {limit} s"]
    return [f"the exit code after SIGTERM is {code}"] if code else []


@asynccontextmanager
async def idle_connections(service: Service) -> AsyncIterator[None]:
    """Three connections: one without input, one after a response, and one after a response before the body."""
    with ExitStack() as stack:
        for sent in (b"", GET, POST_WITHOUT_BODY):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=5))
            connection.sendall(sent)
            if sent:
                await asyncio.to_thread(connection.recv, 1 << 16)
        yield


# The faults.


async def drain(run: Run) -> None:
    await _send_first_sigterm(run)
    await _check_exit(run)


async def cut_drain_short(run: Run) -> None:
    """Send a second SIGTERM during a drain that lasts longer than the check of the exit."""
    await _send_first_sigterm(run)
    await asyncio.sleep(run.random.uniform(0.2, 2))
    run.around.drained = monotonic()
    run.service.signal(signal.SIGTERM)
    await _check_exit(run)


async def _send_first_sigterm(run: Run) -> None:
    await asyncio.sleep(run.random.uniform(0.5, 5))
    run.around.terminated = monotonic()
    run.around.drained = run.around.terminated + int(run.service.settings["DRAIN_SECONDS"])
    run.service.signal(signal.SIGTERM)


async def _check_exit(run: Run) -> None:
    limit = max(0, run.around.drained - monotonic()) + EXIT + LATE
    if (code := await run.service.wait(limit)) != 0:
        run.violations.append(f"{limit:.1f} s after SIGTERM the exit code is {code}")


async def stop_without_database(run: Run) -> None:
    """Send SIGTERM while statements hang for longer than the service waits for them."""
    assert run.cluster
    await asyncio.sleep(run.random.uniform(0.5, 3))
    started = monotonic()
    run.around.away.append((started, inf))
    run.cluster.freeze()
    try:
        await asyncio.sleep(run.random.uniform(0, 2))
        await drain(run)
    finally:
        run.cluster.thaw()


async def kill(run: Run) -> None:
    await asyncio.sleep(run.random.uniform(0.5, 5))
    run.around.terminated = run.around.drained = monotonic()
    run.around.killed.append((run.around.drained, None))
    run.service.kill()


async def suspend(run: Run) -> None:
    for _ in range(run.random.randint(1, 3)):
        await asyncio.sleep(run.random.uniform(0.3, 3))
        for process in run.service.serving():
            process.suspend()
        started = monotonic()
        await asyncio.sleep(run.random.choice([0.5, 1.5, 4, 6]))
        run.around.stopped.append((started, monotonic()))
        for process in run.service.serving():
            process.resume()


async def lose_a_worker(run: Run) -> None:
    """Kill a worker, or suspend it so that it hangs. The supervisor has to replace it."""
    await asyncio.sleep(run.random.uniform(0.5, 5))
    worker = run.random.choice(run.service.serving())
    clients = run.service.client_ports(worker)
    run.around.killed.append((monotonic(), clients))
    os.kill(worker.pid, run.random.choice([signal.SIGKILL, signal.SIGSTOP]))
    last = monotonic() + 15
    while monotonic() < last:
        clients |= run.service.client_ports(worker)  # also those of connections that it has accepted since
        serving = {process.pid for process in run.service.serving()}
        if worker.pid not in serving and len(serving) == run.service.workers:
            return
        await asyncio.sleep(0.1)
    run.violations.append(f"worker {worker.pid} was not replaced")


async def lose_the_database(run: Run) -> None:
    assert run.cluster
    await asyncio.sleep(run.random.uniform(0.5, 4))
    how, pause = run.random.choice(["stop", "kill", "freeze", "terminate"]), run.random.choice([0, 1, 3.5])
    started = monotonic()
    run.around.away.append((started, started + PATIENCE))
    match how:
        case "stop" | "kill":
            await asyncio.to_thread(run.cluster.stop if how == "stop" else run.cluster.kill)
            await asyncio.sleep(pause)
            await asyncio.to_thread(run.cluster.start)
        case "freeze":
            run.cluster.freeze()
            await asyncio.sleep(pause)
            run.cluster.thaw()
        case "terminate":
            async with services.connected(run.service.database_url) as connection:
                await connection.execute(services.TERMINATE)
    run.around.away[-1] = started, monotonic()


async def freeze_the_database(run: Run) -> None:
    """Let the app wait for statements before it reads bodies, for longer than a client may take to send them."""
    assert run.cluster
    for _ in range(3):
        await asyncio.sleep(run.random.uniform(0.2, 1))
        started = monotonic()
        run.around.away.append((started, started + PATIENCE))
        run.cluster.freeze()
        await asyncio.sleep(CLIENT_TIMEOUT + 1)
        run.cluster.thaw()
        run.around.away[-1] = started, monotonic()


WORKER_ENDS: Final = r"worker \d+ has ended|Child process"
DRAIN: Final = Phase("drain", drain, {"DRAIN_SECONDS": "2"}, histories=200)
PHASES: Final = (
    DRAIN,
    Phase("drain of two workers", drain, {"WORKERS": "2", "DRAIN_SECONDS": "1"}, histories=200),
    Phase("drain cut short", cut_drain_short, {"DRAIN_SECONDS": "30"}, histories=200),
    Phase("drain of two workers cut short", cut_drain_short, {"WORKERS": "2", "DRAIN_SECONDS": "30"}, histories=200),
    Phase("stop", drain, {"DRAIN_SECONDS": "0"}, histories=200),
    Phase(
        "stop without database",
        stop_without_database,
        {"DRAIN_SECONDS": "0", "DATABASE_TIMEOUT_SECONDS": "30"},
        expected=r"Cancel \d+ running task",  # their statements hang and cannot be cancelled; they have their responses
    ),
    Phase("kill", kill),
    Phase("suspended", suspend),
    Phase("worker lost", lose_a_worker, {"WORKERS": "2"}, expected=WORKER_ENDS),
    Phase("database lost", lose_the_database),
    Phase("database frozen", freeze_the_database, histories=200),
    Phase("overload", settings={"MAX_REQUESTS": "3"}, overload=True),
    Phase("two workers", settings={"WORKERS": "2"}),
)
