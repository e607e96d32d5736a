"""Refresh tokens: a session, its generation, and an HMAC over both.

The database stores only the generation, so nothing in it helps a thief, and the token of a generation can be computed
again. A forged token is recognised without a statement.
"""

import hashlib
import hmac
import struct
from typing import Final

from service.security import base64url
from service.security.keys import Keys
from service.structs.sessions import RefreshTokenContent

PREFIX: Final = "rt_"  # for people, and for programs that look for secrets in text
_PAYLOAD: Final = struct.Struct(">4sQQ")  # the id of the key, the session, the generation
_MAC_BYTES: Final = 32
MAX_LENGTH: Final = 128  # characters; ours have 73


class RefreshTokens:
    """Issues and verifies refresh tokens."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def issue(self, content: RefreshTokenContent) -> str:
        payload = _PAYLOAD.pack(bytes.fromhex(self._keys.id), content.session_id, content.generation)
        return PREFIX + base64url.encode(payload + _mac(self._keys.signing, payload))

    def read(self, token: str) -> RefreshTokenContent | None:
        """Return what a token of ours contains; ``None`` for any other text."""
        if len(token) > MAX_LENGTH or not token.startswith(PREFIX):
            return None
        try:
            content = base64url.decode(token.removeprefix(PREFIX))
        except ValueError:
            return None
        if len(content) != _PAYLOAD.size + _MAC_BYTES:
            return None
        payload, mac = content[: _PAYLOAD.size], content[_PAYLOAD.size :]
        key_id, session_id, generation = _PAYLOAD.unpack(payload)
        key = self._keys.find(key_id.hex())
        if key is None or not hmac.compare_digest(mac, _mac(key, payload)):
            return None
        return RefreshTokenContent(session_id, generation)


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, payload, hashlib.sha256)
