"""The own account."""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from litestar import Controller
from litestar.params import JSONBody

from service.errors import HashingFailed, IncorrectPassword, TooManyAttempts, TooManyPasswords, UsernameOrEmailTaken
from service.http.headers import NO_STORE
from service.http.requests import Request
from service.http.responses import JSON, JSONStream
from service.http.routes import get, patch, post
from service.queries import account, pages, sessions
from service.security import events
from service.security.guards import requires_session
from service.structs.users import AccountDeletion, AccountUpdate, Export, PasswordChange, User

PAGE: Final = 50  # posts that an export reads at a time
_ACCOUNT: Final = ("Account",)
_VERIFIED: Final = (IncorrectPassword, TooManyAttempts, TooManyPasswords, HashingFailed)


class AccountController(Controller):
    path = "/users/me"
    cache_control = NO_STORE

    @get("/", tags=("Users",), summary="Read your own account", response_description="Your account.")
    async def read_own_account(self, request: Request) -> User:
        """The account of the user whose access token is sent."""
        return await account.select(request.db, request.user)

    @patch(
        "/",
        tags=_ACCOUNT,
        summary="Change your own account",
        response_description="Your changed account.",
        guards=[requires_session],
        fails_with=(*_VERIFIED, UsernameOrEmailTaken),
    )
    async def update_own_account(self, request: Request, data: JSONBody[AccountUpdate]) -> User:
        """A field that is left out keeps its value. No session ends."""
        verified = await request.verify_password(data.current_password)
        if (changed := await account.update(request.db, request.user, verified, data)) is None:
            await sessions.require_alive(request.db, request.user)
            raise IncorrectPassword  # it has been changed since it was verified
        events.user_updated(request, changed.id)
        return changed

    @post(
        "/password",
        tags=_ACCOUNT,
        summary="Change your password",
        response_description="The password is changed.",
        status_code=204,
        guards=[requires_session],
        fails_with=_VERIFIED,
    )
    async def change_password(self, request: Request, data: JSONBody[PasswordChange]) -> None:
        """Ends all of your other sessions."""
        user = await account.select(request.db, request.user)
        request.denylist.check("/new_password", data.new_password, username=user.username, email=user.email)
        verified = await request.verify_password(data.current_password)
        new_hash = await request.passwords.hash(data.new_password)
        if not await account.update_password(request.db, request.user, verified, new_hash):
            await sessions.require_alive(request.db, request.user)
            raise IncorrectPassword
        events.password_changed(request, verified.id)

    @get(
        "/export",
        tags=_ACCOUNT,
        summary="Export your data",
        response_description="Everything that is stored about you.",
    )
    async def export(self, request: Request) -> JSONStream[Export]:
        """A JSON file with your account, sessions, known addresses and posts. It has no secrets."""
        principal = request.user
        parts = {
            "account": await account.select(request.db, principal),
            "sessions": await sessions.select_of_user(request.db, principal),
            "known_addresses": await account.select_known_addresses(request.db, principal.user_id),
        }

        # No connection is held while the client reads, and only one page is in memory.
        async def pieces() -> AsyncIterator[bytes]:
            yield msgspec.json.encode(parts)[:-1] + b',"posts":['
            after = 0 if request.method == "GET" else None  # the body of HEAD is not sent
            separator = b""
            while after is not None:
                page = await pages.select_page(request.db, PAGE, after, principal.user_id)
                if page.posts:
                    yield separator + msgspec.json.encode(page.posts)[1:-1]
                    separator = b","
                after = page.after
            yield b"]}"

        disposition = {"Content-Disposition": 'attachment; filename="export.json"'}
        return JSONStream(pieces(), media_type=JSON, headers=disposition)

    @post(
        "/deletion",
        tags=_ACCOUNT,
        summary="Delete your account",
        response_description="The account is deleted.",
        status_code=204,
        guards=[requires_session],
        fails_with=_VERIFIED,
    )
    async def delete_own_account(self, request: Request, data: JSONBody[AccountDeletion]) -> None:
        """Deletes your posts and ends all of your sessions, too. This cannot be undone."""
        verified = await request.verify_password(data.current_password)
        if not await account.delete(request.db, request.user, verified):
            await sessions.require_alive(request.db, request.user)
            raise IncorrectPassword
        events.user_deleted(request, verified.id)
