"""Posts: anyone may read them, and only the owner may change them."""

from typing import Annotated

from litestar import Controller
from litestar.params import FromPath, JSONBody, QueryParameter

from service.errors import OnlyOwnerMayDelete, OnlyOwnerMayUpdate, PostNotFound
from service.http.links import LOCATION, NEXT_PAGE, next_page, relative
from service.http.requests import Request
from service.http.responses import JSONResponse
from service.http.routes import delete, get, patch, post
from service.queries import posts, sessions
from service.security.guards import requires_post_ownership
from service.structs.fields import MAX_ID, PostId
from service.structs.posts import Post, PostCreate, PostUpdate


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
        summary="List posts",
        response_description="A page of posts.",
        response_headers=[NEXT_PAGE],
    )
    async def list_posts(
        self,
        request: Request,
        limit: Annotated[int, QueryParameter(ge=1, le=100, description="The most posts on a page.")] = 50,
        after: Annotated[
            int,
            QueryParameter(
                ge=0,
                le=MAX_ID,
                description="Only posts with a higher id. For paging: a post with a smaller id may be committed later.",
            ),
        ] = 0,
        user_id: Annotated[
            int | None, QueryParameter(ge=1, le=MAX_ID, description="Only the posts of this user.")
        ] = None,
    ) -> JSONResponse[list[Post]]:
        """Posts by id, a page at a time. While more follow, the `Link` header leads to the next page."""
        if user_id is None:
            page = await posts.select_page(request.db, after, limit)
        else:
            page = await posts.select_page_of_user(request.db, user_id, after, limit)
        link = next_page(request.scope, page.posts, more=page.more, limit=limit, user_id=user_id)
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
