"""Load shedding: with too many requests in flight, the next one gets a 503 at little cost."""

import asyncio
from typing import Any, Final

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from service.errors import Overloaded
from service.http.problems import problem_app

# Seconds before a refusal is sent. Without it, clients that retry at once would slow down the requests in flight.
REFUSAL_SECONDS: Final = 0.25

_refuse: Final = problem_app(Overloaded)


class LoadShedding:
    """Wraps the app. A request is not in flight while it waits for its body. Health is never refused."""

    def __init__(self, app: Litestar, max_in_flight: int) -> None:
        self.app = app
        self._max_in_flight = max_in_flight
        self.in_flight = 0
        self.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["path"].startswith("/health/"):
            await self.app(scope, receive, send)
            return
        if self.in_flight >= self._max_in_flight:
            self.refused += 1
            await asyncio.sleep(REFUSAL_SECONDS)
            await _refuse(scope, receive, send)
            return

        async def receive_from_client() -> Any:
            self.in_flight -= 1
            try:
                return await receive()
            finally:
                self.in_flight += 1

        self.in_flight += 1
        try:
            await self.app(scope, receive_from_client, send)
        finally:
            self.in_flight -= 1
