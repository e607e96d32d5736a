"""Logins and tokens, named as OAuth 2 names them (RFC 6749)."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service.structs.fields import GrantType, LoginName, LoginPassword


class PasswordGrant(Struct):
    """A resource owner password credentials grant (RFC 6749, section 4.3)."""

    # No upper limits: a value that no account can have is a wrong password or name like any other.
    username: Annotated[LoginName, Meta(examples=["maria"])]
    password: Annotated[LoginPassword, Meta(examples=["correct horse battery"])]
    grant_type: Annotated[GrantType, Meta(description="May be left out.")] | UnsetType = UNSET


class AccessToken(Struct, frozen=True, gc=False):
    """A successful token response (RFC 6749, section 5.1)."""

    access_token: Annotated[
        str, Meta(description="A JWT; send it as `Authorization: Bearer …`.", examples=["eyJhbGciOiJIUzI1NiIs…"])
    ]
    token_type: Literal["bearer"]
    expires_in: Annotated[int, Meta(description="Seconds until the token expires.", examples=[1800])]


class Credentials(Struct, frozen=True, gc=False):
    """The stored credentials of an account. They are never part of a response."""

    id: int
    password_hash: str
