"""Litestar's own errors about a request, in this service's terms."""

import re
from typing import Any, Final

from litestar.connection import Request
from litestar.enums import ParamType
from litestar.exceptions import NotFoundException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from service.errors import BodyTooLarge, FaultyField, InvalidFields
from service.structs.rules import explain

_MISSING: Final = re.compile(r"Missing required \w+ parameter '([^']*)' for path .*", re.DOTALL)


def translate(request: Request[Any, Any, Any], error: Exception) -> Exception:
    """Return what ``error`` is in our terms, else ``error`` itself."""
    if isinstance(error, RequestEntityTooLarge):
        return BodyTooLarge(request.route_handler.resolve_request_max_body_size() or 0)
    if not isinstance(error, ValidationException):
        return error
    if missing := _MISSING.fullmatch(error.detail):
        return InvalidFields([FaultyField(f"/{missing[1]}", "is required")])
    faults = error.extra
    if not isinstance(faults, list) or not all(isinstance(fault, dict) and "message" in fault for fault in faults):
        return error  # one that a handler has raised
    if any(fault.get("source") == ParamType.PATH for fault in faults):
        return NotFoundException()
    return InvalidFields([FaultyField(_pointer(fault.get("key", "")), explain(fault["message"])) for fault in faults])


def _pointer(key: str) -> str:
    return "" if key in {"", "data"} else f"/{key.replace('.', '/')}"
