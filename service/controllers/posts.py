"""Posts: anyone reads them, their owner writes them."""

from typing import Annotated

from litestar import Controller
from litestar.params import FromPath, JSONBody, QueryParameter

from service.errors import OnlyOwnerMayDelete, OnlyOwnerMayUpdate, PostNotFound
from service.http.links import LOCATION, NEXT_PAGE, next_page
from service.http.requests import Request
from service.http.responses import JSONResponse
from service.http.routes import delete, get, patch, post
from service.queries import posts
from service.security.guards import requires_post_ownership
from service.structs.fields import MAX_ID, PostId
from service.structs.posts import Post, PostCreate, PostUpdate


class PostController(Controller):
    path = "/posts"
    tags = ("posts",)

    @post("/", response_headers=[LOCATION])
    async def create_post(self, request: Request, data: JSONBody[PostCreate]) -> JSONResponse[Post]:
        """Write a post. Its owner is the user behind the token."""
        created = await posts.insert(request.db, request.user.user_id, data)
        return JSONResponse(created, headers={"Location": f"/posts/{created.id}"})

    @get("/", public=True, response_headers=[NEXT_PAGE])
    async def list_posts(
        self,
        request: Request,
        limit: Annotated[
            int, QueryParameter(ge=1, le=100, description="How many posts a page holds at the most.")
        ] = 50,
        after: Annotated[int, QueryParameter(ge=0, le=MAX_ID, description="Only posts with an id above this one.")] = 0,
        user_id: Annotated[
            int | None, QueryParameter(ge=1, le=MAX_ID, description="Only the posts of this user.")
        ] = None,
    ) -> JSONResponse[list[Post]]:
        """List posts by id. While more follow, the `Link` header leads to the next page."""
        if user_id is None:
            page = await posts.select_page(request.db, after, limit)
        else:
            page = await posts.select_page_of_user(request.db, user_id, after, limit)
        return JSONResponse(page.posts, headers=next_page(page.posts, more=page.more, limit=limit, user_id=user_id))

    @get("/{post_id:str}", public=True, fails_with=(PostNotFound,))
    async def read_post(self, request: Request, post_id: FromPath[PostId]) -> Post:
        """Read one post."""
        if (found := await posts.select(request.db, post_id)) is None:
            raise PostNotFound
        return found

    @patch(
        "/{post_id:str}",
        guards=[requires_post_ownership(otherwise=OnlyOwnerMayUpdate)],
        fails_with=(PostNotFound, OnlyOwnerMayUpdate),
    )
    async def update_post(self, request: Request, post_id: FromPath[PostId], data: JSONBody[PostUpdate]) -> Post:
        """Change a post's title, its content or both. An absent field keeps its value."""
        if (changed := await posts.update(request.db, post_id, request.user.user_id, data)) is None:
            raise PostNotFound
        return changed

    @delete(
        "/{post_id:str}",
        guards=[requires_post_ownership(otherwise=OnlyOwnerMayDelete)],
        fails_with=(PostNotFound, OnlyOwnerMayDelete),
    )
    async def delete_post(self, request: Request, post_id: FromPath[PostId]) -> None:
        """Delete a post."""
        if not await posts.delete(request.db, post_id, request.user.user_id):
            raise PostNotFound
