"""What the server runs for each request: the exchange alone, or the exchange and what records it."""

from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any

from service.observability.access_log import Observation
from service.server.exchange import Exchange

Run = Callable[[Exchange], Coroutine[Any, Any, None]]


def observed(recorders: Sequence[Callable[[Observation], None]]) -> Run:
    """Run an exchange, and pass what it did to ``recorders``. Its time includes background tasks of the handler."""

    async def run(exchange: Exchange) -> None:
        begun = perf_counter()
        try:
            await exchange.run()
        finally:
            if not exchange.replaced:
                ended = perf_counter()
                scope = exchange.scope
                client = exchange.client
                user = scope.get("user")
                observation = Observation(
                    ended,
                    ended - begun,
                    scope["method"] if "path" in scope else "",
                    scope.get("path_template", ""),
                    exchange.status,
                    client[0] if client else "",
                    user.user_id if user else None,
                    exchange.request_id.decode(),
                )
                for record in recorders:
                    record(observation)

    return run
