"""The access log: one line for each request.

A record of ``logging`` would cost a tenth of a read. So lines are formatted here, in the format of the other records.
Most parts of a line are parts of other lines, too, and are formatted once, see ``recording.py``.
"""

import asyncio
import time
from typing import Any, BinaryIO, Final

import msgspec

from service.observability.logs import timestamp

LOGGER: Final = "service.access"

# Seconds until a line is written.
_DELAY: Final = 0.01

# Bytes of one write. Processes that share a pipe may write this much without mixing their lines (POSIX's PIPE_BUF on
# Linux). One process writes less often, which saved half a microsecond for each request of a benchmark.
_MAX_SHARED_WRITE: Final = 4096
_MAX_WRITE: Final = 64 * 1024


class Text:
    """The parts of a line for people, in their order. The time is behind the start, the request id before the end."""

    start = b""
    end = b"\n"

    def head(self, method: str, route: str, status: int) -> bytes:
        return f" INFO    {LOGGER}: {method or '-':7} {route or '-':22} {status} ".encode()

    def duration(self, milliseconds: float) -> bytes:
        return b"%8.1f ms" % milliseconds

    def origin(self, client: str, user_id: int | None) -> bytes:
        return f" client={client} user_id={'-' if user_id is None else user_id} request_id=".encode()


def _members(**members: Any) -> bytes:
    return msgspec.json.encode(members)[1:-1]


class Json:
    """The parts of a JSON object, in the order of those of ``Text``."""

    start = b'{"timestamp":"'
    end = b'",' + _members(level="info", logger=LOGGER, message="request") + b"}\n"

    def head(self, method: str, route: str, status: int) -> bytes:
        return b'",' + _members(method=method or None, route=route or None, status=status)

    def duration(self, milliseconds: float) -> bytes:
        return b',"duration_ms":%.1f' % milliseconds

    def origin(self, client: str, user_id: int | None) -> bytes:
        return b"," + _members(client=client, user_id=user_id) + b',"request_id":"'


class AccessLog:
    """Writes the lines of several requests together."""

    def __init__(self, log_format: str, stream: BinaryIO, *, shared: bool) -> None:
        """``shared``: other processes write to the stream, too."""
        self.line = Json() if log_format == "json" else Text()
        self._stream = stream
        self._max_write = _MAX_SHARED_WRITE if shared else _MAX_WRITE
        self._unwritten: list[bytes] = []
        self._size = 0  # of what is unwritten
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0
        self._until_millisecond = b""  # of a line in this second
        self._until_time = b""  # of a line in this millisecond, its time included
        self._millisecond_ends = 0.0  # on the clock of ``time.perf_counter``

    def start(self, now: float) -> bytes:
        """The start of a line, with its time. ``now`` is the ``time.perf_counter``."""
        if now >= self._millisecond_ends:
            seconds = time.time()
            second, millisecond = divmod(int(seconds * 1000), 1000)
            if second != self._second:
                self._second = second
                self._until_millisecond = self.line.start + timestamp(second).removesuffix("000Z").encode()
            self._until_time = b"%b%03dZ" % (self._until_millisecond, millisecond)
            self._millisecond_ends = now + second + (millisecond + 1) / 1000 - seconds
        return self._until_time

    def add(self, lines: bytes) -> None:
        """Add one line or several."""
        if self._size + len(lines) > self._max_write:
            self._write()
        self._unwritten.append(lines)
        self._size += len(lines)
        if not self._timer:
            self._timer = asyncio.get_running_loop().call_later(_DELAY, self.flush)

    def flush(self) -> None:
        self._timer = None
        self._write()

    def _write(self) -> None:
        """Write all lines. If the stream fails, what it does not take is lost."""
        lines = b"".join(self._unwritten)
        self._unwritten.clear()
        self._size = start = 0
        while start < len(lines):
            # A line that is too long by itself is written by itself.
            end = 1 + max(lines.find(b"\n", start), lines.rfind(b"\n", start, start + self._max_write))
            self._stream.write(lines[start:end])
            self._stream.flush()
            start = end
