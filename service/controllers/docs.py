"""The API page at /docs: Swagger UI, served by this process alone."""

from pathlib import Path
from typing import Annotated, Final

from litestar import Controller, Response
from litestar.datastructures import CacheControlHeader, ResponseHeader
from litestar.exceptions import NotFoundException
from litestar.params import PathParameter
from swagger_ui_bundle import swagger_ui_path

from service.http.links import relative
from service.http.requests import Request
from service.http.routes import get

DIRECTORY: Final = Path(__file__).parents[1] / "http" / "page"

# Swagger UI writes style attributes; everything else, its requests included, stays within this origin.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

SERVER: Final = b'"servers":[{"url":"."}]'

PAGE: Final = (DIRECTORY / "index.html").read_text(encoding="utf-8")

FILES: Final = {
    path.name: (media_type, path.read_bytes())
    for path, media_type in {
        DIRECTORY / "page.js": "text/javascript",
        DIRECTORY / "page.css": "text/css",
        swagger_ui_path / "swagger-ui-bundle.js": "text/javascript",
        swagger_ui_path / "swagger-ui.css": "text/css",
        swagger_ui_path / "favicon-32x32.png": "image/png",
    }.items()
}


class DocsController(Controller):
    include_in_schema = False
    opt = {"public": True}  # noqa: RUF012 - Litestar's declaration

    @get("/docs", response_headers=[ResponseHeader(name="Content-Security-Policy", value=CONTENT_SECURITY_POLICY)])
    async def page(self, request: Request) -> Response[str]:
        references = {"docs": relative(request.scope, "docs/"), "root": relative(request.scope, "")}
        return Response(PAGE.format_map(references), media_type="text/html")

    @get("/docs/{name:str}", cache_control=CacheControlHeader(public=True, max_age=3600))
    async def file(self, name: Annotated[str, PathParameter()]) -> Response[bytes]:
        if name not in FILES:
            raise NotFoundException
        media_type, content = FILES[name]
        return Response(content, media_type=media_type)

    @get("/openapi.json")
    async def document(self, request: Request) -> Response[bytes]:
        document: bytes = request.app.state["openapi"]
        if root := relative(request.scope, ""):  # the references are relative to an address without a slash at its end
            document = document.replace(SERVER, SERVER.replace(b".", root.encode()))
        return Response(document, media_type="application/json")
