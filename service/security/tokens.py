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
CACHE_SIZE: Final = 10_000  # tokens
MAX_LENGTH: Final = 1024  # characters; ours have about 200
CLOCK_SKEW: Final = 60  # seconds by which the clock of another machine that issues tokens may be ahead
CLAIMS: Final = ("iss", "sub", "iat", "exp")


class Tokens:
    """Issues and verifies access tokens.

    Verifying a signature costs more than the rest of a read, so the result for a valid token is cached, with the whole
    token as the key. What can change is checked on every request: the expiry here, the user by the route's statement.
    """

    def __init__(self, secret_key: bytes, lifetime: int) -> None:
        """``lifetime`` in seconds."""
        self._secret_key = secret_key
        self.lifetime = lifetime
        self._verify_cached = lru_cache(CACHE_SIZE)(self._verify)

    def issue(self, user_id: int) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": str(user_id), "iat": now, "exp": now + self.lifetime}
        return jwt.encode(claims, self._secret_key, ALGORITHM)

    def read(self, token: str) -> int:
        """Return the user's id. Raises ``InvalidToken`` unless this service issued the token and it has not expired."""
        if len(token) > MAX_LENGTH:
            raise InvalidToken
        user_id, expires = self._verify_cached(token)
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
    """Whether this is the one spelling of the signature in base64url.

    PyJWT's decoder also accepts padding, other characters, and other unused bits in the last character. Header and
    payload need no such check: the signature covers their spelling.
    """
    return base64url_encode(base64url_decode(signature)).decode() == signature
