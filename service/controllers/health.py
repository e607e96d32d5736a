"""Whether the process runs, and whether it can serve."""

from litestar import Controller
from msgspec import Struct

from service.errors import DatabaseUnavailable, Stopping
from service.http.headers import NO_STORE
from service.http.requests import Request
from service.http.routes import get


class Message(Struct, frozen=True):
    message: str


class HealthController(Controller):
    tags = ("Operation",)

    @get(
        "/",
        public=True,
        summary="Find the API page",
        response_description="What this is, and where the API page is.",
    )
    async def greet(self) -> Message:
        """For people who open the address of the service in a browser."""
        return Message("Accounts and posts. The API page is at docs, relative to this address.")

    @get(
        "/health/live",
        public=True,
        summary="Check that the process runs",
        response_description="The process runs.",
        cache_control=NO_STORE,
    )
    async def is_live(self) -> Message:
        """The state of the database does not matter."""
        return Message("live")

    @get(
        "/health/ready",
        public=True,
        summary="Check that the service can be used",
        response_description="The service can be used.",
        cache_control=NO_STORE,
        fails_with=(DatabaseUnavailable, Stopping),
    )
    async def is_ready(self, request: Request) -> Message:
        """Ready means that the database answers and accepts writes, and that the service has not been told to stop."""
        if request.scope["state"].get("stopping"):  # set by the server
            raise Stopping
        if not await request.db.answers():
            raise DatabaseUnavailable
        return Message("ready")
