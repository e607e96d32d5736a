"""The numbers of one process. Every second it publishes them, see ``snapshots.py``."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from service.observability.families import FAMILIES, REQUESTS

Labels: TypeAlias = tuple[str, ...]

# One number; of a histogram the count of each bucket, the last for all larger values, and then the sum.
Numbers: TypeAlias = list[float]

# The numbers by the name of the family and the values of its labels. The numbers of several processes add up.
Snapshot: TypeAlias = dict[str, dict[Labels, Numbers]]

Sample: TypeAlias = tuple[str, Labels, float]

METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Histogram:
    """Counts values by the buckets of a family."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._bounds = FAMILIES[name].buckets
        self.numbers: dict[Labels, Numbers] = {}

    def cell(self, labels: Labels) -> Numbers:
        if labels not in self.numbers:
            self.numbers[labels] = [0.0] * (len(self._bounds) + 2)
        return self.numbers[labels]

    def observe(self, cell: Numbers, value: float) -> None:
        cell[bisect_left(self._bounds, value)] += 1
        cell[-1] += value


class Metrics:
    """Counts requests, and collects what other parts of the process count."""

    def __init__(self, before: Snapshot) -> None:
        """``before`` has the numbers of the worker that this one replaces: a counter must not fall."""
        self._before = {name: numbers for name, numbers in before.items() if FAMILIES[name].kind != "gauge"}
        self._requests = Histogram(REQUESTS)
        self.histograms: list[Histogram] = [self._requests]
        self.sources: list[Callable[[], Iterable[Sample]]] = []

    def numbers_of(self, method: str, route: str, status: int) -> Numbers:
        """The numbers of requests of one kind."""
        return self._requests.cell((method if method in METHODS else "other", route or "none", str(status)))

    def snapshot(self) -> Snapshot:
        now: Snapshot = {histogram.name: histogram.numbers for histogram in self.histograms}
        for source in self.sources:
            for name, labels, value in source():
                now.setdefault(name, {})[labels] = [float(value)]
        return add([self._before, now])


def add(snapshots: Iterable[Snapshot]) -> Snapshot:
    total: Snapshot = {}
    for snapshot in snapshots:
        for name, cells in snapshot.items():
            family = total.setdefault(name, {})
            for labels, numbers in cells.items():
                family[labels] = (
                    [a + b for a, b in zip(family[labels], numbers, strict=True)] if labels in family else [*numbers]
                )
    return total
