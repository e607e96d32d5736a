"""Histories that run at the same time against one server, and what happens to it meanwhile."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

import asyncpg
import psutil
from msgspec import Struct, field

from tests.connections import service as services
from tests.connections.client import Client, Trace
from tests.connections.histories import History, draw
from tests.connections.messages import FIRST_OWN_POST, Account
from tests.connections.model import LATE, Checker, Circumstances
from tests.connections.service import POOL, Service
from tests.faults.cluster import Cluster

CLIENT_TIMEOUT: Final = 2
KEEP_ALIVE: Final = 3
SETTINGS: Final = {
    "CLIENT_TIMEOUT_SECONDS": str(CLIENT_TIMEOUT),
    "KEEP_ALIVE_SECONDS": str(KEEP_ALIVE),
    "DATABASE_TIMEOUT_SECONDS": "2",
}
FIRST_NUMBER: Final = 1000  # of a phase with a trouble; the histories of the calm phase with the same seed come first
PATIENCE: Final = 40  # seconds; no history takes longer
STALL: Final = CLIENT_TIMEOUT + 6
EXIT: Final = 5  # seconds that the running requests get when the service stops


class Run(Struct):
    """The histories of one seed on one server."""

    seed: int
    service: Service
    random: Random
    around: Circumstances
    cluster: Cluster | None = None
    notes: list[str] = field(default_factory=list)  # violations that are not of one connection


Trouble = Callable[[Run], Coroutine[None, None, None]]


def circumstances(*, overload: bool = False) -> Circumstances:
    return Circumstances(CLIENT_TIMEOUT, KEEP_ALIVE, overload=overload)


async def play(
    histories: Sequence[History], port: int, *, at_once: int, stop: Callable[[], bool] = lambda: False
) -> list[Trace]:
    """Play histories, ``at_once`` of them at a time."""
    traces: list[Trace] = []
    waiting = iter(histories)

    async def play_some() -> None:
        for history in waiting:
            if stop():
                break
            traces.append(await Client(history, port, patience=PATIENCE, stall=STALL).play())

    await asyncio.gather(*(play_some() for _ in range(at_once)))
    return traces


async def prepare(url: str, account: Account, histories: Sequence[History]) -> None:
    """Insert the posts that the histories change and delete, and delete what they wrote the last time."""
    messages = [message for history in histories for message in history.messages]
    ids = [message.post_id for message in messages if message.post_id >= FIRST_OWN_POST]
    await services.delete_posts(url, ids, [message.marker for message in messages if message.marker])
    await services.insert_posts(url, account, ids)


async def check(url: str, traces: Sequence[Trace], around: Circumstances) -> list[str]:
    """The violations of each connection, with its history."""
    kept = await services.stored(url, [trace.history for trace in traces])
    found = []
    for trace in traces:
        violations = list(Checker(trace, around, kept).violations())
        if violations:
            found.append("\n".join([*(f"! {violation}" for violation in violations), trace.describe()]))
    return found


async def check_end(service: Service) -> list[str]:
    """What is left when all clients have gone."""
    found = []
    last = monotonic() + LATE
    while (left := service.connections()) and monotonic() < last:
        await asyncio.sleep(0.05)
    if left:
        found.append(f"{left} connections are left after all clients have closed theirs")
    connections, transactions = await services.sessions(service.database_url)
    if connections > POOL * service.workers:
        found.append(f"{connections} connections to the database")
    if transactions:
        found.append(f"{transactions} transactions are left open")
    return found


async def stop(service: Service, seconds: float, expected: str = "^$") -> list[str]:
    """End the service by SIGTERM, if it has not been told yet, and look at its exit code and its log."""
    found = []
    if service.process.poll() is None and seconds:
        service.signal(signal.SIGTERM)
    if (code := await service.wait(seconds)) != 0:
        found.append(f"the exit code after SIGTERM is {code}" if code else f"SIGTERM has not ended it in {seconds} s")
    service.kill()
    found += [f"in the log: {complaint}" for complaint in service.complaints(expected)]
    return found


# Troubles.


async def nothing(_: Run) -> None:
    pass


async def drain(run: Run) -> None:
    seconds = int(run.service.settings["DRAIN_SECONDS"])
    await asyncio.sleep(run.random.uniform(0.5, 5))
    run.around.terminated = monotonic()
    run.around.drained = run.around.terminated + seconds
    run.service.signal(signal.SIGTERM)
    if seconds and run.random.random() < 0.5:
        await asyncio.sleep(run.random.uniform(0.2, seconds))
        run.around.drained = min(run.around.drained, monotonic())
        run.service.signal(signal.SIGTERM)
    limit = max(0, run.around.drained - monotonic()) + EXIT + LATE
    if (code := await run.service.wait(limit)) != 0:
        run.notes.append(f"after SIGTERM the exit code is {code}, {limit:.1f} s later")
        run.service.kill()


async def stand_still(run: Run) -> None:
    for _ in range(run.random.randint(1, 3)):
        await asyncio.sleep(run.random.uniform(0.3, 3))
        for process in run.service.serving():
            process.suspend()
        begun = monotonic()
        await asyncio.sleep(run.random.choice([0.5, 1.5, 4, 6]))
        run.around.still.append((begun, monotonic()))
        for process in run.service.serving():
            process.resume()


async def lose_a_worker(run: Run) -> None:
    """Kill a worker, or stop it so that it hangs: another has to take its place."""
    await asyncio.sleep(run.random.uniform(0.5, 5))
    worker = run.random.choice(run.service.serving())
    clients = run.service.clients_of(worker)
    run.around.killed.append((monotonic(), clients))
    os.kill(worker.pid, run.random.choice([signal.SIGKILL, signal.SIGSTOP]))
    # A connection that is made now may be accepted by neither or by the worker that has gone.
    for _ in range(150):
        clients |= run.service.clients_of(worker)
        serving = {process.pid for process in run.service.serving()}
        if worker.pid not in serving and len(serving) == run.service.workers:
            break
        await asyncio.sleep(0.1)
    else:
        run.notes.append(f"worker {worker.pid} was not replaced")


async def lose_the_database(run: Run) -> None:
    assert run.cluster
    cluster, random = run.cluster, run.random
    await asyncio.sleep(random.uniform(0.5, 4))
    begun = monotonic()
    how, pause = random.choice(["stop", "kill", "freeze", "terminate"]), random.choice([0, 1, 3])
    run.around.away.append((begun, begun + 1000))
    match how:
        case "stop" | "kill":
            await asyncio.to_thread(cluster.stop if how == "stop" else cluster.kill)
            await asyncio.sleep(pause)
            await asyncio.to_thread(cluster.start)
        case "freeze":
            cluster.freeze()
            await asyncio.sleep(pause)
            cluster.thaw()
        case "terminate":
            connection = await asyncpg.connect(run.service.database_url)
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            )
            await connection.close()
    run.around.away[-1] = begun, monotonic()


class Phase(Struct, frozen=True):
    name: str
    trouble: Trouble
    settings: dict[str, str] = {}
    histories: int = 100
    ends: bool = False  # the trouble is the end of the service
    expected: str = "^$"  # in the log
    overload: bool = False


WORKER_ENDS: Final = r"worker \d+ has ended|Child process|worker"
PHASES: Final = (
    Phase("two workers", nothing, {"WORKERS": "2"}),
    Phase("drain", drain, {"DRAIN_SECONDS": "2"}, histories=200, ends=True),
    Phase("drain of two workers", drain, {"WORKERS": "2", "DRAIN_SECONDS": "1"}, histories=200, ends=True),
    Phase("stop", drain, {"DRAIN_SECONDS": "0"}, histories=200, ends=True),
    Phase("process stands still", stand_still),
    Phase("worker lost", lose_a_worker, {"WORKERS": "2"}, expected=WORKER_ENDS),
    Phase("database lost", lose_the_database),
    Phase("overload", nothing, {"MAX_REQUESTS": "3"}, overload=True),
)


async def run_phase(
    phase: Phase, seed: int, account: Account, database_url: str, log: Path, cluster: Cluster | None, *, at_once: int
) -> tuple[int, list[str]]:
    """Run a phase on a server of its own; how many histories were played, and the violations."""
    histories = [draw(seed, FIRST_NUMBER + number, account) for number in range(phase.histories)]
    await prepare(database_url, account, histories)
    service = Service(database_url, log, **SETTINGS, **phase.settings)
    around = circumstances(overload=phase.overload)
    run = Run(seed, service, Random(seed), around, cluster)  # noqa: S311 - no secret
    try:
        await service.start()
        trouble = asyncio.create_task(phase.trouble(run))
        traces = await play(
            histories, service.port, at_once=at_once, stop=lambda: monotonic() > around.drained or _has_ended(service)
        )
        await trouble
        found = run.notes
        if not phase.ends:
            found += await check_end(service)
        found += await stop(service, EXIT, phase.expected)
        found += await check(database_url, traces, around)
    except psutil.NoSuchProcess:
        found = [f"the service has ended:\n{service.said()[-2000:]}"]
        traces = []
    finally:
        service.kill()
    return len(traces), found


def _has_ended(service: Service) -> bool:
    return service.process.poll() is not None
