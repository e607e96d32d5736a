"""Users: one's own account, and everybody's profile."""

from litestar import Controller
from litestar.params import FromPath

from service.errors import UserNotFound
from service.http.links import NEXT_PAGE, next_page
from service.http.requests import Request
from service.http.responses import JSONResponse
from service.http.routes import get
from service.queries import users
from service.security.principal import select_account
from service.structs.fields import UserId
from service.structs.users import User, UserProfile

PROFILE_POSTS = 50


class UserController(Controller):
    path = "/users"
    tags = ("users",)

    @get("/me")
    async def read_own_account(self, request: Request) -> User:
        """Read the account behind the token."""
        return await select_account(request.db, request.user)

    @get("/{user_id:str}", public=True, response_headers=[NEXT_PAGE], fails_with=(UserNotFound,))
    async def read_user(self, request: Request, user_id: FromPath[UserId]) -> JSONResponse[UserProfile]:
        """Read a user with the first page of their posts. While more follow, `Link` leads to the next page."""
        if (found := await users.select_profile(request.db, user_id, PROFILE_POSTS)) is None:
            raise UserNotFound
        profile, more = found
        return JSONResponse(
            profile, headers=next_page(profile.posts, more=more, limit=PROFILE_POSTS, user_id=profile.id)
        )
