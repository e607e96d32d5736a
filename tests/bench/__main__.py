"""The command line of the benchmark: ``python -m tests.bench --help``."""

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from tests.bench import compare, concurrency, growth, processes, servers, soak, storm, workers
from tests.bench.options import Options, progress
from tests.bench.processes import MissingProgram
from tests.bench.responses import ResponsesDiffer

MEASUREMENTS = {
    "compare": compare.measure,
    "concurrency": concurrency.measure,
    "growth": growth.measure,
    "storm": storm.measure,
    "workers": workers.measure,
    "soak": soak.measure,
}

# Cores that other programs may use before the benchmark starts.
MAX_BUSY_CORES = 0.1


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    options = _parse()
    servers.DIRECTORY.mkdir(parents=True, exist_ok=True)
    for log in servers.DIRECTORY.glob("*.log"):
        log.unlink()
    if (busy := processes.cores_in_use()) > MAX_BUSY_CORES:
        progress(f"Other programs use {busy:.1f} of this machine's cores: the figures will be lower.")
    try:
        processes.find("wrk")
        MEASUREMENTS[options.measurement](options)
    except (MissingProgram, ResponsesDiffer) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped")


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("measurement", nargs="?", choices=MEASUREMENTS, default="compare")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--seconds", type=int, help="the duration of a run")
    parser.add_argument("--rounds", type=int, help="the number of runs; the median counts")
    parser.add_argument("--route", action="append", default=[], help="compare: only routes whose name contains this")
    parser.add_argument("--server", action="append", default=[], help="compare: only this server and the service")
    parser.add_argument("--minutes", type=float, default=10, help="soak: the duration")
    parser.add_argument("--rate", type=int, default=1000, help="storm: reads per second during the logins")
    parser.add_argument("--cores", default=processes.SERVER_CORE, help="storm: the cores of the service, such as 0,1")
    parser.add_argument("--against", type=Path, help="compare, concurrency: another checkout, instead of the peers")
    parser.add_argument(
        "--svg", type=Path, default=servers.DIRECTORY / "result.svg", help="compare: the file of the chart"
    )
    given = parser.parse_args()
    given.seconds = given.seconds or (1 if given.quick else 5)
    given.rounds = given.rounds or (1 if given.quick else 3)
    del given.quick
    return Options(**vars(given))


def _interrupt(*_: object) -> NoReturn:
    """Leave every `with` block, so that every server and its database stop."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
