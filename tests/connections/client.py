"""Plays a history on a raw socket, and records what happened and when."""

import asyncio
import re
import socket
import struct
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Final

from msgspec import Struct, field

from tests.connections.histories import NEVER, History

SMALL: Final = 4096  # bytes of a small receive buffer
CONTINUE_SECONDS: Final = 1.2
HOLD_SECONDS: Final = 9  # longer than a server lingers
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds
STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*")
FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([ -~\t]*)")


class Response(Struct):
    status: int
    headers: dict[str, str]
    continued: int = 0  # the number of 100 Continue before it
    body: bytes = b""
    ended: float = 0  # the time when it was complete
    end: int = 0  # bytes received by then

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Responses:
    """Parses what a server sends. Raises ``ValueError`` for bytes that are not a response."""

    def __init__(self, methods: Sequence[str]) -> None:
        self.methods = methods
        self.complete: list[Response] = []
        self.size = 0
        self.received: list[tuple[float, int]] = []  # the time, and all bytes received by then
        self.continued = 0  # the number of 100 Continue since the last response
        self._rest = bytearray()
        self._current: Response | None = None
        self._ignores_rest = False
        self._length = 0

    @property
    def is_partial(self) -> bool:
        return bool(self._rest) or self._current is not None

    def feed(self, data: bytes, now: float) -> None:
        if self._ignores_rest:
            return
        self._rest += data
        self.size += len(data)
        self.received.append((now, self.size))
        while self._feed_head() if self._current is None else self._feed_body(self._current, now):
            pass

    def _feed_head(self) -> bool:
        if (end := self._rest.find(b"\r\n\r\n")) < 0:
            return False
        head, self._rest = bytes(self._rest[:end]), self._rest[end + 4 :]
        line, *fields = head.split(b"\r\n")
        if not (found := STATUS_LINE.fullmatch(line)):
            raise ValueError(f"not a status line: {line[:100]!r}")
        headers = {}
        for one in fields:
            if not (parts := FIELD.fullmatch(one)):
                raise ValueError(f"not a header field: {one[:100]!r}")
            headers[parts[1].decode().lower()] = parts[2].decode()
        response = Response(int(found[1]), headers)
        if response.status == 100:
            self.continued += 1
            return True
        response.continued, self.continued = self.continued, 0
        number = len(self.complete)
        bodiless = response.status in {204, 304} or (number < len(self.methods) and self.methods[number] == "HEAD")
        if bodiless and response.closes:
            # A response to a malformed HEAD may have a body: the server did not parse the method.
            self._ignores_rest, self._rest = True, bytearray()
        if not bodiless and not headers.get("content-length", "").isdigit():
            raise ValueError(f"a response without a length: {head[:300]!r}")
        self._length = 0 if bodiless else int(headers["content-length"])
        self._current = response
        return True

    def _feed_body(self, response: Response, now: float) -> bool:
        if len(self._rest) < self._length:
            return False
        response.body, self._rest = bytes(self._rest[: self._length]), self._rest[self._length :]
        response.ended, response.end = now, self.size - len(self._rest)
        self.complete.append(response)
        self._current = None
        return bool(self._rest)


class Trace(Struct):
    """The record of a connection. Times are of the monotonic clock."""

    history: History
    responses: Responses
    opened: float = 0
    port: int = 0  # the client's
    sends: list[tuple[float, float, int]] = field(default_factory=list)  # before, after, and all bytes sent by then
    # "eof" and "reset": by the server. "closed" and "left": by the client, after the last response or before it.
    # "refused" and "hung": not at all. "garbage": by bytes that are not a response. "held": the server has sent its
    # FIN, but does not close its socket.
    ended: str = ""
    ended_at: float = 0
    send_failed_at: float = 0
    half_closed_at: float = 0
    stalls: list[tuple[float, float]] = field(default_factory=list)
    without_continue: list[int] = field(default_factory=list)  # messages that got nothing within CONTINUE_SECONDS
    note: str = ""

    @property
    def sent(self) -> int:
        return self.sends[-1][2] if self.sends else 0

    def describe(self) -> str:
        lines = [self.history.describe(), f"  sent {self.sent} of {len(self.history.data)} bytes"]
        lines += [
            f"  +{response.ended - self.opened:.3f}s {response.status} {response.headers} {response.body[:200]!r}"
            for response in self.responses.complete
        ]
        sends = [f"{after - self.opened:.3f}:{size}" for _, after, size in self.sends]
        if len(sends) > 40:
            sends[20:-20] = ["…"]
        partial = ", in the middle of a response" if self.responses.is_partial else ""
        times = [
            f"{name} at +{at - self.opened:.3f}s"
            for name, at in [
                (self.ended + partial, self.ended_at),
                ("half-closed", self.half_closed_at),
                ("send failed", self.send_failed_at),
                *[(f"did not read for {stop - start:.1f} s", start) for start, stop in self.stalls],
            ]
            if at
        ]
        return "\n".join([*lines, f"  sends: {' '.join(sends)}", f"  {'; '.join(times)} {self.note}"])


class Client:
    """One connection. ``patience`` is its limit in seconds, ``stall`` the length of the pause ``NEVER``."""

    def __init__(self, history: History, port: int, *, patience: float, stall: float) -> None:
        self.history = history
        self.port = port
        self.patience = patience
        self.stall = stall
        self.trace = Trace(history, Responses([message.method for message in history.messages]))
        self.socket = socket.socket()
        self.progress = asyncio.Condition()
        self.loop = asyncio.get_running_loop()

    async def play(self) -> Trace:
        trace = self.trace
        try:
            async with asyncio.timeout(self.patience):
                await self._play()
        except TimeoutError:
            self._end("hung")
        except OSError as error:
            self._end("refused", repr(error))
        finally:
            self.socket.close()
        return trace

    def _end(self, how: str, note: str = "") -> None:
        if not self.trace.ended:
            self.trace.ended, self.trace.ended_at, self.trace.note = how, monotonic(), note

    async def _play(self) -> None:
        self.socket.setblocking(False)  # noqa: FBT003 - as the method is
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.history.small_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        self.trace.opened = monotonic()
        await self.loop.sock_connect(self.socket, ("127.0.0.1", self.port))
        self.trace.port = self.socket.getsockname()[1]
        reading = asyncio.create_task(self._read())
        try:
            await self._send()
            match self.history.ending:
                case "reset":
                    await asyncio.sleep(self.history.linger)
                    self._end("left", "reset")
                    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                case "leave":
                    self._end("left")
                case "close":
                    await self._wait_for(lambda: self._is_answered)
                    self._end("closed")
                case ending:
                    if ending == "half" and not self.trace.ended and not self.trace.send_failed_at:
                        self.trace.half_closed_at = monotonic()
                        self.socket.shutdown(socket.SHUT_WR)
                    await reading
                    if self.history.holds and self.trace.ended == "eof":
                        await self._hold()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _hold(self) -> None:
        """Check that the server closes its socket after its FIN."""
        await asyncio.sleep(HOLD_SECONDS)
        try:
            for _ in range(2):  # the first is answered by a reset
                await self.loop.sock_sendall(self.socket, b"x")
                await asyncio.sleep(0.1)
        except OSError:
            return
        self.trace.ended = "held"

    @property
    def _is_closing(self) -> bool:
        """Whether a response or its request has announced the close."""
        complete = self.trace.responses.complete
        last = self.history.messages[len(complete) - 1] if 0 < len(complete) <= len(self.history.messages) else None
        return bool(last and (last.closes or complete[-1].closes))

    @property
    def _is_answered(self) -> bool:
        return self._is_closing or len(self.trace.responses.complete) >= len(self.history.messages)

    async def _wait_for(self, holds: Callable[[], bool]) -> None:
        async with self.progress:
            await self.progress.wait_for(lambda: bool(self.trace.ended) or holds())

    async def _send(self) -> None:
        data, sent = self.history.data, 0
        for segment in self.history.segments:
            if (self.history.stops_at_close and self._is_closing) or self.trace.send_failed_at:
                break
            if segment.end > sent:
                before = monotonic()
                # Until the call returns, and if it fails, the number of bytes that were sent is unknown.
                self.trace.sends.append((before, inf, segment.end))
                try:
                    await self.loop.sock_sendall(self.socket, data[sent : segment.end])
                except OSError as error:
                    self.trace.send_failed_at, self.trace.note = monotonic(), repr(error)
                    break
                sent = segment.end
                self.trace.sends[-1] = before, monotonic(), sent
            if segment.waits:
                await self._wait_for_continue(sent)
            if segment.pause:
                await asyncio.sleep(segment.pause)

    async def _wait_for_continue(self, sent: int) -> None:
        """Wait for 100 Continue or the response, for a limited time as clients do."""
        before = sum(start < sent for start, _ in self.history.spans()) - 1
        responses = self.trace.responses

        def responded() -> bool:
            answered = len(responses.complete)
            return self._is_closing or answered > before or (answered == before and responses.continued > 0)

        try:
            async with asyncio.timeout(CONTINUE_SECONDS):
                await self._wait_for(responded)
        except TimeoutError:
            self.trace.without_continue.append(before)

    async def _read(self) -> None:
        stalls = list(self.history.stalls)
        try:
            while not self.trace.ended:
                if stalls and self.trace.responses.size >= stalls[0][0]:
                    _, seconds = stalls.pop(0)
                    started = monotonic()
                    self.trace.stalls.append((started, inf))
                    await asyncio.sleep(self.stall if seconds == NEVER else seconds)
                    self.trace.stalls[-1] = started, monotonic()
                data = await self.loop.sock_recv(self.socket, 1 << 16)
                async with self.progress:
                    if data:
                        self.trace.responses.feed(data, monotonic())
                    else:
                        self._end("eof")
                    self.progress.notify_all()
        except ValueError as error:
            self._end("garbage", str(error))
        except OSError as error:
            self._end("reset", repr(error))
        async with self.progress:
            self.progress.notify_all()
