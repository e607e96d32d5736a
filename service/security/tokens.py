"""Access tokens: JWTs (RFC 7519) signed with HS256. Each belongs to a session."""

import time
from functools import lru_cache
from typing import Any, Final

import jwt

from service.errors import InvalidToken
from service.security import base64url
from service.security.keys import Keys
from service.structs.fields import is_id
from service.structs.sessions import Principal

ISSUER: Final = "accounts-and-posts"
ALGORITHM: Final = "HS256"
TYPE: Final = "at+jwt"  # RFC 9068
CACHE_SIZE: Final = 10_000  # tokens
MAX_LENGTH: Final = 1024  # characters; ours have about 250
CLOCK_SKEW: Final = 60  # seconds by which the clock of another machine that issues tokens may be ahead
CLAIMS: Final = ("iss", "sub", "sid", "iat", "exp")


class AccessTokens:
    """Issues and verifies access tokens.

    Verifying a signature costs more than the rest of a read, so the result for a valid token is cached, with the whole
    token as the key. What can change is checked on every request: the expiry here, the session by the statement of the
    route.
    """

    def __init__(self, keys: Keys, lifetime: int) -> None:
        """``lifetime`` in seconds."""
        self._keys = keys
        self.lifetime = lifetime
        self._verify_cached = lru_cache(CACHE_SIZE)(self._verify)

    def issue(self, principal: Principal) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": str(principal.user_id),
            "sid": str(principal.session_id),
            "iat": now,
            "exp": now + self.lifetime,
        }
        return jwt.encode(claims, self._keys.signing, ALGORITHM, headers={"typ": TYPE, "kid": self._keys.id})

    def read(self, token: str) -> Principal:
        """Return the principal. Raises ``InvalidToken`` unless this service issued the token and it has not expired.

        The session may have ended: the statement of the route decides that.
        """
        if len(token) > MAX_LENGTH:
            raise InvalidToken
        principal, expires = self._verify_cached(token)
        if expires <= time.time():
            raise InvalidToken
        return principal

    def read_expired(self, token: str) -> Principal | None:
        """Return the principal of a token of ours, expired or not; ``None`` for any other text."""
        try:
            return self._verify_cached(token)[0] if len(token) <= MAX_LENGTH else None
        except InvalidToken:
            return None

    def _verify(self, token: str) -> tuple[Principal, int]:
        try:
            header: dict[str, Any] = jwt.get_unverified_header(token)
            if header.get("typ") != TYPE or (key := self._keys.find(header.get("kid"))) is None:
                raise InvalidToken
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                leeway=CLOCK_SKEW,  # for `iat`; `read` checks the expiry to the second
                options={"require": list(CLAIMS), "verify_exp": False},
            )
            # The signature covers the spelling of header and payload, but not its own.
            base64url.decode(token.rpartition(".")[2])
        except (jwt.InvalidTokenError, RecursionError, ValueError):  # a deeply nested header, another spelling
            raise InvalidToken from None
        user_id, session_id, expires = claims["sub"], claims["sid"], claims["exp"]
        if not (isinstance(user_id, str) and isinstance(session_id, str) and isinstance(expires, int)):
            raise InvalidToken
        if not is_id(user_id) or not is_id(session_id):
            raise InvalidToken
        return Principal(int(user_id), int(session_id)), expires
