"""Links to other resources: references that hold behind any path prefix and under any host name."""

from typing import Final
from urllib.parse import quote

from litestar.datastructures import ResponseHeader
from litestar.types import Scope

LOCATION: Final = ResponseHeader(
    name="Location",
    documentation_only=True,
    description="Where the new resource is: a reference relative to the address of this request (RFC 3986).",
)
NEXT_PAGE: Final = ResponseHeader(
    name="Link",
    documentation_only=True,
    description='While more posts follow, `<…>; rel="next"` (RFC 8288): the next page, as a reference relative to the '
    "address of this request.",
)


def relative(scope: Scope, path: str) -> str:
    """Return a reference from a request to ``path``, which has no leading slash.

    A proxy may have taken a prefix from the path of the request, but it leaves the part that counts: how many segments
    there are below the root of the service, with the empty one after a trailing slash.
    """
    return "../" * (scope["raw_path"].count(b"/") - 1) + path


def next_page(scope: Scope, after: object, *, limit: int, **others: object) -> dict[str, str]:
    """The ``Link`` header that leads to the page of posts after ``after``; empty if there is none.

    A parameter that is ``None`` is left out.
    """
    if after is None:
        return {}
    query = f"limit={limit}&after={_encode(after)}"
    for name, value in others.items():
        if value is not None:
            query += f"&{name}={_encode(value)}"
    return {"Link": f'<{relative(scope, "posts")}?{query}>; rel="next"'}


def _encode(value: object) -> object:
    return value if isinstance(value, int) else quote(str(value), safe="")
