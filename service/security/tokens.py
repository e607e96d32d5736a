"""Access tokens: JWTs (RFC 7519) signed with HS256."""

import time
from functools import lru_cache
from typing import Final

import jwt
from jwt.utils import base64url_decode, base64url_encode

from service.errors import InvalidToken
from service.structs.fields import is_id

ISSUER: Final = "accounts-and-posts"
ALGORITHM: Final = "HS256"
REMEMBERED: Final = 10_000
MAX_LENGTH: Final = 1024  # in characters; ours have about 200
CLOCK_SKEW: Final = 60  # seconds that the clock of another issuing machine may be ahead
CLAIMS: Final = ("iss", "sub", "iat", "exp")


class Tokens:
    """Issues and verifies access tokens.

    To check a signature is a good part of what a request costs, so the verdict on a good token is remembered, under
    the whole token. What changes with time is looked at on every request: its end here, its user by the statement.
    """

    def __init__(self, secret_key: bytes, lifetime: int) -> None:
        """``lifetime`` in seconds."""
        self._secret_key = secret_key
        self.lifetime = lifetime
        self._remembered = lru_cache(REMEMBERED)(self._verify)

    def issue(self, user_id: int) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": str(user_id), "iat": now, "exp": now + self.lifetime}
        return jwt.encode(claims, self._secret_key, ALGORITHM)

    def read(self, token: str) -> int:
        """Return the user's id. Raises ``InvalidToken`` for any token that is not ours, not intact or expired."""
        if len(token) > MAX_LENGTH:
            raise InvalidToken
        user_id, expires = self._remembered(token)
        if expires <= time.time():
            raise InvalidToken
        return user_id

    def _verify(self, token: str) -> tuple[int, int]:
        try:
            claims = jwt.decode(
                token,
                self._secret_key,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                leeway=CLOCK_SKEW,  # for `iat`; `read` checks the expiry to the second
                options={"require": list(CLAIMS)},
            )
        except (jwt.InvalidTokenError, RecursionError):  # the latter from a deeply nested header
            raise InvalidToken from None
        if not _is_canonical(token.rpartition(".")[2]):
            raise InvalidToken
        subject, expires = claims["sub"], claims["exp"]
        if not is_id(subject) or not isinstance(expires, int):  # which PyJWT also accepts as text
            raise InvalidToken
        return int(subject), expires


def _is_canonical(signature: str) -> bool:
    """Whether base64url would write these bytes like this.

    PyJWT's decoder also accepts padding, other characters, and other unused bits in the last character. Header and
    payload need no such check, because they are signed as they are written.
    """
    return base64url_encode(base64url_decode(signature)).decode() == signature
