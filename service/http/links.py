"""Where to go next: the headers that carry a link."""

from collections.abc import Sequence
from typing import Final

from litestar.datastructures import ResponseHeader

from service.structs.posts import Post

LOCATION: Final = ResponseHeader(name="Location", documentation_only=True, description="The path of what was created.")
NEXT_PAGE: Final = ResponseHeader(
    name="Link", documentation_only=True, description='The next page, where there is one: `<…>; rel="next"` (RFC 8288).'
)


def next_page(posts: Sequence[Post], *, more: bool, limit: int, user_id: int | None = None) -> dict[str, str]:
    """The ``Link`` header that leads from a page of posts to the next; empty on the last page.

    The reference is relative, so it holds behind any proxy and under any name of the host.
    """
    if not more:
        return {}
    of_user = "" if user_id is None else f"&user_id={user_id}"
    return {"Link": f'</posts?limit={limit}&after={posts[-1].id}{of_user}>; rel="next"'}
