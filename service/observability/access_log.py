"""The access log: one line for each request.

A record of ``logging`` would cost a tenth of a read. So lines are formatted here, in the format of the other records,
and those of a moment are written together.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TextIO, TypeAlias

import msgspec
from msgspec import Struct

from service.observability.logs import timestamp

LOGGER: Final = "service.access"

# Seconds until a line is written.
DELAY: Final = 0.1

# Processes that share a pipe may write this much without mixing their lines (POSIX's PIPE_BUF on Linux).
_MAX_WRITE: Final = 4096

_TEXT: Final = f"%s INFO    {LOGGER}: %-7s %-22s %d %8.1f ms client=%s user_id=%s request_id=%s\n"


# Method, template of the route, status, seconds, client, user id, request id. Texts that are not known are empty. A
# plain tuple, because an object of a class would cost more than all else here.
Seen: TypeAlias = tuple[str, str, int, float, str, int | None, str]


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
        self._format = _as_json if log_format == "json" else _as_text
        self._stream = stream
        self._lines: list[str] = []
        self._clock = Clock()

    def record(self, ended: float, seen: Seen) -> None:
        """Add a line. ``ended`` is of ``time.perf_counter``."""
        if not self._lines:
            asyncio.get_running_loop().call_later(DELAY, self.flush)
        self._lines.append(self._format(self._clock.timestamp(ended), seen))

    def flush(self) -> None:
        """Write the lines, several at a time."""
        lines, self._lines = self._lines, []
        written: list[str] = []
        size = 0
        for line in lines:
            if size + len(line) > _MAX_WRITE:
                self._stream.write("".join(written))
                written, size = [], 0
            written.append(line)
            size += len(line)
        self._stream.write("".join(written))
        self._stream.flush()
        self._clock.set()


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
    method, route, status, seconds, client, user_id, request_id = seen
    user = "-" if user_id is None else user_id
    return _TEXT % (when, method or "-", route or "-", status, seconds * 1000, client, user, request_id)


def _as_json(when: str, seen: Seen) -> str:
    method, route, status, seconds, client, user_id, request_id = seen
    milliseconds = int(seconds * 100_000 + 0.5) / 100  # round() takes four times as long
    line = _Line(when, method or None, route or None, status, milliseconds, client, user_id, request_id)
    return _encode(line).decode() + "\n"
