"""The API page at /docs: Swagger UI, served by this process alone."""

from typing import Annotated, Final

from litestar import Controller, Response
from litestar.datastructures import ResponseHeader
from litestar.exceptions import NotFoundException
from litestar.params import PathParameter
from swagger_ui_bundle import swagger_ui_path

from service.http.requests import Request
from service.http.routes import get

# Swagger UI writes style attributes; everything else, its requests included, stays within this origin.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Accounts and posts</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

# A file of its own, because the policy above allows no script within the page.
START: Final = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
});
"""

FILES: Final = {
    "start.js": ("text/javascript", START.encode()),
    **{
        name: (media_type, (swagger_ui_path / name).read_bytes())
        for name, media_type in {
            "swagger-ui-bundle.js": "text/javascript",
            "swagger-ui.css": "text/css",
            "favicon-32x32.png": "image/png",
        }.items()
    },
}


class DocsController(Controller):
    include_in_schema = False
    opt = {"public": True}  # noqa: RUF012 - as Litestar wants it

    @get("/docs", response_headers=[ResponseHeader(name="Content-Security-Policy", value=CONTENT_SECURITY_POLICY)])
    async def page(self) -> Response[str]:
        return Response(PAGE, media_type="text/html")

    @get(
        "/docs/{name:str}",
        response_headers=[
            ResponseHeader(name="Cache-Control", value="public, max-age=3600"),
            ResponseHeader(name="X-Content-Type-Options", value="nosniff"),
        ],
    )
    async def file(self, name: Annotated[str, PathParameter()]) -> Response[bytes]:
        if name not in FILES:
            raise NotFoundException
        media_type, content = FILES[name]
        return Response(content, media_type=media_type)

    @get("/openapi.json")
    async def document(self, request: Request) -> Response[bytes]:
        return Response(request.app.state["openapi"], media_type="application/json")
