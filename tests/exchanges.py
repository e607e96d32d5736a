"""Requests that have their response, as the server records them."""

from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast

from service.server.exchange import Exchange


def ended(
    client: str | None = "192.0.2.1", user_id: int | None = None, seconds: float = 0, request_id: bytes = b"mine"
) -> Exchange:
    """A request that took ``seconds``, if it is recorded now."""
    scope: dict[str, Any] = {
        "method": "GET",
        "path_template": "/posts",
        "client": (client, 1) if client else None,
        "headers": [(b"x-request-id", request_id)],
    }
    if user_id is not None:
        scope["user"] = SimpleNamespace(user_id=user_id)
    exchange: Exchange = Exchange(cast("Any", None), cast("Any", None), scope, keep_alive=True)
    exchange.status = 200
    exchange.begun = perf_counter() - seconds
    return exchange
