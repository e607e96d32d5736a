"""The profiles of users."""

from litestar import Controller
from litestar.params import FromPath

from service.errors import UserNotFound
from service.http.links import NEXT_PAGE, next_page
from service.http.requests import Request
from service.http.responses import JSONResponse, encode_once
from service.http.routes import get
from service.queries import users
from service.structs.fields import UserId
from service.structs.users import UserProfile

PROFILE_POSTS = 50


class UserController(Controller):
    path = "/users"
    tags = ("Users",)

    @get(
        "/{user_id:str}",
        public=True,
        summary="Read a user's profile",
        response_description="The user, with the first page of their posts.",
        response_headers=[NEXT_PAGE],
        fails_with=(UserNotFound,),
    )
    async def read_user(self, request: Request, user_id: FromPath[UserId]) -> JSONResponse[UserProfile]:
        """A user with their e-mail address and their first 50 posts, by id.

        While more posts follow, the `Link` header leads to the next page.
        """
        if (found := await users.select_profile(request.db, user_id, PROFILE_POSTS)) is None:
            raise UserNotFound
        profile, more = found
        link = next_page(request.scope, profile.posts[-1].id if more else None, limit=PROFILE_POSTS, user_id=user_id)
        return JSONResponse(encode_once(profile), headers=link)
