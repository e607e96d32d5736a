"""Links to other resources: references that hold behind any path prefix and under any host name."""

from collections.abc import Sequence
from typing import Final

from litestar.datastructures import ResponseHeader
from litestar.types import Scope

from service.structs.posts import Post

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


def next_page(
    scope: Scope, posts: Sequence[Post], *, more: bool, limit: int, user_id: int | None = None
) -> dict[str, str]:
    """The ``Link`` header that leads from a page of posts to the next; empty on the last page."""
    if not more:
        return {}
    of_user = "" if user_id is None else f"&user_id={user_id}"
    return {"Link": f'<{relative(scope, "posts")}?limit={limit}&after={posts[-1].id}{of_user}>; rel="next"'}
