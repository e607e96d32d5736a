"""The machine and the versions, because the figures depend on them."""

import json
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from tests.bench import database, processes
from tests.bench.database import Postgres
from tests.bench.servers import PEERS


def describe(postgres: Postgres) -> dict[str, str]:
    """The lines below a table of figures."""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    locked = (PEERS / "requirements.txt").read_text()
    packages = json.loads((PEERS / "fastify" / "package.json").read_text())["dependencies"]
    return {
        "commit": _first_line("git", "describe", "--always", "--dirty", "--exclude=*"),
        "machine": f"{model[1] if model else platform.machine()}, {processes.ALL_CORES.count(',') + 1} cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": str(database.value(postgres.url("postgres"), "show server_version")),
        "service": ", ".join(
            f"{name} {version(name)}" for name in ("litestar", "uvicorn", "uvloop", "asyncpg", "msgspec")
        ),
        "peers": ", ".join(
            re.findall(r"^(?:fastapi|sqlalchemy|pydantic|starlette|asyncpg)==[\d.]+", locked, re.MULTILINE)
        ),
        "node": _first_line("node", "--version"),
        "node peer": ", ".join(f"{name} {pinned}" for name, pinned in packages.items()),
        "go": _first_line("go", "version"),
        "go peer": _first_line("dpkg-query", "--show", "golang-github-jackc-pgx-v4-dev").replace("\t", " "),
        "wrk": _first_line("wrk", "--version"),
    }


def _first_line(*command: str) -> str:
    """The first line that a program prints, whatever its exit code: wrk's is 1."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)  # noqa: S603 - our own commands
    except FileNotFoundError:
        return "not installed"
    return done.stdout.partition("\n")[0]
