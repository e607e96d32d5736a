"""Whether the process runs, and whether it can serve."""

from litestar import Controller
from msgspec import Struct

from service.errors import DatabaseUnavailable
from service.requests import Request
from service.routes import get


class Message(Struct, frozen=True):
    message: str


class HealthController(Controller):
    tags = ("operation",)

    @get("/", sync_to_thread=False)
    def greet(self) -> Message:
        """Say what this is."""
        return Message("Accounts and posts. The API is described at /docs.")

    @get("/health/live", sync_to_thread=False)
    def is_live(self) -> Message:
        """Answer while the process runs."""
        return Message("live")

    @get("/health/ready", fails_with=(DatabaseUnavailable,))
    async def is_ready(self, request: Request) -> Message:
        """Answer 200 while the database does, else 503."""
        if not await request.db.answers():
            raise DatabaseUnavailable
        return Message("ready")
