"""The command line of the benchmark: ``python -m tests.bench --help``."""

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from tests.bench import compare, concurrency, growth, processes, servers, soak, storm, workers
from tests.bench.answers import AnswersDiffer
from tests.bench.options import Options, progress
from tests.bench.processes import MissingProgram

MEASUREMENTS = {
    "compare": compare.measure,
    "concurrency": concurrency.measure,
    "growth": growth.measure,
    "storm": storm.measure,
    "workers": workers.measure,
    "soak": soak.measure,
}

# Cores, before anything was started.
BUSY = 0.1


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    options = _parse()
    servers.DIRECTORY.mkdir(parents=True, exist_ok=True)
    for log in servers.DIRECTORY.glob("*.log"):
        log.unlink()
    if (busy := processes.cores_in_use()) > BUSY:
        progress(f"Other programs use {busy:.1f} of this machine's cores: the figures will suffer.")
    try:
        processes.find("wrk")
        MEASUREMENTS[options.measurement](options)
    except (MissingProgram, AnswersDiffer) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped")


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("measurement", nargs="?", choices=MEASUREMENTS, default="compare")
    parser.add_argument("--quick", action="store_true", help="one short round, for a first impression")
    parser.add_argument("--seconds", type=int, help="how long one run takes")
    parser.add_argument("--rounds", type=int, help="how many runs the median is of")
    parser.add_argument("--route", action="append", default=[], help="compare: only the routes whose name has this")
    parser.add_argument("--server", action="append", default=[], help="compare: only this server beside the service")
    parser.add_argument("--minutes", type=float, default=10, help="soak: how long")
    parser.add_argument("--rate", type=int, default=1000, help="storm: reads a second beside the logins")
    parser.add_argument("--cores", default=processes.SERVER_CORE, help="storm: the service's cores, such as 0,1")
    parser.add_argument("--against", type=Path, help="concurrency: another checkout, whose service is asked as well")
    parser.add_argument("--svg", type=Path, default=servers.DIRECTORY / "result.svg", help="compare: the chart's place")
    given = parser.parse_args()
    given.seconds = given.seconds or (1 if given.quick else 5)
    given.rounds = given.rounds or (1 if given.quick else 3)
    del given.quick
    return Options(**vars(given))


def _leave(*_: object) -> NoReturn:
    """End as at the end of a block, so that every server and its database stop."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
