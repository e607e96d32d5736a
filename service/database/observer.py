"""What measures the database."""

from typing import Literal, Protocol

Outcome = Literal["ok", "error", "unavailable"]


class Observer(Protocol):
    """Gets durations in seconds."""

    def statement_ended(self, outcome: Outcome, seconds: float) -> None:
        """The duration includes the wait for a connection."""

    def connection_awaited(self, seconds: float) -> None:
        """A caller has got a connection, or has failed to."""

    def batch_sent(self, kind: Literal["read", "write"], rows: int) -> None:
        """``rows``: how many keys or rows one statement has."""
