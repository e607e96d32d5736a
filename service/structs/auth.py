"""Logins and tokens, named as OAuth 2 names them (RFC 6749)."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from service.structs.fields import PASSWORD_GRANT, REFRESH_GRANT, WITHOUT_NUL, GrantType, LoginName, LoginPassword


class TokenRequest(Struct):
    """A password grant (RFC 6749, section 4.3) or a refresh (section 6)."""

    # No upper limits: a value that no account can have is a wrong password or name like any other. An empty field of a
    # form counts as absent (section 3.2).
    username: Annotated[LoginName, Meta(examples=["maria"])] = LoginName("")
    password: Annotated[LoginPassword, Meta(examples=["correct horse battery"])] = LoginPassword("")
    grant_type: Annotated[GrantType, Meta(description="May be left out to log in.")] = PASSWORD_GRANT
    refresh_token: Annotated[
        str, Meta(pattern=WITHOUT_NUL, description="Only with the grant type `refresh_token`.")
    ] = ""

    @classmethod
    def required_with(cls, values: Mapping[str, object]) -> tuple[str, ...]:
        """The fields that a request with these values needs."""
        return ("refresh_token",) if values.get("grant_type") == REFRESH_GRANT else ("username", "password")


class RevokeRequest(Struct):
    """A token to revoke (RFC 7009, section 2.1)."""

    token: Annotated[
        str,
        Meta(min_length=1, pattern=WITHOUT_NUL, description="A refresh token or an access token, also an expired one."),
    ]


class TokenResponse(Struct, frozen=True, gc=False):
    """A successful token response (RFC 6749, section 5.1)."""

    access_token: Annotated[
        str, Meta(description="A JWT; send it as `Authorization: Bearer …`.", examples=["eyJhbGciOiJIUzI1NiIs…"])
    ]
    token_type: Literal["bearer"]
    expires_in: Annotated[int, Meta(description="Seconds until the access token expires.", examples=[1800])]
    refresh_token: Annotated[
        str,
        Meta(
            description="Exchange it for the next tokens with `grant_type=refresh_token`. Keep it secret.",
            examples=["rt_AAAAAA…"],
        ),
    ]


class Credentials(Struct, frozen=True, gc=False):
    """The stored credentials of an account. They are never part of a response."""

    id: int
    password_hash: str


class LoginRules(Struct, frozen=True):
    """The settings that limit failed logins. A limit of 0 is off."""

    per_account: int
    per_address: int
    window: timedelta
    address_known_for: timedelta


class LoginAddress(NamedTuple):
    """The network that an account logs in from, and what failures of the account from there are counted for."""

    network: str
    subject: bytes


class LoginSubjects(NamedTuple):
    """What failed logins are counted for: an account name, an address, and the name from an address that it knows."""

    account: bytes
    address: bytes
    account_at_address: bytes


class FailureCount(Struct, frozen=True, gc=False):
    """The failures of a subject that count now, its limit, and the seconds to wait if the limit is reached, else 0."""

    subject: bytes
    limit: int
    failures: int
    wait: int


class LoginState(Struct, frozen=True, gc=False):
    """What is stored before a password is verified: the account, if there is one, and the counts that apply."""

    account: Credentials | None
    counts: tuple[FailureCount, ...]
