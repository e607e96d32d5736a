"""The decorators of the routes: Litestar's, without what it works out anew for each request."""

from functools import partial
from typing import Any

import litestar
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, ExceptionHandlersMap


class Route(HTTPRouteHandler):
    """A route's handler that settles once what is the same for all of its requests.

    Litestar 2.25 collects the exception handlers of all layers for every request, copies the handler for every guard,
    and goes through two more functions for what becomes of the returned value.
    """

    def on_registration(self, app: Litestar) -> None:
        super().on_registration(app)
        self._exception_handlers = super().resolve_exception_handlers()
        self._headers = {
            header.name: header.value or ""
            for header in self.resolve_response_headers()
            if not header.documentation_only
        }
        self._response_class = self.resolve_response_class()

    def resolve_exception_handlers(self) -> ExceptionHandlersMap:
        return self._exception_handlers

    async def authorize_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        for guard in self.resolve_guards():
            await guard(connection, self)  # type: ignore[misc]

    async def to_response(self, app: Litestar, data: Any, request: Any) -> ASGIApp:  # noqa: ARG002 - as Litestar calls it
        response = data if isinstance(data, litestar.Response) else self._response_class(data)
        return response.to_asgi_response(
            None, request, status_code=self.status_code, headers=self._headers, media_type=self.media_type
        )


# HEAD answers wherever GET does (RFC 9110, section 9.3.2); the server leaves out the body.
get = partial(Route, http_method=[HttpMethod.GET, HttpMethod.HEAD])
post = partial(Route, http_method=HttpMethod.POST)
patch = partial(Route, http_method=HttpMethod.PATCH)
delete = partial(Route, http_method=HttpMethod.DELETE)
