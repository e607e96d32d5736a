"""Registration and login."""

from litestar import Controller
from litestar.params import JSONBody, URLEncodedBody

from service.errors import (
    HashingFailed,
    IncorrectCredentials,
    TooManyPasswords,
    UnsupportedGrantType,
    UsernameOrEmailTaken,
)
from service.http.headers import NO_STORE
from service.http.links import LOCATION, relative
from service.http.requests import Request
from service.http.responses import JSONResponse
from service.http.routes import post
from service.queries import auth, users
from service.security import events
from service.structs.auth import AccessToken, PasswordGrant
from service.structs.users import User, UserCreate


class AuthController(Controller):
    path = "/auth"
    tags = ("Registration and login",)
    cache_control = NO_STORE

    @post(
        "/register",
        public=True,
        summary="Register an account",
        response_description="The new account.",
        response_headers=[LOCATION],
        fails_with=(UsernameOrEmailTaken, TooManyPasswords, HashingFailed),
    )
    async def register(self, request: Request, data: JSONBody[UserCreate]) -> JSONResponse[User]:
        """Anyone may register. Usernames and e-mail addresses are unique."""
        password_hash = await request.passwords.hash(data.password)
        if (user := await users.insert(request.db, data.username, data.email, password_hash)) is None:
            raise UsernameOrEmailTaken
        events.user_created(request, user.id)
        return JSONResponse(user, headers={"Location": relative(request.scope, f"users/{user.id}")})

    @post(
        "/token",
        public=True,
        summary="Log in",
        response_description="An access token.",
        status_code=200,
        fails_with=(UnsupportedGrantType, IncorrectCredentials, TooManyPasswords, HashingFailed),
    )
    async def login(self, request: Request, data: URLEncodedBody[PasswordGrant]) -> AccessToken:
        """Exchange a username and a password for an access token (OAuth 2, password grant).

        On the API page, **Authorize** does the same, and sends the token with each request.
        """
        account = await auth.select_credentials(request.db, data.username)
        is_correct = await request.passwords.verify(data.password, account.password_hash if account else None)
        if account is None or not is_correct:
            events.login_failed(request, account.id if account else None)
            raise IncorrectCredentials
        if await request.passwords.needs_rehash(data.password, account.password_hash):
            renewed = await request.passwords.hash(data.password)
            await auth.update_hash(request.db, account.id, account.password_hash, renewed)
        events.login_succeeded(request, account.id)
        return AccessToken(request.tokens.issue(account.id), "bearer", request.tokens.lifetime)
