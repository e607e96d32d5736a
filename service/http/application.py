"""Litestar's application, with paths taken as they are written."""

from typing import Any, Final

from litestar import Litestar
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Send
from litestar.utils.scope.state import ScopeState

from service.http.endpoints import Endpoints

# A path that no route has.
_NOWHERE: Final = "/%2F"


class Application(Litestar):
    """Litestar by itself takes an encoded slash for a separator (RFC 3986, section 2.2), and skips empty segments."""

    def register(self, value: ControllerRouterHandler) -> None:  # type: ignore[override]
        super().register(value)
        self.asgi_router.handle_routing.cache_clear()  # it has what was found before this registration
        self._endpoints = Endpoints(self)

    def _create_asgi_handler(self) -> ASGIApp:
        """Put ``_route`` in the place of Litestar's router, inside of everything that Litestar puts around it."""
        outermost: Any = super()._create_asgi_handler()
        around = outermost
        while around.app is not self.asgi_router:
            around = around.app
        around.app = self._route
        return outermost  # type: ignore[no-any-return]

    async def _route(self, scope: Any, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http":
            path, raw_path = scope["path"], scope.get("raw_path", b"")
            if "//" in path or (b"%" in raw_path and b"%2f" in raw_path.lower()):
                scope["path"] = _NOWHERE
            elif not scope.get("root_path"):
                found = self._endpoints.find(scope["method"], path)
        if found is None:
            await self.asgi_router(scope, receive, send)
            return
        endpoint, scope["path_params"] = found
        scope["route_handler"], scope["path_template"] = endpoint.handler, endpoint.template
        ScopeState.from_scope(scope).exception_handlers = endpoint.handler.resolve_exception_handlers()
        await endpoint.app(scope, receive, send)
