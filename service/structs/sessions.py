"""Sessions: who is calling, what a refresh token contains, and what clients see."""

from datetime import timedelta
from typing import Annotated, Final

from msgspec import Meta, Struct

from service.structs.fields import Timestamp

MAX_USER_AGENT_LENGTH: Final = 200


class Principal(Struct, frozen=True, gc=False):
    """The user and the session for which the access token of a request was issued.

    A valid token does not prove that its session is still alive. The statement of a route finds the session alive, or
    does nothing.
    """

    user_id: int
    session_id: int


class Lifetimes(Struct, frozen=True, gc=False):
    """How long a session lives without a refresh, how long at most, and how long a replaced refresh token is valid."""

    idle: timedelta
    longest: timedelta
    grace: timedelta


class RefreshTokenContent(Struct, frozen=True, gc=False):
    """The session of a refresh token, and the token's number in that session."""

    session_id: int
    generation: int


class Device(Struct, frozen=True, gc=False):
    """What a login or a refresh came from."""

    user_agent: str
    address: str


class Session(Struct, frozen=True, gc=False):
    """A session that is alive."""

    id: Annotated[int, Meta(examples=[1])]
    created_at: Annotated[Timestamp, Meta(examples=["2026-11-22T12:25:55.978298Z"])]
    last_used_at: Annotated[
        Timestamp, Meta(description="The last login or refresh.", examples=["2026-11-22T12:25:55.978298Z"])
    ]
    expires_at: Annotated[
        Timestamp,
        Meta(description="The end of the session without another refresh.", examples=["2026-12-22T12:25:55.978298Z"]),
    ]
    user_agent: Annotated[
        str, Meta(description="Of the last login or refresh; its first 200 characters.", examples=["Mozilla/5.0"])
    ]
    address: Annotated[str, Meta(description="Where the last login or refresh came from.", examples=["203.0.113.7"])]
    current: Annotated[bool, Meta(description="Whether this request belongs to it.", examples=[True])]
