"""The requests that the running code serves. Log records and spans name them."""

from asyncio import Future
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

Scope: TypeAlias = dict[str, Any]

# The ASGI scope of a request, or the requests that wait for each future of a batch. A batch may wait for another.
Requests: TypeAlias = "tuple[Scope, ...] | Mapping[Future[Any], Requests]"

# Set by the server for each request, and by a batch for its statement.
current_requests: ContextVar[Requests] = ContextVar("current_requests", default=())


def current_scopes() -> Iterator[Scope]:
    """The scopes of the current requests."""
    return _scopes(current_requests.get())


def _scopes(requests: Requests) -> Iterator[Scope]:
    if isinstance(requests, tuple):
        yield from requests
    else:
        for waiting in requests.values():
            yield from _scopes(waiting)
