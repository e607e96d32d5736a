"""The sessions of the own account."""

from litestar import Controller
from litestar.params import FromPath

from service.errors import SessionNotFound
from service.http.headers import NO_STORE
from service.http.requests import Request
from service.http.routes import delete, get
from service.queries import sessions
from service.security import events
from service.structs.fields import SessionId
from service.structs.sessions import Session


class SessionController(Controller):
    path = "/users/me/sessions"
    tags = ("Sessions",)
    cache_control = NO_STORE

    @get("/", summary="List your sessions", response_description="Your sessions, newest first.")
    async def list_sessions(self, request: Request) -> list[Session]:
        """Every login opens a session. One of them is the session of this request."""
        return await sessions.select_of_user(request.db, request.user)

    @delete(
        "/{session_id:str}",
        summary="End a session",
        response_description="The session has ended.",
        fails_with=(SessionNotFound,),
    )
    async def end_session(self, request: Request, session_id: FromPath[SessionId]) -> None:
        """Its access tokens and its refresh token are no longer valid, from now on and in every process."""
        if not await sessions.delete(request.db, session_id, request.user):
            raise SessionNotFound
        events.session_ended(request, request.user.user_id)

    @delete("/", summary="End all of your sessions", response_description="All of your sessions have ended.")
    async def end_all_sessions(self, request: Request) -> None:
        """Ends the session of this request, too."""
        await sessions.delete_of_user(request.db, request.user)
        events.session_ended(request, request.user.user_id)
