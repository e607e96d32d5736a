"""Random histories of connections, with a fixed seed; ``just fuzz-connections`` runs others at length."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import Serve
from tests.connections import phases
from tests.connections import service as services
from tests.connections.histories import draw
from tests.connections.phases import PHASES, SETTINGS
from tests.connections.service import Service

SEED = 1


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    made = Service(database_url, tmp_path / "log", **SETTINGS)
    yield made
    made.kill()


@pytest.mark.timeout(120)
async def test_connections_follow_the_model(service: Service, database_url: str, tmp_path: Path) -> None:
    await service.start()
    account = await services.register(service.address, "model")
    await services.insert_public_posts(database_url, account)
    histories = [draw(SEED, number, account) for number in range(60)]
    await phases.prepare(database_url, account, histories)
    [drain] = [phase for phase in PHASES if phase.name == "drain"]
    draining = asyncio.create_task(
        phases.run_phase(drain, SEED, account, database_url, tmp_path / "drain", None, at_once=30)
    )

    traces = await phases.play(histories, service.port, at_once=60)
    found = await phases.check_end(service)
    found += await phases.check(database_url, traces, phases.circumstances())
    found += await phases.stop(service, 3)
    _, found_by_draining = await draining

    if violations := found + found_by_draining:
        pytest.fail("\n\n".join(violations), pytrace=False)


@pytest.mark.timeout(120)
async def test_no_task_and_no_connection_is_left_in_the_process(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    address = await serve(create_app(settings))
    account = await services.register(address, "model")
    await services.insert_public_posts(database_url, account)
    histories = [
        history
        for history in (draw(SEED, number, account) for number in range(100))
        # Without those that end with a deadline: here no server runs that looks at the time.
        if history.ending != "wait" and history.is_complete and not history.stalls
    ]
    await phases.prepare(database_url, account, histories)
    tasks = asyncio.all_tasks()

    await phases.play(histories, int(address.rpartition(":")[2]), at_once=40)

    async with asyncio.timeout(5):
        while asyncio.all_tasks() - tasks or connections():
            await asyncio.sleep(0.05)


def connections() -> list[object]:
    """What the process holds of its clients. Nothing waits for the garbage collector: it is not asked."""
    return [
        known
        for known in gc.get_objects()
        if isinstance(known, asyncio.Protocol) and type(known).__module__.startswith("service.")
    ]
