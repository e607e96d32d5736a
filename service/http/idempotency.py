"""The Idempotency-Key of a request (draft-ietf-httpapi-idempotency-key-header)."""

import re
from typing import Final

from litestar.datastructures import ResponseHeader
from litestar.types import Scope

from service.errors import MalformedIdempotencyKey

MAX_KEY_LENGTH: Final = 255

# As the OpenAPI document describes them.
IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes a retry safe. For 24 hours, the same key with the same body returns the first response "
    "again, and creates nothing. With or without quotes.",
    "schema": {"type": "string", "pattern": "^[!#-~][!-~]*$", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
    "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
}
IDEMPOTENCY_REPLAYED: Final = ResponseHeader(
    name="Idempotency-Replayed",
    documentation_only=True,
    description="`true` if the key has been used before, so this is the response to the first request.",
)

_VISIBLE: Final = re.compile(rb"[\x21-\x7e]+")
# A string of structured fields (RFC 8941, section 3.3.3), without spaces.
_QUOTED: Final = re.compile(rb'"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\])+)"')
_ESCAPED: Final = re.compile(rb"\\(.)")


def idempotency_key(scope: Scope) -> str | None:
    """The key of a request, without the quotes that it may have. Raises ``MalformedIdempotencyKey``."""
    found = None
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            if found is not None:  # a request has one key
                raise MalformedIdempotencyKey
            found = value
    return None if found is None else _parse(found.strip(b" \t"))


def _parse(value: bytes) -> str:
    if quoted := _QUOTED.fullmatch(value):
        value = _ESCAPED.sub(rb"\1", quoted[1])
    elif value.startswith(b'"') or not _VISIBLE.fullmatch(value):
        raise MalformedIdempotencyKey
    if len(value) > MAX_KEY_LENGTH:
        raise MalformedIdempotencyKey
    return value.decode("ascii")
