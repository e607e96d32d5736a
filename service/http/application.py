"""Litestar's application, with paths taken as they are written."""

from typing import Any, Final

from litestar import Litestar
from litestar.types import Receive, Send

# A path that no route has.
_NOWHERE: Final = "/%2F"


class Application(Litestar):
    """Litestar by itself takes an encoded slash for a separator (RFC 3986, section 2.2), and skips empty segments."""

    async def __call__(self, scope: Any, receive: Receive | Any, send: Send | Any) -> None:
        if scope["type"] == "http" and ("//" in scope["path"] or b"%2f" in scope.get("raw_path", b"").lower()):
            scope["path"] = _NOWHERE
        await super().__call__(scope, receive, send)
