"""The decorators of the routes, and how a route answers."""

from functools import partial
from typing import Any, Final

import litestar
from litestar import Litestar
from litestar.enums import HttpMethod, MediaType
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import HTTPRouteHandler
from litestar.middleware._internal.exceptions import ExceptionHandlerMiddleware
from litestar.openapi.spec import SecurityRequirement
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute
from litestar.types import ASGIApp, ExceptionHandlersMap, Middleware, Receive, Scope, Send
from litestar.utils.predicates import is_async_callable

from service.errors import ServiceError
from service.http.arguments import Arguments, LitestarArguments
from service.http.requests import Request
from service.http.responses import JSON, WITHOUT_BODY, JSONResponse, encode, head_of, send_whole
from service.security.guards import requires_session
from service.security.middleware import BearerAuthentication

# The name of the security scheme in the OpenAPI document.
BEARER: Final = "bearer"


class Route(HTTPRouteHandler):
    """Litestar's route handler, private unless it says ``public=True``, with a fast path.

    Litestar's own way from a routed request to its handler takes a fifth of the time of a read. A handler that declares
    only ids in the path, parameters, a struct as its body and ``request`` does not need it: the innermost middleware of
    the route calls it. All other handlers take Litestar's own way.
    """

    is_fast = False

    def on_registration(self, app: Litestar) -> None:
        super().on_registration(app)
        if self.cache and not self.is_public and not self.cache_key_builder:
            raise ImproperlyConfiguredException(
                f"{self}: the responses of a private route cannot be cached without a cache_key_builder, "
                "or one user would get those of another"
            )
        self._exception_handlers = super().resolve_exception_handlers()
        self._headers = {
            header.name: header.value or ""
            for header in self.resolve_response_headers()
            if not header.documentation_only
        }
        self._head = head_of(None if self.status_code in WITHOUT_BODY else JSON, self._headers)
        self._head_names = frozenset(name for name, _ in self._head)

    @property
    def is_public(self) -> bool:
        return self.opt.get("public") is True

    def resolve_security(self) -> list[SecurityRequirement]:
        declared = super().resolve_security()
        return declared if self.is_public else [*declared, {BEARER: []}]

    def resolve_exception_handlers(self) -> ExceptionHandlersMap:
        # Litestar 2.25 asks for every request, and collects them from all layers each time.
        return self._exception_handlers

    def create_kwargs_model(self, path_parameters: dict[str, Any]) -> Any:
        """Litestar calls this once for each path, after the registration and before it asks for the middleware."""
        self.arguments = Arguments(self, path_parameters)
        self._ids = [*self.arguments.ids.items()]
        self.is_fast = not self.arguments.left and self._can_be_fast()
        self._guards = self.resolve_guards()
        given = self.arguments
        self._needs_request = bool(self._guards) or given.takes_request or given.reads_body or given.reads_parameters
        return LitestarArguments(super().create_kwargs_model(path_parameters), self.arguments, self._check_session)

    async def _check_session(self, request: Any) -> None:
        """After an invalid argument, let a 401 come before its error. Guards have checked the session before."""
        if not (self.is_public or self._guards):
            await requires_session(request, self)

    def _can_be_fast(self) -> bool:
        """Whether the layers of the handler declare nothing between a request and the handler, or after it."""
        returned = self.parsed_fn_signature.return_type
        is_response = returned.is_subclass_of(litestar.Response)
        return not (
            len(self.paths) > 1
            or self.has_sync_callable
            or self.background
            or self.cache
            or self.resolve_before_request()
            or any(layer.after_request for layer in self.ownership_layers)
            or self.resolve_after_response()
            or self.resolve_response_cookies()
            or self.resolve_return_dto()
            or self.resolve_type_encoders()
            or self.resolve_layered_parameters()
            or self.resolve_request_class() is not Request
            or self.resolve_response_class() is not litestar.Response
            or (self.media_type not in {MediaType.JSON, JSON} and not is_response)
            or is_async_callable(returned.annotation)
            or returned.annotation is ASGIApp
            # What Litestar puts between the middleware and the handler.
            or self.app.csrf_config
            or self.app.compression_config
            or self.app.allowed_hosts
        )

    def resolve_middleware(self) -> list[Middleware]:
        """The innermost comes first: a request is authenticated after the app's middleware, before the route's own."""
        declared = super().resolve_middleware()
        outside = len(declared) - len(self.app.middleware)
        middleware: list[Middleware] = [*declared]
        if not self.is_public:
            middleware.insert(outside, BearerAuthentication)
        if self.is_fast:
            middleware.insert(0, self._guarded_endpoint if declared else self._endpoint)
        return middleware

    def _endpoint(self, app: ASGIApp) -> ASGIApp:  # noqa: ARG002 - Litestar's own way, which is not taken
        return self._answer

    def _guarded_endpoint(self, app: ASGIApp) -> ASGIApp:  # noqa: ARG002
        # As Litestar does: an error becomes a response here, so that the declared middleware sees it as one.
        return ExceptionHandlerMiddleware(app=self._answer, debug=None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: Any = Request(scope, receive, send) if self._needs_request else None
        for guard in self._guards:
            await guard(request, self)  # type: ignore[misc]
        arguments: dict[str, Any] = {}
        given = self.arguments
        try:
            for name, read in self._ids:
                arguments[name] = read(scope["path_params"][name])
            if given.takes_request:
                arguments["request"] = request
            if given.reads_body:
                arguments |= await given.read(request)
            elif given.reads_parameters:
                arguments |= given.read_parameters(request)
        except ServiceError:
            await self._check_session(request or Request(scope, receive, send))
            raise
        returned = await self.fn(**arguments)
        if isinstance(returned, JSONResponse) and returned.is_simple:
            head = returned.complete(self._head, self._head_names)
            await send_whole(send, self.status_code, head, returned.encode())
        elif isinstance(returned, litestar.Response):
            respond = returned.to_asgi_response(
                None,
                request or Request(scope, receive, send),
                status_code=self.status_code,
                headers=self._headers,
                media_type=self.media_type,
            )
            await respond(scope, receive, send)
        else:
            await send_whole(send, self.status_code, self._head, encode(returned))


# HEAD answers wherever GET does (RFC 9110, section 9.3.2); the server leaves out the body.
get = partial(Route, http_method=[HttpMethod.GET, HttpMethod.HEAD])
post = partial(Route, http_method=HttpMethod.POST)
put = partial(Route, http_method=HttpMethod.PUT)
patch = partial(Route, http_method=HttpMethod.PATCH)
delete = partial(Route, http_method=HttpMethod.DELETE)


class RouteRules(ReceiveRoutePlugin):
    """Rules for all routes: only ``public=True`` makes one public, and OPTIONS returns all methods of a path."""

    def receive_route(self, route: BaseRoute) -> None:
        handlers = route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]  # type: ignore[attr-defined]
        for handler in handlers:
            if isinstance(handler, Route):
                continue
            if isinstance(handler, HTTPRouteHandler) and handler.http_methods == {HttpMethod.OPTIONS}:
                _allow_methods_of(route, handler)
            elif handler.opt.get("public") is not True:
                raise ImproperlyConfiguredException(
                    f"{handler}: Litestar's own decorators make public routes. Use those of {__name__}, "
                    "or say public=True"
                )


def _allow_methods_of(route: BaseRoute, options: HTTPRouteHandler) -> None:
    """Let OPTIONS return every method of a path. Litestar 2.25 returns only the methods of the first handler."""
    allowed = litestar.Response(None, status_code=204, headers={"Allow": ", ".join(sorted(route.methods))})

    async def answer(_: Any) -> litestar.Response[None]:
        return allowed

    options.before_request = answer
