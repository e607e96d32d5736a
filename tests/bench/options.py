"""The options of a measurement, and the output of its progress and results."""

import sys
from pathlib import Path

from msgspec import Struct


class Options(Struct, frozen=True, kw_only=True):
    """The options of the command line."""

    measurement: str = "compare"
    seconds: int
    rounds: int
    route: list[str]
    server: list[str]
    minutes: float
    rate: int
    cores: str
    against: Path | None
    svg: Path


def progress(text: str) -> None:
    """Print a line about the progress."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def table(*rows: tuple[str, ...]) -> None:
    """Print rows as a Markdown table: the first row is the header, and all columns but the first are right-aligned."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    title, *below = (
        (name.ljust(first), *(figure.rjust(width) for figure, width in zip(figures, others, strict=True)))
        for name, *figures in rows
    )
    line = ("-" * first, *("-" * (width - 1) + ":" for width in others))
    for cells in (title, line, *below):
        print(f"| {' | '.join(cells)} |")  # noqa: T201
    print(flush=True)  # noqa: T201
