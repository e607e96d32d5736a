"""Logins and tokens, named as OAuth 2 names them (RFC 6749)."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.structs.fields import WITHOUT_NUL


class PasswordGrant(Struct):
    """A resource owner password credentials grant (RFC 6749, section 4.3)."""

    # No upper limits: what no account can have is simply wrong, and the answer must not tell the two apart.
    username: Annotated[str, Meta(min_length=1, pattern=WITHOUT_NUL, examples=["alice"])]
    password: Annotated[str, Meta(min_length=1, pattern=WITHOUT_NUL, examples=["correct horse battery"])]
    grant_type: Literal["password"] = "password"


class AccessToken(Struct, frozen=True, gc=False):
    """A successful token response (RFC 6749, section 5.1)."""

    access_token: Annotated[str, Meta(description="A JWT; send it as `Authorization: Bearer …`.")]
    token_type: Literal["bearer"]
    expires_in: Annotated[int, Meta(description="Seconds until the token expires.", examples=[1800])]


class Credentials(Struct, frozen=True, gc=False):
    """What a login is checked against; never leaves the process."""

    id: int
    password_hash: str
