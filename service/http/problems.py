"""One body for every error: problem details (RFC 9457)."""

import logging
import re
from http import HTTPStatus
from typing import Annotated, Any, Final

from litestar.connection import Request
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import UNSET, Meta, Struct, UnsetType, json

from service.errors import (
    FaultyField,
    IncorrectCredentials,
    InternalError,
    InvalidRefreshToken,
    ServiceError,
    UnsupportedGrantType,
)
from service.http.headers import NO_STORE, request_id
from service.http.responses import JSONResponse, head_of, send_whole
from service.http.translation import translate

MEDIA_TYPE: Final = "application/problem+json"
TOKEN_PATH: Final = "/auth/token"  # noqa: S105 - a path

# As RFC 9110 has them, and Python from 3.13 on.
_PHRASES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}

# The error codes of RFC 6749, section 5.2, by our own code, else by the status, else by its first digit.
_OAUTH_ERRORS: Final[dict[str | int, str]] = {
    IncorrectCredentials.code: "invalid_grant",
    InvalidRefreshToken.code: "invalid_grant",
    UnsupportedGrantType.code: "unsupported_grant_type",
    429: "temporarily_unavailable",
    503: "temporarily_unavailable",
    4: "invalid_request",
    5: "server_error",
}

_NOT_IN_DESCRIPTIONS: Final = re.compile(r"[^ !#-\[\]-~]")  # RFC 6749, section 5.2

logger = logging.getLogger(__name__)


class Problem(Struct, frozen=True, kw_only=True):
    """What went wrong (RFC 9457)."""

    type: Annotated[str, Meta(description="Always `about:blank`; `code` says more.", examples=["about:blank"])] = (
        "about:blank"
    )
    title: Annotated[str, Meta(description="The status in words.", examples=["Not Found"])]
    status: Annotated[int, Meta(description="The status code of the response.", examples=[404])]
    detail: Annotated[str, Meta(description="What went wrong, for people.", examples=["Post not found"])]
    code: Annotated[str, Meta(description="What went wrong, for programs; stable.", examples=["post_not_found"])]
    request_id: Annotated[
        str, Meta(description="As in the header `X-Request-ID`. The service logs it with the cause of a 500.")
    ]
    errors: Annotated[
        list[FaultyField] | UnsetType, Meta(description="With status 422: every field that breaks a rule.")
    ] = UNSET


class TokenProblem(Problem, frozen=True, kw_only=True):
    """What went wrong, with the fields of OAuth 2 (RFC 6749, section 5.2)."""

    error: Annotated[str, Meta(description="What went wrong, for OAuth clients.", examples=["invalid_grant"])]
    error_description: Annotated[str, Meta(description="What went wrong, for people.")]


def phrase(status: int) -> str:
    """A status in words."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def describe(error: ServiceError | type[ServiceError], scope: Scope) -> Problem:
    """The body of one of the errors of ``errors.py``, for the request of ``scope``."""
    errors = [*getattr(error, "errors", ())]
    return _problem(scope, error.status, error.code, error.detail, errors)


def _problem(scope: Any, status: int, code: str, detail: str, errors: list[FaultyField] | None = None) -> Problem:
    fields: dict[str, Any] = {
        "title": phrase(status),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id(scope).decode(),
        "errors": errors or UNSET,
    }
    if scope.get("method") != "POST" or scope.get("path", "").rstrip("/") != TOKEN_PATH:
        return Problem(**fields)
    error = _OAUTH_ERRORS.get(code) or _OAUTH_ERRORS.get(status) or _OAUTH_ERRORS[status // 100]
    return TokenProblem(**fields, error=error, error_description=_in_one_sentence(detail, errors))


def _in_one_sentence(detail: str, errors: list[FaultyField] | None) -> str:
    """Name the faulty fields too: OAuth clients show nothing else."""
    sentence = "; ".join(f"{fault.pointer[1:]} {fault.detail}" for fault in errors or ()) or detail
    return _NOT_IN_DESCRIPTIONS.sub("?", sentence)


def respond(request: Request[object, object, object], error: Exception) -> JSONResponse[Problem]:  # type: ignore[type-var]
    """Turn any exception into a response: an error of ``errors.py``, an error of Litestar, or a bug."""
    scope: Scope = request.scope
    error = translate(request, error)
    if isinstance(error, ServiceError):
        problem, headers = describe(error, scope), error.headers
    elif isinstance(error, HTTPException) and error.status_code != HTTPStatus.INTERNAL_SERVER_ERROR:
        status = HTTPStatus(error.status_code)
        problem, headers = _problem(scope, status, status.name.lower(), error.detail), error.headers or {}
    else:
        problem, headers = describe(InternalError, scope), {}
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse(
        problem,
        status_code=problem.status,
        headers={**_cache_control(scope.get("route_handler")), **headers},
        media_type=MEDIA_TYPE,
    )


def _cache_control(handler: object) -> dict[str, str]:
    """The ``Cache-Control`` of a route's errors: ``no-store`` if its other responses have it."""
    headers = handler.resolve_response_headers() if isinstance(handler, HTTPRouteHandler) else ()
    return {header.name: header.value for header in headers if header.value == NO_STORE.to_header()}


def problem_app(error: type[ServiceError]) -> ASGIApp:
    """An app that answers every request with ``error``, also one whose head could not be read.

    It does not know the route, whose other responses may be ``no-store``.
    """
    head = head_of(MEDIA_TYPE, {"Cache-Control": NO_STORE.to_header(), **error.headers})

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        problem = describe(error, scope)
        await send_whole(send, problem.status, head, json.encode(problem))

    return answer
