"""Removes passwords, tokens, cookies and e-mail addresses from the text of log records.

Our own messages contain none. The texts of exceptions may: PostgreSQL quotes the values of a row that it refuses.
"""

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from litestar.types import Empty
from litestar.utils.scope.state import ScopeState

from service.observability.context import current_scopes

REMOVED: Final = "[removed]"

# A shorter value is no password, and removing it would make a text unreadable.
_MIN_LENGTH: Final = 6

_SECRET_HEADERS: Final = {b"authorization", b"proxy-authorization", b"cookie"}

# Every repetition that a match can begin in is bounded. Otherwise a long text would take quadratic time.
_NAME: Final = r"[\w-]{0,40}(?:password|passwd|secret|token|cookie|authorization)[\w-]{0,40}"
_VALUE: Final = r"""(?:b?"[^"\n]*"|b?'[^'\n]*'|(?:(?:bearer|basic) )?[^\s,;&)}\]]+)"""
_ATOM: Final = r"""[^\s@"'`<>()\[\]{},;:=&/]"""
_PATTERNS: Final = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # PostgreSQL's details: the values of a key or of a row.
        (r"(Key \([^\n]{1,200}?\)=).*", rf"\1{REMOVED}"),
        (r"(Failing row contains ).*", rf"\1{REMOVED}"),
        # asyncpg's and PostgreSQL's words about a value.
        (r"(invalid input for query argument \$\d+: )(?:.*(?= \()|.*)", rf"\1{REMOVED}"),
        (r"(invalid input (?:syntax|value) for [^:\n]{1,200}: ).*", rf"\1{REMOVED}"),
        # A field with its value, as in a struct, a dictionary, JSON, a form or a header.
        (rf"\b({_NAME})([\"']?\s{{0,3}}[:=]\s{{0,3}}){_VALUE}", rf"\1\2{REMOVED}"),
        (r"\b(bearer|basic)\s{1,3}[\w.~+/=-]{8,}", rf"\1 {REMOVED}"),
        (r"\beyJ[\w-]{1,500}\.[\w-]{1,1000}\.[\w-]*", REMOVED),  # a JWT
        (r"\$argon2\w{0,10}\$[\w$=,+/.-]+", REMOVED),
        (r"(\b\w{1,20}://[^\s/@:]{0,100}:)[^\s/@]{1,200}@", rf"\1{REMOVED}@"),  # the password of a URL
        (rf"{_ATOM}{{1,64}}(?:@|%40){_ATOM}{{1,255}}\.{_ATOM}+", REMOVED),  # an e-mail address
    )
]
_is_secret_name: Final = re.compile(_NAME, re.IGNORECASE).fullmatch


def redact(text: str) -> str:
    """Remove the secrets of the current requests, and whatever looks like a secret or an e-mail address."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, REMOVED)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _secrets() -> set[str]:
    """The secret values of the current requests, also as ``repr`` writes them."""
    found = {value for scope in current_scopes() for value in _values(scope) if len(value) >= _MIN_LENGTH}
    return found | {repr(value)[1:-1] for value in found}


def _values(scope: dict[str, Any]) -> Iterator[str]:
    for name, value in scope["headers"]:
        if name in _SECRET_HEADERS:
            yield from value.decode("latin-1").split()
    body = ScopeState.from_scope(scope).body if "path_template" in scope else Empty  # type: ignore[arg-type]
    if body is Empty:
        return
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields = dict(parse_qsl(body.decode("utf-8", "replace")))
    if isinstance(fields, dict):
        yield from (text for name, text in fields.items() if isinstance(text, str) and _is_secret_name(name))
