"""``just psql``: psql on the database of ``just up``, else on that of ``just compose-up``."""

import os
import signal
import subprocess
import sys

from service import settings
from service.development import data_directory, programs

INTERRUPTED = 128 + signal.SIGINT


def main(arguments: list[str]) -> None:
    data = settings.data_directory() / "postgres"
    if url := os.environ.get("DATABASE_URL", "").strip().replace("postgresql+asyncpg://", "postgresql://", 1):
        where, command = "DATABASE_URL", [str(programs.program("psql")), url]
    elif url := data_directory.url_of(data) or "":
        where, command = f"`just up`, its data in {data}", [str(programs.program("psql")), url]
    else:
        where = "`just compose-up`, because `just up` does not run"
        command = ["docker", "compose", "exec", "db", "psql", "-U", "app_user", "-d", "app_db"]
    print(f"Database  {where}", file=sys.stderr, flush=True)  # noqa: T201 - for the person at the terminal
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))  # Ctrl-C is for psql
    try:
        status = subprocess.run([*command, *arguments], check=False).returncode  # noqa: S603
    except FileNotFoundError as error:
        raise SystemExit(f"{command[0]} is not installed: run `just up` in another terminal instead") from error
    # `just` prints an error if it was interrupted and the status is 0.
    raise SystemExit(status or (INTERRUPTED if interrupts else 0))


if __name__ == "__main__":
    main(sys.argv[1:])
