"""Records what requests did: in the metrics and in the access log.

Every request pays for this. So there is one loop for both, and the parts that lines have in common are formatted once.
"""

from bisect import bisect_left
from collections.abc import Sequence
from math import floor
from time import perf_counter
from typing import Final, TypeAlias

from service.observability.access_log import AccessLog
from service.observability.families import FAMILIES, REQUESTS
from service.observability.metrics import Metrics, Numbers
from service.server.exchange import Exchange

_BOUNDS: Final = FAMILIES[REQUESTS].buckets

# The index of the sum in a histogram. A negative index is slower, as ``int`` is slower than ``floor``.
_SUM: Final = len(_BOUNDS) + 1

# Durations are counted in steps of 1/20 ms. A line rounds them to 1/10 ms. All durations of a step are in one bucket.
_STEPS: Final = 20_000  # a second

# What requests may have in common: method, template of the route, status, client and user id. The texts are empty if
# they are not known.
_Kind: TypeAlias = tuple[str, str, int, str, int | None]

# Kinds and durations that are remembered.
_MAX_REMEMBERED: Final = 4096


class Recording:
    """Records requests whose responses were written together."""

    def __init__(self, metrics: Metrics, log: AccessLog | None) -> None:
        """``log`` is ``None`` without an access log. Metrics that nobody publishes are counted all the same."""
        self._metrics = metrics
        self._log = log
        # What follows from a kind: its numbers in the metrics, and the parts of its lines that name it.
        self._kinds: dict[_Kind, tuple[Numbers, bytes, bytes]] = {}
        # What follows from a duration: its bucket in the metrics, and its part of a line.
        self._durations: dict[int, tuple[int, bytes]] = {}

    def __call__(self, exchanges: Sequence[Exchange]) -> None:
        now = perf_counter()
        kinds, durations, log = self._kinds, self._durations, self._log
        start, end = (log.start(now), log.line.end) if log else (b"", b"")
        parts: list[bytes] = []
        for exchange in exchanges:
            scope = exchange.scope
            client, user = scope["client"], scope.get("user")
            kind = (
                scope["method"],
                scope.get("path_template", ""),
                exchange.status,
                client[0] if client else "",
                user.user_id if user else None,
            )
            try:
                numbers, head, origin = kinds[kind]
            except KeyError:
                numbers, head, origin = self._remember_kind(kind)
            seconds = now - exchange.begun
            steps = floor(seconds * _STEPS)
            try:
                bucket, duration = durations[steps]
            except KeyError:
                bucket, duration = self._remember_duration(steps)
            numbers[bucket] += 1.0
            numbers[_SUM] += seconds
            if log:
                parts += start, head, duration, origin, exchange.request_id, end
        if log:
            log.add(b"".join(parts))

    def _remember_kind(self, kind: _Kind) -> tuple[Numbers, bytes, bytes]:
        if len(self._kinds) >= _MAX_REMEMBERED:
            self._kinds.clear()
        method, route, status, client, user_id = kind
        line = self._log.line if self._log else None
        head, origin = (line.head(method, route, status), line.origin(client, user_id)) if line else (b"", b"")
        self._kinds[kind] = found = self._metrics.numbers_of(method, route, status), head, origin
        return found

    def _remember_duration(self, steps: int) -> tuple[int, bytes]:
        if len(self._durations) >= _MAX_REMEMBERED:
            self._durations.clear()
        tenths = (steps + 1) // 2
        found = bisect_left(_BOUNDS, (steps + 0.5) / _STEPS), self._log.line.duration(tenths / 10) if self._log else b""
        self._durations[steps] = found
        return found
