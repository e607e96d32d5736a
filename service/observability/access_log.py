"""The access log: one line for each request.

A record of ``logging`` would cost a tenth of a read. So the lines of a moment are formatted and written together, in
the format of the other records.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final, TextIO

import msgspec
from msgspec import Struct

from service.observability.logs import timestamp

LOGGER: Final = "service.access"

# Seconds until a line is written.
DELAY: Final = 0.1

# Processes that share a pipe may write this much without mixing their lines (POSIX's PIPE_BUF on Linux).
_MAX_WRITE: Final = 4096

_TEXT: Final = f"%s INFO    {LOGGER}: %-7s %-22s %d %8.1f ms client=%s user_id=%s request_id=%s\n"


class Observation(Struct, gc=False):
    """A request that has been answered."""

    ended: float  # of time.perf_counter
    seconds: float
    method: str  # empty if no head has arrived
    route: str  # the template of its path; empty if there is no such route
    status: int
    client: str
    user_id: int | None
    request_id: str


class _Line(Struct, gc=False):
    timestamp: str
    method: str | None
    route: str | None
    status: int
    duration_ms: float
    client: str
    user_id: int | None
    request_id: str
    level: str = "info"
    logger: str = LOGGER
    message: str = "request"


class AccessLog:
    """Collects the lines of a moment."""

    def __init__(self, log_format: str, stream: TextIO) -> None:
        self._encode = _as_json if log_format == "json" else _as_text
        self._stream = stream
        self._observations: list[Observation] = []

    def record(self, observation: Observation) -> None:
        if not self._observations:
            asyncio.get_running_loop().call_later(DELAY, self.flush)
        self._observations.append(observation)

    def flush(self) -> None:
        """Write the lines, several at a time."""
        observations, self._observations = self._observations, []
        written: list[str] = []
        size = 0
        for line in self._encode(observations, time.time() - time.perf_counter()):
            if size + len(line) > _MAX_WRITE:
                self._stream.write("".join(written))
                written, size = [], 0
            written.append(line)
            size += len(line)
        self._stream.write("".join(written))
        self._stream.flush()


_encode_json: Final = msgspec.json.Encoder().encode


def _as_text(observations: Sequence[Observation], epoch: float) -> Iterator[str]:
    """``epoch`` is the time at which ``time.perf_counter`` was 0."""
    for seen, when in _timed(observations, epoch):
        user = "-" if seen.user_id is None else seen.user_id
        milliseconds = seen.seconds * 1000
        place = seen.method or "-", seen.route or "-", seen.status
        yield _TEXT % (when, *place, milliseconds, seen.client, user, seen.request_id)


def _as_json(observations: Sequence[Observation], epoch: float) -> Iterator[str]:
    for seen, when in _timed(observations, epoch):
        milliseconds = round(seen.seconds * 1000, 2)
        place = seen.method or None, seen.route or None, seen.status
        line = _Line(when, *place, milliseconds, seen.client, seen.user_id, seen.request_id)
        yield _encode_json(line).decode() + "\n"


def _timed(observations: Sequence[Observation], epoch: float) -> Iterator[tuple[Observation, str]]:
    """Each with its timestamp, which many have in common."""
    last, when = -1, ""
    for seen in observations:
        milliseconds = int((epoch + seen.ended) * 1000)
        if milliseconds != last:
            last, when = milliseconds, timestamp(milliseconds / 1000)
        yield seen, when
