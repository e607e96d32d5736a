"""The model: what a server may do on a connection, given the input and the faults of the service."""

import json
from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Final

from msgspec import Struct, field

from tests.connections.client import Response, Trace
from tests.connections.messages import Message

# The times of the clients are never shorter than the server's. The rest is the precision of its clock.
EARLY: Final = 0.1
LATE: Final = 4  # seconds that a busy machine may add to any limit
LINGER: Final = 4  # the shortest time in seconds for which a server discards input after its last response
KERNEL_BUFFERS: Final = 5_000_000  # the most bytes in the kernel for a client with a small receive buffer
RECOVERY: Final = 2  # seconds after which the database is used again
IN_FLIGHT: Final = 5  # seconds for the requests that run when the drain ends
SIGNAL: Final = 1  # seconds until a signal has reached every worker


class Circumstances(Struct):
    """The faults of the service, in the time of the clients."""

    client_timeout: float
    keep_alive: float
    overload: bool = False
    terminated: float = inf  # the first SIGTERM
    drained: float = inf  # the end of the drain
    away: list[tuple[float, float]] = field(default_factory=list)  # the database
    stopped: list[tuple[float, float]] = field(default_factory=list)  # the process, by SIGSTOP
    # Processes that were killed: the time, and the ports of their clients, or ``None`` for all.
    killed: list[tuple[float, set[int] | None]] = field(default_factory=list)

    def elapsed(self, start: float, end: float) -> float:
        """Seconds, without those in which the process was stopped."""
        return end - start - sum(max(0, min(end, stop) - max(start, begin)) for begin, stop in self.stopped)

    def is_away(self, start: float, end: float) -> bool:
        return any(begin < end and start < stop + RECOVERY for begin, stop in self.away)


class Stored(Struct):
    """The contents of the database: the number of posts with each title, and the ids of posts to delete that remain."""

    titles: Counter[str]
    ids: set[int]

    def executions(self, message: Message) -> int:
        if message.method == "DELETE":
            return message.post_id not in self.ids
        return self.titles[message.marker]


class Checker:
    """Compares one connection with the model."""

    def __init__(self, trace: Trace, around: Circumstances, stored: Stored) -> None:
        self.trace = trace
        self.around = around
        self.stored = stored
        self.messages = trace.history.messages
        self.spans = trace.history.spans()
        self.over = ""  # why no further response is due
        self.not_executed = False  # no further request may be executed either
        self.closed_at = inf  # the time of the response that announces the close

    def violations(self) -> Iterator[str]:
        trace = self.trace
        if trace.ended == "held" and not self.around.stopped:  # deadlines do not pass while the process is stopped
            yield "the server has sent its FIN and still has the connection"
        if trace.ended == "garbage":
            yield f"the server sent something that is not a response: {trace.note}"
        if trace.ended == "refused":
            if trace.opened < self.around.drained - EARLY and not self._was_killed():
                yield f"the connection was refused: {trace.note}"
            return
        if trace.ended == "hung" and not self._was_killed():
            yield "the connection hangs"
        # A message that was sent after the end of the connection does not count.
        started = [number for number in range(len(self.messages)) if self._first_byte(number) < trace.ended_at]
        for number, message in enumerate(self.messages):
            yield from (f"message {number} ({message}): {what}" for what in self._check(number, message))
        if len(trace.responses.complete) > len(started):
            extra = [response.status for response in trace.responses.complete[len(started) :]]
            yield f"{len(started)} requests, and {extra} after their responses"
        yield from self._check_end(len(started))

    # Times of a message. The server's own times lie between them.

    def _first_byte(self, number: int) -> float:
        start = self.spans[number][0]
        return next((before for before, _, size in self.trace.sends if size > start), inf)

    def _last_byte(self, number: int) -> float:
        """The latest time at which the message was complete."""
        return next((after for _, after, size in self.trace.sends if size >= self.spans[number][1]), inf)

    def _may_be_complete(self, number: int) -> bool:
        return bool(self.trace.sends) and self.trace.sent >= self.spans[number][1]

    def _idle_since(self, number: int) -> float:
        """The earliest time at which the server can have started to wait for this message."""
        if number == 0:
            return self.trace.opened
        end = self.spans[number - 1][1]
        sent = next((before for before, _, size in self.trace.sends if size >= end), inf)
        responses = self.trace.responses
        if not self.trace.history.small_buffer or number > len(responses.complete):
            return sent
        # Bytes that the client had not received, beyond those that fit into the kernel, were still in the server.
        left = responses.complete[number - 1].end - KERNEL_BUFFERS
        if left <= 0:
            return sent
        return max(sent, next(at for at, size in responses.received if size >= left))

    def _is_late(self, number: int) -> bool:
        """Whether the message took longer than the timeout, or is incomplete."""
        last = min(self._last_byte(number), self.trace.ended_at)
        return self.around.elapsed(self._first_byte(number), last) >= self.around.client_timeout - self._slack

    @property
    def _slack(self) -> float:
        # After a stop, the process counts in ticks of its own.
        return 1 if self.around.stopped else EARLY

    def _was_idle(self, number: int) -> bool:
        """Whether the server can have closed the idle connection before this message arrived."""
        limit = self.around.keep_alive if number else min(self.around.keep_alive, self.around.client_timeout)
        return self.around.elapsed(self._idle_since(number), self._first_byte(number)) >= limit - self._slack

    def _was_killed(self) -> bool:
        ended, port = self.trace.ended_at, self.trace.port
        return any(at <= ended and (ports is None or port in ports) for at, ports in self.around.killed)

    def _stopped_reading(self) -> bool:
        """Whether the server can have seen no progress for too long, as reads first empty the kernel's buffers."""
        started, read = 0.0, -KERNEL_BUFFERS
        for start, end in self.trace.stalls:
            received = max((size for at, size in self.trace.responses.received if at <= start), default=0)
            if received > read + KERNEL_BUFFERS:
                started, read = start, received
            if end - started >= self.around.client_timeout - EARLY:
                return True
        return False

    def _was_slow_at_the_end(self) -> bool:
        """Whether the client still had to read when the server's time to stop was over."""
        return bool(self.trace.stalls) and self.trace.ended_at > self.around.drained + IN_FLIGHT - EARLY

    def _took_longer(self, start: float, end: float, limit: float) -> bool:
        return self.around.elapsed(start, end) > limit + LATE and not self.trace.stalls

    # One message.

    def _check(self, number: int, message: Message) -> Iterator[str]:
        complete = self._may_be_complete(number)
        responses = self.trace.responses.complete
        response = responses[number] if number < len(responses) else None
        if response and self.over and self.not_executed:
            yield f"{response.status} although {self.over}"
        elif response:
            yield from self._check_response(number, message, response)
        elif not self.over:
            yield from self._check_missing(number)
        if message.marker or message.method == "DELETE":
            yield from self._check_execution(message, response, complete=complete)
        if response and not self.over:
            self._follow(number, message, response)

    def _check_missing(self, number: int) -> Iterator[str]:
        """Find the reason why this message and those that follow have no response."""
        trace, around = self.trace, self.around
        first, last = self._first_byte(number), self._last_byte(number)
        if trace.ended in {"closed", "left"}:
            self.over = "the client has disconnected"
        elif self._was_killed():
            self.over = "the process was killed"
        elif self._stopped_reading() or self._was_slow_at_the_end():
            self.over = "the client did not read"
        elif trace.ended == "hung":
            self.over = "the connection hangs"
        elif self._was_idle(number):
            self.over, self.not_executed = "the connection was idle for too long", True
        elif last > around.drained - EARLY:
            self.over, self.not_executed = "the drain has ended", True
        elif last == inf and trace.half_closed_at:
            self.over, self.not_executed = "the client closed its half within the message", True
        elif first == inf:
            self.over, self.not_executed = "nothing more was sent", True
        elif last == inf and trace.send_failed_at:
            self.over, self.not_executed = "the connection has ended", True
            yield "the connection ended within it, without a response"
        else:
            self.over = "a response is missing"
            late = ", which was late" * self._is_late(number)
            yield f"no response to a {'complete' * (last < inf) or 'partial'} request{late}"

    def _check_response(self, number: int, message: Message, response: Response) -> Iterator[str]:
        yield from self._check_status(number, message, response)
        code = _problem(response).get("code") if response.status >= 400 else None
        if response.status >= 400 and message.method != "HEAD" and not code:
            yield f"a {response.status} without the problem body"
        request_id = response.headers.get("x-request-id", message.request_id)
        if response.status in message.statuses and not message.broken and request_id != message.request_id:
            yield f"the response to {request_id}"
        if response.status == 200 and message.method == "GET" and message.post_id:
            read = json.loads(response.body)["id"]
            if read != message.post_id:
                yield f"post {read} instead of {message.post_id}"
        if response.continued > message.expects:
            yield f"{response.continued} 100 Continue"
        if (
            number in self.trace.without_continue
            and not self.trace.stalls
            and not self._is_affected_by_a_fault(response)
        ):
            yield "neither 100 Continue nor a response came in time"
        if response.closes and not self._may_close(number, message, response):
            yield f"the {response.status} announces the close without a cause"
        if not response.closes and message.broken and response.status in {400, 431}:
            yield f"the {response.status} does not announce the close"
        drains = self.around.terminated + SIGNAL < self._first_byte(number)
        if drains and not response.closes and not message.closes:
            yield "the response of a draining server does not announce the close"

    def _check_status(self, number: int, message: Message, response: Response) -> Iterator[str]:
        status, around = response.status, self.around
        if status in message.statuses:
            if not self._may_be_complete(number) and not message.early and not message.broken:
                yield f"{status} before the request was complete"
        elif status == 408:
            if not self._is_late(number):
                yield "408, and the client was in time"
            elif self._took_longer(self._first_byte(number), response.ended, 2 * around.client_timeout):
                yield "408, and far too late"
        elif status == 503:
            allowed = {
                "database_unavailable": around.is_away(self._first_byte(number), response.ended),
                "overloaded": around.overload and message.kind != "live",
                "stopping": around.drained < response.ended < around.drained + IN_FLIGHT + 1.5,
            }
            if not allowed.get(str(_problem(response).get("code")), message.method == "HEAD"):
                yield f"503 without a cause: {response.body[:300]!r}"
            if "retry-after" not in response.headers:
                yield "503 without Retry-After"
        elif status == 400 and self._last_byte(number) == inf and self.trace.half_closed_at:
            pass
        else:
            yield f"{status} instead of {sorted(message.statuses)}: {response.body[:300]!r}"

    def _is_affected_by_a_fault(self, response: Response) -> bool:
        around = self.around
        return bool(around.stopped or around.killed or around.overload) or around.is_away(0, response.ended)

    def _may_close(self, number: int, message: Message, response: Response) -> bool:
        return (
            message.closes
            or message.broken
            or message.early
            or (message.expects and not response.continued)  # the client may leave out the body
            or response.status == 408
            or response.ended > self.around.terminated
            or (bool(self.trace.half_closed_at) and number == len(self.messages) - 1)
            or (bool(self.trace.half_closed_at) and self._last_byte(number + 1) == inf)
        )

    def _check_execution(self, message: Message, response: Response | None, *, complete: bool) -> Iterator[str]:
        executions = self.stored.executions(message)
        least, most = 0, 1
        if response and 200 <= response.status < 300:
            least = 1
        elif response:
            unknown = {"database_unavailable", "stopping"}
            most = int(response.status == 503 and _problem(response).get("code") in unknown)
        elif not complete or self.not_executed or message.broken or message.statuses & {401, 413}:
            most = 0
        if not least <= executions <= most:
            why = self.over or (f"the response was {response.status}" if response else "there is no response")
            yield f"executed {executions} times although {why}"

    def _follow(self, number: int, message: Message, response: Response) -> None:
        """Note if this response is the last one."""
        if response.closes or message.closes or message.broken:
            self.closed_at = response.ended
            self.over, self.not_executed = f"the connection ended with message {number}", True
        elif self._is_late(number) and number + 1 < len(self.messages):
            # The early response was in time, but the rest of the body may be late.
            responses = self.trace.responses.complete
            if len(responses) == number + 1:
                self.over, self.not_executed = f"message {number} came late", self.trace.ended not in {"closed", "left"}

    # The end of the connection.

    def _check_end(self, started: int) -> Iterator[str]:
        trace, around = self.trace, self.around
        if trace.ended in {"closed", "left", "hung", "garbage"}:
            return
        forced = self._was_killed() or self._stopped_reading() or self._was_slow_at_the_end()
        if trace.responses.is_partial and not forced:
            yield f"a response was cut off by {trace.ended}"
        if forced:
            return
        failed = trace.send_failed_at or (trace.ended_at if trace.ended == "reset" else 0)
        if failed and self._is_reset_too_early(failed):
            yield f"{trace.ended}, and a reset {failed - trace.opened:.3f} s after the start without a cause"
        answered = len(trace.responses.complete)
        if self.closed_at < inf:
            if self._took_longer(self.closed_at, trace.ended_at, 0):
                yield f"closed {trace.ended_at - self.closed_at:.1f} s after the close was announced"
        elif trace.ended_at < around.drained and not trace.half_closed_at and answered == started:
            yield from self._check_idle_time(started)

    def _check_idle_time(self, number: int) -> Iterator[str]:
        """Every message has its response: the connection is closed at the timeout, not earlier and not much later."""
        trace, around = self.trace, self.around
        if number and self._last_byte(number - 1) > trace.ended_at:  # the rest of an unread body
            waited, limit = around.elapsed(self._first_byte(number - 1), trace.ended_at), around.client_timeout
        else:
            since = self._idle_since(number)
            limit = around.keep_alive if number else min(around.keep_alive, around.client_timeout)
            waited = around.elapsed(since, trace.ended_at)
        if waited < limit - self._slack:
            yield f"closed after it was idle for {waited:.3f} s"
        last = max([trace.opened, *(after for _, after, _ in trace.sends), *self._response_times()])
        if self._took_longer(last, trace.ended_at, max(around.keep_alive, 2 * around.client_timeout)):
            yield f"closed only after it was idle for {trace.ended_at - last:.3f} s"

    def _response_times(self) -> list[float]:
        return [response.ended for response in self.trace.responses.complete]

    def _is_reset_too_early(self, failed: float) -> bool:
        """Whether the server reset the connection before its time to linger was over, or without a cause."""
        if self.closed_at < inf:
            return self.around.elapsed(self.closed_at, failed) < LINGER and failed < self.around.drained
        if failed > self.around.drained - EARLY:
            return False
        # The client sent more after the server had closed an idle connection, or one with a late body.
        late = any(self._was_idle(number) or self._is_late(number) for number in range(len(self.messages)))
        return not late


def _problem(response: Response) -> dict[str, object]:
    try:
        found = json.loads(response.body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
