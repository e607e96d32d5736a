"""base64url without padding (RFC 7515, appendix C), with one spelling for each value."""

import base64
import binascii


def encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Raises ``ValueError`` for every spelling that ``encode`` would not write."""
    try:
        value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("not base64url") from None
    if encode(value) != text:
        raise ValueError("not the one spelling of its value")
    return value
