"""The access log: one line for each request.

A record of ``logging`` would cost a tenth of a read. So lines are formatted here, in the format of the other records.
"""

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from service.observability.logs import timestamp
from service.observability.seen import Kind, Seen

LOGGER: Final = "service.access"

# Processes that share a pipe may write this much without mixing their lines (POSIX's PIPE_BUF on Linux).
_MAX_WRITE: Final = 4096

_HEAD: Final = b" INFO    " + LOGGER.encode() + b": %-7b %-22b %d "
_TEXT: Final = b"%b%b%8.1f ms client=%b user_id=%b request_id=%b\n"


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
    """Writes the lines of several requests together."""

    def __init__(self, log_format: str, stream: BinaryIO) -> None:
        self._format = _as_json if log_format == "json" else _as_text
        self._stream = stream
        self._clock = Clock()

    def record(self, seen: Sequence[Seen]) -> None:
        self._clock.set()
        lines = self._format(seen, self._clock)
        start = 0
        while start < len(lines):
            # A line that is too long by itself is written by itself.
            end = 1 + max(lines.find(b"\n", start), lines.rfind(b"\n", start, start + _MAX_WRITE))
            self._stream.write(lines[start:end])
            self._stream.flush()
            start = end


class Clock:
    """Timestamps of ``time.perf_counter``. Requests that end in the same millisecond share one."""

    def __init__(self) -> None:
        self._millisecond = 0
        self._text = ""
        self.set()

    def set(self) -> None:
        """Follow the clock of the system."""
        self._epoch = time.time() - time.perf_counter()

    def timestamp(self, seconds: float) -> str:
        millisecond = int((self._epoch + seconds) * 1000)
        if millisecond != self._millisecond:
            self._millisecond, self._text = millisecond, timestamp(millisecond / 1000)
        return self._text


_encode_lines: Final = msgspec.json.Encoder().encode_lines


@lru_cache  # there are few kinds
def _head(kind: Kind) -> bytes:
    method, route, status = kind
    return _HEAD % (method.encode() or b"-", route.encode() or b"-", status)


def _as_text(seen: Sequence[Seen], clock: Clock) -> bytes:
    values: list[object] = []
    for kind, seconds, client, user_id, request_id, ended in seen:
        values += (
            clock.timestamp(ended).encode(),
            _head(kind),
            seconds * 1000,
            client.encode(),
            b"-" if user_id is None else b"%d" % user_id,
            request_id,
        )
    return _TEXT * len(seen) % tuple(values)  # all at once, which costs less than one by one


def _as_json(seen: Sequence[Seen], clock: Clock) -> bytes:
    return _encode_lines(
        [
            _Line(
                timestamp=clock.timestamp(ended),
                method=method or None,
                route=route or None,
                status=status,
                duration_ms=int(seconds * 100_000 + 0.5) / 100,  # round() takes four times as long
                client=client,
                user_id=user_id,
                request_id=request_id.decode(),
            )
            for (method, route, status), seconds, client, user_id, request_id, ended in seen
        ]
    )
