"""The table of the routes agrees with Litestar's router."""

from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from litestar import Litestar, asgi
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.types import Receive, Scope, Send

from service.http.application import Application
from service.http.endpoints import Endpoints
from service.http.routes import get, post, put


@get(["/", "/a", "/a/b", "/a/b/c"], public=True)
async def plain() -> None: ...


@get("/a/{x:str}", public=True)
async def text(x: FromPath[str]) -> None: ...


@post("/a/{y:str}", public=True)
async def other_method(y: FromPath[str]) -> None: ...


@get("/a/b/{x:str}", public=True)
async def deeper(x: FromPath[str]) -> None: ...


@get("/a/{x:str}/c", public=True)
async def inside(x: FromPath[str]) -> None: ...


@put("/n/{x:int}", public=True)
async def number(x: FromPath[int]) -> None: ...


@get("/p/{x:path}", public=True)
async def rest(x: FromPath[str]) -> None: ...


@get("/{x:str}", public=True)
async def at_the_root(x: FromPath[str]) -> None: ...


@asgi("/m", is_mount=True, copy_scope=True, public=True)
async def mount(scope: Scope, receive: Receive, send: Send) -> None: ...


ROUTES = [plain, text, other_method, deeper, inside, number, rest]
APPS: dict[str, list[Any]] = {
    "routes": ROUTES,
    "a parameter at the root": [*ROUTES, at_the_root],
    "a mount": [*ROUTES, mount],
}
SEGMENTS = st.sampled_from(["a", "b", "c", "n", "p", "m", "7", "x", "{x}", ""])


@cache  # not on import, which every worker of pytest does
def build(name: str) -> Application:
    # Without logging_config=None, Litestar would replace the logging of all tests that follow.
    return Application(APPS[name], logging_config=None)


@pytest.mark.parametrize("name", APPS)
@example(method="GET", path="/a/7")  # its template is that of another method, which is registered later
@given(
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT"]),
    path=st.lists(SEGMENTS, max_size=4).map(lambda segments: f"/{'/'.join(segments)}"),
)
def test_what_is_found_is_what_litestar_finds(name: str, method: str, path: str) -> None:
    app = build(name)
    if (found := Endpoints(app).find(method, path)) is None:
        return
    endpoint, parameters = found
    try:
        asgi_app, handler, _, path_parameters, template = app.asgi_router.handle_routing(path=path, method=method)
    except HTTPException as error:
        pytest.fail(f"Litestar finds nothing: {error}")
    assert (endpoint.app, endpoint.handler, endpoint.template) == (asgi_app, handler, template)
    assert parameters == path_parameters


@pytest.mark.parametrize(
    ("method", "path", "parameters"),
    [("GET", "/", {}), ("HEAD", "/a/b", {}), ("GET", "/a/7", {"x": "7"}), ("POST", "/a/7", {"y": "7"})],
)
def test_the_paths_of_hot_routes_are_found(method: str, path: str, parameters: dict[str, str]) -> None:
    found = Endpoints(build("routes")).find(method, path)
    assert found
    assert found[1] == parameters


def test_a_route_that_is_registered_later_is_found() -> None:
    app: Litestar = Application([plain])
    app.register(text)
    assert app._endpoints.find("GET", "/a/7")  # type: ignore[attr-defined] # noqa: SLF001
