"""schemathesis runs all its checks on the OpenAPI document and the running service; ``just fuzz`` runs it at length."""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tests.people import Person

SECONDS = 300
EXAMPLES = 5  # unless `just fuzz` asks for more

# A valid If-Match need not match: the default has no 412.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 412, 429, "5xx"]
"""


@pytest.fixture
def run_schemathesis(tmp_path: Path, repository: Path) -> Callable[..., Awaitable[str]]:
    """Runs schemathesis with command-line arguments, and returns its output."""

    async def run(*arguments: str) -> str:
        (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            "run",
            *arguments,
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks", "PYTHONPATH": str(repository)},
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            async with asyncio.timeout(SECONDS):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return output.decode()

    return run


@pytest.mark.long
@pytest.mark.parametrize("caller", ["a user", "nobody"])
@pytest.mark.timeout(SECONDS + 10)
async def test_schemathesis_finds_no_failure(
    pytestconfig: pytest.Config,
    run_schemathesis: Callable[..., Awaitable[str]],
    address: str,
    alice: Person,
    mallory: Person,
    caller: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for author in (alice, mallory, alice):
        await author.publish()
    report = tmp_path / "report.json"
    # Most operations answer 401 to nobody, and the others answer as they do to a user, whom all phases test.
    short = caller == "nobody" and pytestconfig.option.fuzz_examples == EXAMPLES

    output = await run_schemathesis(
        # With the address, because schemathesis does not resolve the relative server: it takes "/." of ".".
        *(f"{address}/openapi.json", "--url", address, "--checks", "all", "--continue-on-failure"),
        *(f"--max-examples={pytestconfig.option.fuzz_examples}", f"--seed={pytestconfig.option.fuzz_seed}"),
        *(("--phases=coverage",) if short else ()),
        # The result must depend neither on the speed of the machine nor on an earlier run.
        *("--generation-deterministic", "--suppress-health-check=all"),
        *("--report=json", f"--report-json-path={report}", "--no-color"),
        *(("-H", f"Authorization: Bearer {alice.token}") if caller == "a user" else ()),
    )

    result = msgspec.json.decode(report.read_bytes())
    print(f"\nschemathesis as {caller}: {result['test_cases']['generated']} requests, seed {result['seed']}")  # noqa: T201
    assert (result["failures"], result["errors"], result["exit_code"]) == ([], [], 0), output
    assert result["test_cases"]["generated"] > 300
    assert result["operations"]["tested"] == result["operations"]["total"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
