"""schemathesis, with all its checks, against the OpenAPI document and the running service; ``just fuzz`` for long."""

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import msgspec
import pytest

from tests.people import Person

SECONDS = 300


@pytest.mark.parametrize("who", ["somebody", "nobody"])
@pytest.mark.timeout(SECONDS + 10)
async def test_schemathesis_finds_nothing(
    pytestconfig: pytest.Config,
    address: str,
    alice: Person,
    mallory: Person,
    who: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for author in (alice, mallory, alice):
        await author.publish()
    report = tmp_path / "report.json"

    said = await run_schemathesis(
        # The address as well, because schemathesis takes the path of a relative server as it is: "/." of ".".
        *(f"{address}/openapi.json", "--url", address, "--checks", "all", "--continue-on-failure"),
        *(f"--max-examples={pytestconfig.option.fuzz_examples}", f"--seed={pytestconfig.option.fuzz_seed}"),
        # Nothing may depend on how fast the machine is, nor on an earlier run.
        *("--generation-deterministic", "--suppress-health-check=all"),
        *("--report=json", f"--report-json-path={report}", "--no-color"),
        *(("-H", f"Authorization: Bearer {alice.token}") if who == "somebody" else ()),
        directory=tmp_path,
    )

    result = msgspec.json.decode(report.read_bytes())
    print(f"\nschemathesis as {who}: {result['test_cases']['generated']} requests, seed {result['seed']}")  # noqa: T201
    assert (result["failures"], result["errors"], result["exit_code"]) == ([], [], 0), said
    assert result["test_cases"]["generated"] > 300
    assert result["operations"]["tested"] == result["operations"]["total"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def run_schemathesis(*arguments: str, directory: Path) -> str:
    """Run its command line; return what it says."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"), "run", *arguments, cwd=directory, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode()
