"""The log records of a service that runs with ``LOG_FORMAT=json``."""

import asyncio
from asyncio.subprocess import Process
from typing import Any

import msgspec

from tests.processes import read_output

Record = dict[str, Any]


def parse(text: str) -> list[Record]:
    """The records of an output that contains nothing else."""
    return [msgspec.json.decode(line) for line in text.splitlines()]


async def stop(process: Process) -> list[Record]:
    """End a service, and return the records of its remaining output."""
    process.terminate()
    records = parse(await read_output(process))
    assert process.returncode == 0
    return records


async def read_record(process: Process, **fields: object) -> Record:
    """Read the output until a record has these fields."""
    assert process.stdout
    async with asyncio.timeout(30):
        while line := await process.stdout.readline():
            record: Record = msgspec.json.decode(line)
            if fields.items() <= record.items():
                return record
    raise AssertionError(f"the process ended without a record of {fields}")


def accesses(records: list[Record]) -> list[tuple[str | None, str | None, int, int | None]]:
    """Method, route, status and user of each line of the access log."""
    return [
        (record["method"], record["route"], record["status"], record["user_id"])
        for record in records
        if record["logger"] == "service.access"
    ]
