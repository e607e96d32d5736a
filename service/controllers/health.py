"""Whether the process runs, and whether it can serve."""

from litestar import Controller
from msgspec import Struct

from service.errors import DatabaseUnavailable, Stopping
from service.http.requests import Request
from service.http.routes import get


class Message(Struct, frozen=True):
    message: str


class HealthController(Controller):
    tags = ("operation",)

    @get("/", public=True)
    async def greet(self) -> Message:
        """Say what this is."""
        return Message("Accounts and posts. The API is described at /docs.")

    @get("/health/live", public=True)
    async def is_live(self) -> Message:
        """Answer while the process runs."""
        return Message("live")

    @get("/health/ready", public=True, fails_with=(DatabaseUnavailable, Stopping))
    async def is_ready(self, request: Request) -> Message:
        """Answer 200 while the database does, else 503; 503 also as soon as the service is told to stop."""
        if request.scope["state"].get("stopping"):  # set by the server
            raise Stopping
        if not await request.db.answers():
            raise DatabaseUnavailable
        return Message("ready")
