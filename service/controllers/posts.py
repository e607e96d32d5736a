"""Posts: anyone may read them, and only the owner may change them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from litestar import Controller
from litestar.params import FromPath, JSONBody, QueryParameter

from service.errors import (
    FaultyField,
    KeyInProgress,
    KeyUsedWithAnotherBody,
    ListChanged,
    MalformedIdempotencyKey,
    MalformedPrecondition,
    OnlyOwnerMayDelete,
    OnlyOwnerMayUpdate,
    PostChanged,
    PostNotFound,
)
from service.http.idempotency import IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, idempotency_key
from service.http.links import LOCATION, NEXT_PAGE, next_page, relative
from service.http.openapi_types import POSITION
from service.http.preconditions import ETAG, IF_MATCH, IF_NONE_MATCH, page_tag, post_tag, tagged, version_condition
from service.http.requests import Request
from service.http.responses import JSONResponse, encode
from service.http.routes import delete, get, patch, post
from service.queries import idempotency_keys, pages, posts, search, sessions
from service.queries.idempotency_keys import StoredResponse
from service.security import positions
from service.security.guards import requires_post_ownership
from service.structs.fields import MAX_ID, WITHOUT_NUL, PostId, is_id
from service.structs.posts import Post, PostCreate, PostPage, PostUpdate, SearchPage, Sort, StoredPost

NOT_A_NUMBER: Final = f"must be a whole number from 0 to {MAX_ID}"
NOT_A_POSITION: Final = "must be taken from a Link header"


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


def _location(request: Request, post_id: int) -> str:
    return relative(request.scope, f"posts/{post_id}")


def _to_store(created: StoredPost) -> StoredResponse:
    return StoredResponse(created.post.id, post_tag(created), encode(created.post))


async def _create_post_once(request: Request, data: PostCreate, key: str) -> JSONResponse[Any]:
    response, is_new = await idempotency_keys.insert_post(request.db, request.user, key, data, _to_store)
    headers = {"Location": _location(request, response.post_id), "ETag": response.etag}
    return JSONResponse(response.body, headers=headers if is_new else {**headers, "Idempotency-Replayed": "true"})


class PostController(Controller):
    path = "/posts"
    tags = ("Posts",)

    @post(
        "/",
        summary="Write a post",
        response_description="The new post.",
        response_headers=[LOCATION, ETAG, IDEMPOTENCY_REPLAYED],
        reads_headers=(IDEMPOTENCY_KEY,),
        fails_with=(MalformedIdempotencyKey, KeyInProgress, KeyUsedWithAnotherBody),
    )
    async def create_post(self, request: Request, data: JSONBody[PostCreate]) -> JSONResponse[Post]:
        """The post belongs to the user whose access token is sent. With an `Idempotency-Key`, a retry is safe."""
        try:
            key = idempotency_key(request.scope)
        except MalformedIdempotencyKey:
            await sessions.require_alive(request.db, request.user)  # 401 comes before 400
            raise
        if key is not None:
            return await _create_post_once(request, data, key)
        created = await posts.insert(request.db, request.user, data)
        headers = {"Location": _location(request, created.post.id), "ETag": post_tag(created)}
        return JSONResponse(created.post, headers=headers)

    @get(
        "/",
        public=True,
        summary="List or search posts",
        response_description="A page of posts.",
        response_headers=[NEXT_PAGE, ETAG],
        reads_headers=(IF_MATCH, IF_NONE_MATCH),
        fails_with=(MalformedPrecondition, ListChanged),
        query_rule=check_query,
    )
    async def list_posts(  # noqa: PLR0913, PLR0917 - the parameters of the query
        self,
        request: Request,
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="The most posts on a page.")] = 50,
        after: Annotated[
            str | None,
            QueryParameter(
                schema_extra=POSITION,
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
            QueryParameter(
                description="`id`, the default: the lowest id first; `-id`: the highest. Not with `q`.",
                schema_extra={"default": None},  # some generated clients send every default, also with `q`
            ),
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
        return tagged(
            request.scope, page.posts, page_tag(page.digest, link.get("Link", "")), link, otherwise=ListChanged
        )

    @get(
        "/{post_id:str}",
        public=True,
        summary="Read a post",
        response_description="The post.",
        response_headers=[ETAG],
        reads_headers=(IF_MATCH, IF_NONE_MATCH),
        fails_with=(MalformedPrecondition, PostNotFound, PostChanged),
    )
    async def read_post(self, request: Request, post_id: FromPath[PostId]) -> JSONResponse[Post]:
        """Anyone may read any post."""
        if (found := await posts.select(request.db, post_id)) is None:
            raise PostNotFound
        return tagged(request.scope, found.post, post_tag(found))

    @patch(
        "/{post_id:str}",
        summary="Change a post",
        response_description="The changed post.",
        response_headers=[ETAG],
        guards=[requires_post_ownership(otherwise=OnlyOwnerMayUpdate)],
        reads_headers=(IF_MATCH, IF_NONE_MATCH),
        fails_with=(MalformedPrecondition, OnlyOwnerMayUpdate, PostNotFound, PostChanged),
    )
    async def update_post(
        self, request: Request, post_id: FromPath[PostId], data: JSONBody[PostUpdate]
    ) -> JSONResponse[Post]:
        """Only the owner may change a post. A field that is left out keeps its value.

        With the post's `ETag` in `If-Match`, nothing is written if somebody has changed the post since.
        """
        condition = version_condition(request.scope, post_id)
        if (changed := await posts.update(request.db, post_id, request.user, data, condition)) is None:
            raise PostNotFound
        return JSONResponse(changed.post, headers={"ETag": post_tag(changed)})

    @delete(
        "/{post_id:str}",
        summary="Delete a post",
        response_description="The post is deleted.",
        guards=[requires_post_ownership(otherwise=OnlyOwnerMayDelete)],
        reads_headers=(IF_MATCH, IF_NONE_MATCH),
        fails_with=(MalformedPrecondition, OnlyOwnerMayDelete, PostNotFound, PostChanged),
    )
    async def delete_post(self, request: Request, post_id: FromPath[PostId]) -> None:
        """Only the owner may delete a post."""
        if not await posts.delete(request.db, post_id, request.user, version_condition(request.scope, post_id)):
            raise PostNotFound
