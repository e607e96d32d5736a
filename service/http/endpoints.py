"""A table of the routes, in which most requests find theirs at less cost than in Litestar's router."""

from typing import Any

from litestar import Litestar
from litestar.routes import ASGIRoute, HTTPRoute
from litestar.types import ASGIApp
from msgspec import Struct


class Endpoint(Struct, frozen=True):
    """What Litestar's router finds for a method and a path."""

    app: ASGIApp  # the route with its middleware
    handler: Any
    template: str
    parameter: str | None  # the name of the last segment


class Endpoints:
    """The endpoints of paths without a parameter, and of those whose only one is text and the last segment.

    Litestar's router caches the 1,024 paths that were used last. There are more posts than that, so it searches for
    most paths, and adds each one to its cache and evicts another: a seventh of the time of a read.
    """

    def __init__(self, app: Litestar) -> None:
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        # A last segment that is one of these may lead to another route than that with a parameter in its place.
        self._words = {"", *(word for route in app.routes for word in route.path_components if isinstance(word, str))}
        routes = [route for route in app.routes if isinstance(route, HTTPRoute)]
        is_mounted = any(isinstance(route, ASGIRoute) and route.route_handler.is_mount for route in app.routes)
        for route in routes:
            parameters = list(route.path_parameters.values())
            if not parameters:
                self._add(app, route, route.path, None)
            elif [*parameters] == route.path_components[-1:] and parameters[0].type is str and not is_mounted:
                self._add(app, route, route.path_format.rpartition("/")[0], parameters[0].name)

    def _add(self, app: Litestar, route: HTTPRoute, path: str, parameter: str | None) -> None:
        for method in route.route_handler_map:
            asgi_app, handler, _, _, template = app.asgi_router.handle_routing(path=route.path_format, method=method)
            key = (method, path) if parameter is None else (method, f"{path}/")
            self._endpoints[key] = Endpoint(asgi_app, handler, template, parameter)

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, Any]] | None:
        """The endpoint and its parameters; ``None`` if Litestar has to search."""
        if endpoint := self._endpoints.get((method, path)):
            return (endpoint, {}) if endpoint.parameter is None else None
        start = path.rfind("/") + 1
        last = path[start:]
        if last not in self._words and (endpoint := self._endpoints.get((method, path[:start]))) and endpoint.parameter:
            return endpoint, {endpoint.parameter: last}
        return None
