"""The access log: one line for each request.

A record of ``logging`` would cost a tenth of a read. So lines are formatted here, in the format of the other records.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from service.observability.logs import timestamp
from service.observability.seen import Kind, Seen

LOGGER: Final = "service.access"

# Seconds until a line is written.
_DELAY: Final = 0.01

# Bytes of one write. Processes that share a pipe may write this much without mixing their lines (POSIX's PIPE_BUF on
# Linux). One process writes less often, which saved half a microsecond for each request of a benchmark.
_MAX_SHARED_WRITE: Final = 4096
_MAX_WRITE: Final = 64 * 1024


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

    def __init__(self, log_format: str, stream: BinaryIO, *, shared: bool) -> None:
        """``shared``: other processes write to the stream, too."""
        self._format = _as_json if log_format == "json" else _as_text
        self._stream = stream
        self._max_write = _MAX_SHARED_WRITE if shared else _MAX_WRITE
        self._unwritten = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def record(self, seen: Sequence[Seen]) -> None:
        """Add the lines of requests that have just ended."""
        second, millisecond = divmod(int(time.time() * 1000), 1000)
        self._unwritten += self._format(seen, f"{_second(second)}{millisecond:03}Z")
        if not self._timer:
            self._timer = asyncio.get_running_loop().call_later(_DELAY, self.flush)
        if len(self._unwritten) > self._max_write:
            self._write(self._max_write)

    def flush(self) -> None:
        self._timer = None
        self._write(0)

    def _write(self, rest: int) -> None:
        """Write lines until at most ``rest`` bytes are left. If the stream fails, what it does not take is lost."""
        lines, self._unwritten = self._unwritten, bytearray()
        start = 0
        while len(lines) - start > rest:
            # A line that is too long by itself is written by itself.
            end = 1 + max(lines.find(b"\n", start), lines.rfind(b"\n", start, start + self._max_write))
            self._stream.write(lines[start:end])
            self._stream.flush()
            start = end
        self._unwritten = lines[start:]


# The parts of a line. Most lines consist of parts that earlier lines had, too.


@lru_cache(1)
def _second(second: int) -> str:
    """A timestamp up to its milliseconds."""
    return timestamp(second).removesuffix("000Z")


@lru_cache  # there are few kinds
def _head(kind: Kind) -> bytes:
    method, route, status = kind
    return b" INFO    %b: %-7b %-22b %d " % (LOGGER.encode(), method.encode() or b"-", route.encode() or b"-", status)


@lru_cache(1024)
def _duration(tenths: int) -> bytes:
    """``tenths`` of a millisecond."""
    return b"%8.1f ms" % (tenths / 10)


@lru_cache(1024)
def _origin(client: str, user_id: int | None) -> bytes:
    return b" client=%b user_id=%b request_id=" % (client.encode(), b"-" if user_id is None else b"%d" % user_id)


def _as_text(seen: Sequence[Seen], now: str) -> bytes:
    stamp = now.encode()
    parts: list[bytes] = []
    for kind, seconds, client, user_id, request_id in seen:
        parts += stamp, _head(kind), _duration(int(seconds * 10_000 + 0.5)), _origin(client, user_id), request_id, b"\n"
    return b"".join(parts)


_encode_lines: Final = msgspec.json.Encoder().encode_lines


def _as_json(seen: Sequence[Seen], now: str) -> bytes:
    return _encode_lines(
        [
            _Line(
                timestamp=now,
                method=method or None,
                route=route or None,
                status=status,
                duration_ms=int(seconds * 100_000 + 0.5) / 100,  # round() takes four times as long
                client=client,
                user_id=user_id,
                request_id=request_id.decode(),
            )
            for (method, route, status), seconds, client, user_id, request_id in seen
        ]
    )
