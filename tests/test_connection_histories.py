"""Random histories of connections with a fixed seed; ``just fuzz-connections`` plays others at length."""

import asyncio
import gc
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from service.app import create_app
from service.database import schema
from service.server.connection import Connection
from service.server.state import State
from service.settings import Settings
from tests.conftest import Serve
from tests.connections import phases
from tests.connections import service as services
from tests.connections.histories import draw
from tests.connections.model import Circumstances
from tests.connections.phases import DRAIN, SETTINGS
from tests.connections.service import Service

SEED = 33  # none of its histories takes longer than ten seconds

# The states that may follow each state. The same state again renews its deadline. CLOSED may follow any of them.
TRANSITIONS = {
    State.IDLE: {State.IDLE, State.READING_HEAD, State.READING_BODY, State.PROCESSING},
    State.READING_HEAD: {State.READING_BODY, State.PROCESSING},
    State.READING_BODY: {State.READING_BODY, State.PROCESSING, State.SENDING, State.LINGERING},
    State.PROCESSING: {State.READING_BODY, State.PROCESSING, State.SENDING, State.IDLE, State.READING_HEAD},
    State.SENDING: {State.SENDING, State.PROCESSING, State.READING_BODY, State.IDLE, State.READING_HEAD},
    State.LINGERING: {State.LINGERING},
    State.CLOSED: set(),
}
for before in (State.READING_BODY, State.PROCESSING, State.SENDING):
    TRANSITIONS[before] |= {State.LINGERING, State.IDLE, State.READING_HEAD}


@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(120)
async def test_connections_follow_the_model(database_url: str, empty_database: str, tmp_path: Path) -> None:
    await schema.migrate(empty_database)
    draining = asyncio.create_task(phases.run_phase(DRAIN, SEED, empty_database, tmp_path / "drain", at_once=30))
    service = Service(database_url, tmp_path / "calm", **SETTINGS)
    try:
        await service.start()
        _, found = await phases.run_calm(service, SEED, histories=60, at_once=60)
        found += await phases.stop(service)
    finally:
        service.kill()
    _, found_by_draining = await draining

    assert_none(found + service.unexpected_log_lines() + found_by_draining)


@pytest.mark.timeout(120)
async def test_no_task_and_no_connection_remains_in_the_process(
    serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transitions = set()
    enter = Connection._enter  # noqa: SLF001 - the one function that changes the state

    def record(connection: Connection, state: State) -> None:
        transitions.add((connection.state, state))
        enter(connection, state)

    monkeypatch.setattr(Connection, "_enter", record)
    address = await serve(create_app(settings))
    account = await services.register(address)
    await services.insert_public_posts(database_url)
    histories = [
        history
        for history in (draw(SEED, number, account) for number in range(300))
        # The test above plays those that take long or end with a deadline.
        if history.ending != "wait"
        and history.is_complete
        and not history.stalls
        and not history.holds
        and history.pauses < 1
    ]
    await services.prepare(database_url, histories)
    tasks = asyncio.all_tasks()

    traces = await phases.play(histories, int(address.rpartition(":")[2]), at_once=40, patience=10)

    assert_none(await phases.check(database_url, traces, Circumstances(client_timeout=20, keep_alive=75)))
    last = monotonic() + 5
    while (left := connections() + list(asyncio.all_tasks() - tasks)) and monotonic() < last:
        await asyncio.sleep(0.05)
    assert left == []
    assert transitions - {(before, State.CLOSED) for before in State} <= {
        (before, after) for before, followers in TRANSITIONS.items() for after in followers
    }


def assert_none(violations: list[str]) -> None:
    if violations:
        pytest.fail("\n\n".join(violations), pytrace=False)


def connections() -> list[Any]:
    """The connections that exist in this process. The garbage collector does not run: none may need it."""
    return [
        known
        for known in gc.get_objects()
        if isinstance(known, asyncio.Protocol) and type(known).__module__.startswith("service.")
    ]
