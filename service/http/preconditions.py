"""Entity tags, and the conditions on them in a request (RFC 9110, sections 8.8.3 and 13)."""

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, Final

from litestar.datastructures import ResponseHeader
from litestar.types import Scope

from service.errors import MalformedPrecondition, PostChanged, ServiceError
from service.http.responses import JSONResponse, encode_once
from service.structs.fields import MAX_ID
from service.structs.posts import ANY_VERSION, StoredPost, VersionCondition

# Increase it with every change to how a post is represented: caches and clients then have another tag.
FORMAT: Final = 1

_PATTERN: Final = r'^(\*|((W/)?"[!#-~]*")?( *, *((W/)?"[!#-~]*")?)*)$'
# As the OpenAPI document describes them. As parameters of a handler they would make every read slower.
IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "Entity tags, or `*`. Another version than theirs is a 412, and nothing is written.",
    "schema": {"type": "string", "pattern": _PATTERN},
}
IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "Entity tags, or `*`. A version with one of them is a 304, or a 412 if the request would write.",
    "schema": {"type": "string", "pattern": _PATTERN},
}
ETAG: Final = ResponseHeader(name="ETag", documentation_only=True)
NOT_MODIFIED: Final = {
    "description": "The client has this version. There is no body.",
    "headers": {"ETag": {}},
}

_IF_MATCH: Final = b"if-match"
_IF_NONE_MATCH: Final = b"if-none-match"
_NAMES: Final = frozenset({_IF_MATCH, _IF_NONE_MATCH})

# An element of a list, which may be empty (RFC 9110, section 5.6.1). Possessive, so that no input makes it slow.
_ELEMENT: Final = re.compile(rb'[ \t]*+(?:(W/)?("[\x21\x23-\x7e\x80-\xff]*+")[ \t]*+)?(?:,|\Z)')


class _Tags:
    """The entity tags of a header field: all of them, and those that are strong. ``*`` stands for every tag."""

    def __init__(self, value: bytes) -> None:
        """Raises ``MalformedPrecondition``."""
        self.all: set[bytes] = set()
        self.strong: set[bytes] = set()
        self.any = value.strip(b" \t") == b"*"
        position = len(value) if self.any else 0
        while position < len(value):
            if not (element := _ELEMENT.match(value, position)):
                raise MalformedPrecondition
            weak, tag = element.groups()
            if tag:
                self.all.add(tag)
                if not weak:
                    self.strong.add(tag)
            position = element.end()


def _fields(scope: Scope) -> dict[bytes, bytes]:
    """The conditions of a request. Several lines of a field are one list (RFC 9110, section 5.3)."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _NAMES:
            found[name] = found[name] + b"," + value if name in found else value
    return found


def post_tag(stored: StoredPost) -> str:
    """The strong entity tag of a post."""
    return f'"{stored.post.id}-{stored.version}-{FORMAT}"'


@lru_cache(maxsize=1)  # equal reads in one iteration of the event loop share it
def page_tag(digest: bytes, link: str) -> str:
    """The strong entity tag of a page of posts and its ``Link``. ``digest`` is that of its ids and versions."""
    return f'"{blake2b(digest + link.encode(), digest_size=16).hexdigest()}-{FORMAT}"'


def tagged(
    scope: Scope,
    content: Any,
    tag: str,
    headers: dict[str, str] | None = None,
    otherwise: type[ServiceError] = PostChanged,
) -> JSONResponse[Any]:
    """The response to a GET or HEAD: the result of a query and ``headers``, or a 304 if the client has them.

    Raises ``otherwise`` for an If-Match that does not match, or ``MalformedPrecondition``.
    """
    if fields := _fields(scope):
        if _IF_MATCH in fields:
            given = _Tags(fields[_IF_MATCH])
            if not given.any and tag.encode() not in given.strong:
                raise otherwise
        if _IF_NONE_MATCH in fields:
            given = _Tags(fields[_IF_NONE_MATCH])
            if given.any or tag.encode() in given.all:
                return JSONResponse(None, status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
    return JSONResponse(encode_once(content), headers={"ETag": tag} | headers if headers else {"ETag": tag})


def version_condition(scope: Scope, post_id: int) -> VersionCondition:
    """The condition of a PATCH or DELETE. Raises ``MalformedPrecondition``."""
    if not (fields := _fields(scope)):
        return ANY_VERSION
    required: frozenset[int] | None = None
    excluded: frozenset[int] = frozenset()
    if _IF_MATCH in fields:
        given = _Tags(fields[_IF_MATCH])
        required = None if given.any else _versions(given.strong, post_id)
    if _IF_NONE_MATCH in fields:
        given = _Tags(fields[_IF_NONE_MATCH])
        if given.any:
            required = frozenset()  # the post exists, so no version is allowed
        else:
            excluded = _versions(given.all, post_id)
    return VersionCondition(required, excluded)


def _versions(tags: Iterable[bytes], post_id: int) -> frozenset[int]:
    """The versions of a post that have one of ``tags``. Other tags are those of nothing that this post has been."""
    form = re.compile(rb'"%d-([1-9][0-9]{0,18})-%d"' % (post_id, FORMAT))
    versions = (int(match[1]) for tag in tags if (match := form.fullmatch(tag)))
    return frozenset(version for version in versions if version <= MAX_ID)
