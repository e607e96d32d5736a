"""Posts: anyone reads them, their owner writes them."""

from litestar import Controller
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from service.errors import OnlyOwnerMayDelete, OnlyOwnerMayUpdate, PostNotFound
from service.http.links import LOCATION, NEXT_PAGE, next_page, relative
from service.http.requests import Request
from service.http.responses import Response
from service.http.routes import delete, get, patch, post
from service.queries import posts
from service.security.guards import requires_post_ownership
from service.security.middleware import AUTHENTICATED
from service.structs.fields import PostId
from service.structs.posts import Post, PostCreate, PostQuery, PostUpdate


class PostController(Controller):
    path = "/posts"
    tags = ("Posts",)

    @post(
        "/",
        **AUTHENTICATED,
        summary="Write a post",
        response_description="The new post.",
        response_headers=[LOCATION],
    )
    async def create_post(self, request: Request, data: JSONBody[PostCreate]) -> Response[Post]:
        """The post belongs to the user whose access token is sent."""
        created = await posts.insert(request.db, request.user, data)
        return Response(created, headers={"Location": relative(request.scope, f"posts/{created.id}")})

    @get(
        "/",
        summary="List posts",
        response_description="A page of posts.",
        query=PostQuery,
        response_headers=[NEXT_PAGE],
    )
    async def list_posts(self, request: Request) -> Response[list[Post]]:
        """Posts by id, a page at a time. While more follow, the `Link` header leads to the next page."""
        wanted = request.query_of(PostQuery)
        if wanted.user_id is UNSET:
            page = await posts.select_page(request.db, wanted.after, wanted.limit)
        else:
            page = await posts.select_page_of_user(request.db, wanted.user_id, wanted.after, wanted.limit)
        link = next_page(request.scope, page.posts, more=page.more, limit=wanted.limit, user_id=wanted.user_id)
        return Response(page.posts, headers=link)

    @get(
        "/{post_id:str}",
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
        **AUTHENTICATED,
        summary="Change a post",
        response_description="The changed post.",
        guards=[requires_post_ownership(otherwise=OnlyOwnerMayUpdate)],
        fails_with=(PostNotFound, OnlyOwnerMayUpdate),
    )
    async def update_post(self, request: Request, post_id: FromPath[PostId], data: JSONBody[PostUpdate]) -> Post:
        """Only the owner may change a post. A field that is left out keeps its value."""
        if (changed := await posts.update(request.db, post_id, request.user, data)) is None:
            raise PostNotFound
        return changed

    @delete(
        "/{post_id:str}",
        **AUTHENTICATED,
        summary="Delete a post",
        response_description="The post is deleted.",
        guards=[requires_post_ownership(otherwise=OnlyOwnerMayDelete)],
        fails_with=(PostNotFound, OnlyOwnerMayDelete),
    )
    async def delete_post(self, request: Request, post_id: FromPath[PostId]) -> None:
        """Only the owner may delete a post."""
        if not await posts.delete(request.db, post_id, request.user):
            raise PostNotFound
