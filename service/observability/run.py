"""How the server runs the exchange of a request."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from service.server.exchange import Exchange

Run: TypeAlias = Callable[[Exchange], Coroutine[Any, Any, None]]
