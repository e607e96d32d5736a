"""The access log: one line for each request.

A record of ``logging`` would cost a tenth of a read. So lines are formatted here, in the format of the other records.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, TextIO

import msgspec
from msgspec import Struct

from service.observability.logs import timestamp
from service.observability.seen import Seen

LOGGER: Final = "service.access"

# Processes that share a pipe may write this much without mixing their lines (POSIX's PIPE_BUF on Linux).
_MAX_WRITE: Final = 4096

_TEXT: Final = f"%s INFO    {LOGGER}: %-7s %-22s %d %8.1f ms client=%s user_id=%s request_id=%s\n"


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

    def __init__(self, log_format: str, stream: TextIO) -> None:
        self._format = _as_json if log_format == "json" else _as_text
        self._stream = stream
        self._clock = Clock()

    def record(self, seen: Sequence[Seen]) -> None:
        self._clock.set()
        written: list[str] = []
        size = 0
        for one in seen:
            line = self._format(self._clock.timestamp(one[-1]), one)
            if size + len(line) > _MAX_WRITE:
                self._stream.write("".join(written))
                written, size = [], 0
            written.append(line)
            size += len(line)
        self._stream.write("".join(written))
        self._stream.flush()


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


_encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


def _as_text(when: str, seen: Seen) -> str:
    method, route, status, seconds, client, user_id, request_id, _ = seen
    user = "-" if user_id is None else user_id
    return _TEXT % (when, method or "-", route or "-", status, seconds * 1000, client, user, request_id.decode())


def _as_json(when: str, seen: Seen) -> str:
    method, route, status, seconds, client, user_id, request_id, _ = seen
    milliseconds = int(seconds * 100_000 + 0.5) / 100  # round() takes four times as long
    line = _Line(when, method or None, route or None, status, milliseconds, client, user_id, request_id.decode())
    return _encode(line).decode() + "\n"
