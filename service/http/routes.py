"""The decorators of the routes, and how a route answers."""

from functools import partial
from http import HTTPStatus
from typing import Any

import litestar
from litestar import Litestar
from litestar.enums import HttpMethod
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, ExceptionHandlersMap, Middleware, Receive, Scope, Send

from service.http.headers import with_common_headers
from service.http.requests import Request
from service.http.responses import JSON, Response, encode, head_of, send_whole
from service.structs.fields import parse_id


class Route(HTTPRouteHandler):
    """A route's handler that is its own innermost middleware, and answers there.

    Its method takes ``request``, the ids in the path, and as ``data`` the struct of a JSON body; what it returns goes
    out as JSON. What Litestar does between a routed request and its handler serves many more kinds of argument, and
    hooks that nothing here uses: a fifth of what a read of one post cost.
    """

    def on_registration(self, app: Litestar) -> None:
        super().on_registration(app)
        parameters = self.parsed_fn_signature.parameters
        self._body = parameters["data"].annotation if "data" in parameters else None
        self._in_path = [
            (name, str if field.annotation is str else partial(parse_id, field.annotation))
            for name, field in parameters.items()
            if name not in {"request", "data"}
        ]
        for name, _ in self._in_path:
            if not all(f"{{{name}:" in path for path in self.paths):
                raise ImproperlyConfiguredException(
                    f"{self.handler_name}: {name} is neither in the path nor served here"
                )
        self._takes_request = "request" in parameters
        self._headers = {
            header.name: header.value or ""
            for header in self.resolve_response_headers()
            if not header.documentation_only
        }
        self._head = head_of(JSON if self.status_code != HTTPStatus.NO_CONTENT else None, self._headers)
        self._exception_handlers = super().resolve_exception_handlers()

    def resolve_exception_handlers(self) -> ExceptionHandlersMap:
        # Litestar 2.25 asks for every request, and collects them from all layers each time.
        return self._exception_handlers

    def resolve_middleware(self) -> list[Middleware]:
        return [self._endpoint, *super().resolve_middleware()]

    def _endpoint(self, app: ASGIApp) -> ASGIApp:  # noqa: ARG002 - Litestar's own way on, which is not taken
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        for guard in self.resolve_guards():
            await guard(request, self)  # type: ignore[misc]
        arguments: dict[str, Any] = {name: read(scope["path_params"][name]) for name, read in self._in_path}
        if self._takes_request:
            arguments["request"] = request
        if self._body:
            arguments["data"] = await request.json_of(self._body)
        returned = await self.fn(**arguments)
        if isinstance(returned, litestar.Response):
            respond = returned.to_asgi_response(None, request, status_code=self.status_code, headers=self._headers)
            await respond(scope, receive, send if isinstance(returned, Response) else with_common_headers(send, scope))
        else:
            body = b"" if returned is None else encode(returned)
            await send_whole(scope, send, self.status_code, self._head, body)


# HEAD answers wherever GET does (RFC 9110, section 9.3.2); the server leaves out the body.
get = partial(Route, http_method=[HttpMethod.GET, HttpMethod.HEAD])
post = partial(Route, http_method=HttpMethod.POST)
patch = partial(Route, http_method=HttpMethod.PATCH)
delete = partial(Route, http_method=HttpMethod.DELETE)
