"""The keys that sign: one for each purpose, derived from a secret key."""

import hashlib
import hmac
from typing import Final

from msgspec import Struct

ACCESS_TOKEN: Final = b"access token"
REFRESH_TOKEN: Final = b"refresh token"
LOGIN_FAILURES: Final = b"login failures"
SEARCH_POSITION: Final = b"search position"
_ID: Final = b"id"


class SecretKey(Struct, frozen=True):
    """``SECRET_KEY``, which signs, or ``SECRET_KEY_PREVIOUS``, which only verifies."""

    secret: bytes

    def derive(self, purpose: bytes) -> bytes:
        """The 32 bytes that sign for one purpose, so that a token of one kind is never valid as another."""
        return hmac.digest(self.secret, purpose, hashlib.sha256)

    @property
    def id(self) -> str:
        """Names the key in a token. It only selects the key, and reveals nothing about it."""
        return self.derive(_ID)[:4].hex()

    def __repr__(self) -> str:
        return f"SecretKey({self.id})"


class Keys:
    """The keys for one purpose, by their ids. The first one signs, and all of them verify.

    If two of them have the same id, the first one is used.
    """

    def __init__(self, secrets: tuple[SecretKey, ...], purpose: bytes) -> None:
        self._by_id = {secret.id: secret.derive(purpose) for secret in reversed(secrets)}
        self.id = secrets[0].id
        self.signing = self._by_id[self.id]

    def find(self, key_id: object) -> bytes | None:
        """The key with this id; ``None`` if there is none."""
        return self._by_id.get(key_id) if isinstance(key_id, str) else None
