"""Positions in search results, as opaque text with an HMAC. A position is valid for its query and in every process."""

import hashlib
import hmac
import struct
from typing import Final

from service.security import base64url
from service.security.keys import Keys
from service.structs.posts import SearchPosition

_METHODS: Final = ("undecided", "index", "scan")
_PAYLOAD: Final = struct.Struct(">4sBqqfq")  # the id of the key, and a position; PostgreSQL's ranks have 32 bits
_USER: Final = struct.Struct(">q")
LENGTH: Final = 87  # characters


class SearchPositions:
    """Issues and verifies positions."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def issue(self, position: SearchPosition, query: str, user_id: int | None) -> str:
        key_id = bytes.fromhex(self._keys.id)
        method = _METHODS.index(position.method)
        payload = _PAYLOAD.pack(key_id, method, position.newest, position.oldest, position.rank, position.id)
        return base64url.encode(payload + _mac(self._keys.signing, payload, query, user_id))

    def read(self, text: str, query: str, user_id: int | None) -> SearchPosition | None:
        """Return a position that was issued for this query; ``None`` for any other text."""
        if len(text) != LENGTH:
            return None
        try:
            content = base64url.decode(text)
        except ValueError:
            return None
        payload, mac = content[: _PAYLOAD.size], content[_PAYLOAD.size :]
        key_id, method, newest, oldest, rank, row_id = _PAYLOAD.unpack(payload)
        key = self._keys.find(key_id.hex())
        if key is None or not hmac.compare_digest(mac, _mac(key, payload, query, user_id)):
            return None
        return SearchPosition(_METHODS[method], newest, oldest, rank, row_id)


def _mac(key: bytes, payload: bytes, query: str, user_id: int | None) -> bytes:
    # Only the last part has no fixed length, so no two inputs have the same bytes.
    return hmac.digest(key, payload + _USER.pack(user_id or 0) + query.encode(), hashlib.sha256)
