"""``just psql``: psql on the database of ``DATABASE_URL``, of ``just up`` or of ``just compose-up``."""

import signal
import subprocess
import sys

from service import __main__ as commands
from service.development import target
from service.development.errors import EmbeddedError


def main(arguments: list[str]) -> None:
    commands.handle_stop_signals(commands.exit_on_signal)
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))  # Ctrl-C is for psql
    try:
        with target.existing() as found:
            print(f"Database  {found.where}", file=sys.stderr, flush=True)  # noqa: T201 - for the person
            command = found.command("psql", *arguments)
            if sys.stdin.isatty() and found.in_container:
                command.remove("--no-TTY")
            status = subprocess.run(command, env=found.environment, check=False).returncode  # noqa: S603
    except EmbeddedError as error:
        commands.fail(str(error))
    # `just` prints an error if it was interrupted and the status is 0.
    raise SystemExit(status or (128 + signal.SIGINT if interrupts else 0))


if __name__ == "__main__":
    main(sys.argv[1:])
