"""Runs in turn, so that a temporary disturbance of the machine affects all servers alike."""

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from tests.bench.options import Options, progress
from tests.bench.wrk import Figures

Name = TypeVar("Name", bound=Hashable)

WARM_UP_SECONDS = 2


def in_turn(title: str, runs: Mapping[Name, Callable[[int], Figures]], options: Options) -> dict[Name, Figures]:
    """Repeat all runs, round after round. A run gets its duration in seconds. Returns the median of each."""
    for run in runs.values():
        # Warm up Node's compiler, and the connections and prepared statements of all servers.
        run(min(WARM_UP_SECONDS, options.seconds))
    figures: dict[Name, list[Figures]] = {name: [] for name in runs}
    for number in range(1, options.rounds + 1):
        for name, run in runs.items():
            figures[name].append(run(options.seconds))
            rate = figures[name][-1].requests_per_second
            progress(f"{title}: {name}: round {number} of {options.rounds}: {rate:,.0f} requests/s")
    return {name: Figures.median(of_one) for name, of_one in figures.items()}
