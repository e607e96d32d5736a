"""Posts: anyone may read them, and only the owner may change them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from litestar import Controller
from litestar.params import FromPath, JSONBody, QueryParameter

from service.errors import FaultyField, OnlyOwnerMayDelete, OnlyOwnerMayUpdate, PostNotFound
from service.http.links import LOCATION, NEXT_PAGE, next_page, relative
from service.http.requests import Request
from service.http.responses import JSONResponse
from service.http.routes import delete, get, patch, post
from service.queries import pages, posts, search, sessions
from service.security import positions
from service.security.guards import requires_post_ownership
from service.structs.fields import MAX_ID, NOT_A_POSITION, WITHOUT_NUL, PagePosition, PostId, is_id
from service.structs.posts import Post, PostCreate, PostPage, PostUpdate, SearchPage, Sort

NOT_A_NUMBER: Final = f"must be a whole number from 0 to {MAX_ID}"


def check_query(request: Any, texts: Mapping[str, Any]) -> list[FaultyField]:
    """Find the faults of a list's query that depend on whether it has ``q``."""
    query, after, user_id = texts.get("q"), texts.get("after"), texts.get("user_id")
    if query is None:
        return [] if after is None or is_id(after) or after == "0" else [FaultyField("/after", NOT_A_NUMBER)]
    faults = [FaultyField("/sort", "must not be combined with q")] if "sort" in texts else []
    if after is not None and not _is_position(request, after, query, user_id):
        faults.append(FaultyField("/after", NOT_A_POSITION))
    return faults


def _is_position(request: Any, after: str, query: str, user_id: str | None) -> bool:
    if len(after) != positions.LENGTH:
        return False
    if user_id is not None and not is_id(user_id):
        return True  # nobody can tell
    return request.search_positions.read(after, query, user_id and int(user_id)) is not None


class PostController(Controller):
    path = "/posts"
    tags = ("Posts",)

    @post("/", summary="Write a post", response_description="The new post.", response_headers=[LOCATION])
    async def create_post(self, request: Request, data: JSONBody[PostCreate]) -> JSONResponse[Post]:
        """The post belongs to the user whose access token is sent."""
        created = await posts.insert(request.db, request.user, data)
        return JSONResponse(created, headers={"Location": relative(request.scope, f"posts/{created.id}")})

    @get(
        "/",
        public=True,
        summary="List or search posts",
        response_description="A page of posts.",
        response_headers=[NEXT_PAGE],
        query_rule=check_query,
    )
    async def list_posts(  # noqa: PLR0913, PLR0917 - the parameters of the query
        self,
        request: Request,
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="The most posts on a page.")] = 50,
        after: Annotated[
            PagePosition | None,
            QueryParameter(
                description="Where the page begins; the `Link` header of the page before has it. Without `q` it is the "
                "last id of that page. With `q` it is opaque, and valid only for the same `q` and `user_id`. It is for "
                "paging, not for following new posts: a post with a smaller id may be committed later.",
            ),
        ] = None,
        user_id: Annotated[
            int | None, QueryParameter(ge=1, le=MAX_ID, description="Only the posts of this user.")
        ] = None,
        sort: Annotated[
            Sort,
            QueryParameter(description="`id`, the default: the lowest id first; `-id`: the highest. Not with `q`."),
        ] = "id",
        q: Annotated[
            str | None,
            QueryParameter(
                min_length=1,
                max_length=200,
                pattern=WITHOUT_NUL,
                description="Only posts with these words, the best match first, then the highest id: all words, or "
                'with `or` one of them; `"a phrase"`; `-word` must not occur. More than 1,000 matches are ranked in '
                "groups, the newest first. Titles weigh more; of a content, the first 20,000 characters count.",
            ),
        ] = None,
    ) -> JSONResponse[list[Post]]:
        """Posts by id, or by relevance for a query, a page at a time.

        While more follow, the `Link` header leads to the next page, which may be empty if the posts that a search has
        not looked at yet do not match.
        """
        page: PostPage | SearchPage
        if q is None:
            page = await pages.select_page(request.db, limit, None if after is None else int(after), user_id, sort)
            order = None if sort == "id" else sort
            link = next_page(request.scope, page.after, limit=limit, user_id=user_id, sort=order)
        else:
            start = request.search_positions.read(after, q, user_id) if after else None
            page = await search.search(request.db, q, limit, user_id, start)
            following = page.after and request.search_positions.issue(page.after, q, user_id)
            link = next_page(request.scope, following, limit=limit, user_id=user_id, q=q)
        return JSONResponse(page.posts, headers=link)

    @get(
        "/{post_id:str}",
        public=True,
        summary="Read a post",
        response_description="The post.",
        fails_with=(PostNotFound,),
    )
    async def read_post(self, request: Request, post_id: FromPath[PostId]) -> Post:
        """Anyone may read any post."""
        if (found := await posts.select(request.db, post_id)) is None:
            raise PostNotFound
        return found

    @patch(
        "/{post_id:str}",
        summary="Change a post",
        response_description="The changed post.",
        guards=[requires_post_ownership(otherwise=OnlyOwnerMayUpdate)],
        fails_with=(PostNotFound, OnlyOwnerMayUpdate),
    )
    async def update_post(self, request: Request, post_id: FromPath[PostId], data: JSONBody[PostUpdate]) -> Post:
        """Only the owner may change a post. A field that is left out keeps its value."""
        if (changed := await posts.update(request.db, post_id, request.user, data)) is None:
            await sessions.require_alive(request.db, request.user)
            raise PostNotFound
        return changed

    @delete(
        "/{post_id:str}",
        summary="Delete a post",
        response_description="The post is deleted.",
        guards=[requires_post_ownership(otherwise=OnlyOwnerMayDelete)],
        fails_with=(PostNotFound, OnlyOwnerMayDelete),
    )
    async def delete_post(self, request: Request, post_id: FromPath[PostId]) -> None:
        """Only the owner may delete a post."""
        if not await posts.delete(request.db, post_id, request.user):
            await sessions.require_alive(request.db, request.user)
            raise PostNotFound
