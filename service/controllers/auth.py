"""Registration, login, and the tokens of a session."""

from litestar import Controller
from litestar.params import JSONBody, URLEncodedBody

from service.errors import (
    HashingFailed,
    IncorrectCredentials,
    InvalidRefreshToken,
    TooManyAttempts,
    TooManyPasswords,
    UnsupportedGrantType,
    UsernameOrEmailTaken,
)
from service.http.headers import NO_STORE
from service.http.links import LOCATION, relative
from service.http.requests import Request
from service.http.responses import JSONResponse
from service.http.routes import post
from service.queries import auth, sessions, users
from service.security import events
from service.structs.auth import Credentials, RevokeRequest, TokenRequest, TokenResponse
from service.structs.fields import REFRESH_GRANT
from service.structs.sessions import Principal, RefreshTokenContent
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
        fails_with=(UsernameOrEmailTaken, TooManyAttempts, TooManyPasswords, HashingFailed),
    )
    async def register(self, request: Request, data: JSONBody[UserCreate]) -> JSONResponse[User]:
        """Anyone may register. Usernames and e-mail addresses are unique."""
        request.denylist.check("/password", data.password, username=data.username, email=data.email)
        try:
            await request.logins.count_registration(request.db, request.device.address)
        except TooManyAttempts:
            events.registration_throttled(request)
            raise
        password_hash = await request.passwords.hash(data.password)
        if (user := await users.insert(request.db, data.username, data.email, password_hash)) is None:
            raise UsernameOrEmailTaken
        events.user_created(request, user.id)
        return JSONResponse(user, headers={"Location": relative(request.scope, f"users/{user.id}")})

    @post(
        "/token",
        public=True,
        summary="Log in or refresh the tokens",
        response_description="An access token and a refresh token.",
        status_code=200,
        fails_with=(
            UnsupportedGrantType,
            InvalidRefreshToken,
            IncorrectCredentials,
            TooManyAttempts,
            TooManyPasswords,
            HashingFailed,
        ),
    )
    async def create_token(self, request: Request, data: URLEncodedBody[TokenRequest]) -> TokenResponse:
        """A username and a password open a session. A refresh token continues it.

        A refresh token is used once: the response has the next one. For a short time after that, the previous one
        returns the current one again, so that a lost response logs nobody out. Any other use of an old refresh token
        ends the session. On the API page, **Authorize** logs in, and sends the access token with each request.
        """
        opened = await (_refresh(request, data) if data.grant_type == REFRESH_GRANT else _log_in(request, data))
        return _tokens(request, *opened)

    @post(
        "/revoke",
        public=True,
        summary="Log out with a token",
        response_description="The session of the token has ended, or there was none.",
        status_code=200,
    )
    async def revoke_token(self, request: Request, data: URLEncodedBody[RevokeRequest]) -> None:
        """Ends the session of a refresh token or an access token, also of an expired one (RFC 7009)."""
        found = request.refresh_tokens.read(data.token) or request.access_tokens.read_expired(data.token)
        if found and (user_id := await sessions.delete_any(request.db, found.session_id)):
            events.session_ended(request, user_id)


async def _log_in(request: Request, data: TokenRequest) -> tuple[Principal, RefreshTokenContent]:
    device = request.device
    account = await _verify(request, data)
    if await request.passwords.needs_rehash(data.password, account.password_hash):
        renewed = Credentials(account.id, await request.passwords.hash(data.password))
        # If it is not stored, another login has renewed the hash meanwhile, or the password has been changed.
        is_stored = await auth.update_hash(request.db, account, renewed)
        account = renewed if is_stored else await _verify(request, data)
    known = request.logins.login_address(data.username, device.address)
    content = await sessions.insert(request.db, account, request.lifetimes, device, known)
    if content is None:  # the password has been changed since it was verified
        events.login_failed(request, account.id)
        raise IncorrectCredentials
    events.login_succeeded(request, account.id)
    return Principal(account.id, content.session_id), content


async def _verify(request: Request, data: TokenRequest) -> Credentials:
    try:
        account, is_correct = await request.logins.verify(
            request.db, data.username, data.password, request.device.address
        )
    except TooManyAttempts:
        events.login_throttled(request)
        raise
    if account is None or not is_correct:
        events.login_failed(request, account.id if account else None)
        raise IncorrectCredentials
    return account


async def _refresh(request: Request, data: TokenRequest) -> tuple[Principal, RefreshTokenContent]:
    presented = request.refresh_tokens.read(data.refresh_token)
    refreshed = presented and await sessions.refresh(request.db, presented, request.lifetimes, request.device)
    if not refreshed:
        raise InvalidRefreshToken
    principal, content = refreshed
    if content is None:
        events.refresh_token_reused(request, principal.user_id)
        raise InvalidRefreshToken
    return principal, content


def _tokens(request: Request, principal: Principal, content: RefreshTokenContent) -> TokenResponse:
    return TokenResponse(
        request.access_tokens.issue(principal),
        "bearer",
        request.access_tokens.lifetime,
        request.refresh_tokens.issue(content),
    )
