"""One body for every error: problem details (RFC 9457)."""

import logging
from http import HTTPStatus
from typing import Annotated, Final

from litestar.connection import Request
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import UNSET, Meta, Struct, UnsetType, json

from service.errors import FaultyField, InternalError, InvalidFields, ServiceError
from service.http.responses import JSONResponse, head_of, send_whole
from service.http.translation import translate

MEDIA_TYPE: Final = "application/problem+json"

# As RFC 9110 has them, and Python from 3.13 on.
_PHRASES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}

logger = logging.getLogger(__name__)


class Problem(Struct, frozen=True, kw_only=True):
    """What went wrong (RFC 9457)."""

    type: Annotated[str, Meta(examples=["about:blank"])] = "about:blank"
    title: Annotated[str, Meta(description="The status in words.")]
    status: int
    detail: Annotated[str, Meta(description="What went wrong, for people.")]
    code: Annotated[str, Meta(description="What went wrong, for programs; stable.")]
    errors: Annotated[
        list[FaultyField] | UnsetType, Meta(description="With status 422: every field that breaks a rule.")
    ] = UNSET


def phrase(status: int) -> str:
    """A status in words."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def describe(error: ServiceError | type[ServiceError]) -> Problem:
    """The body of an error of ``errors.py``."""
    return Problem(
        title=phrase(error.status),
        status=error.status,
        detail=error.detail,
        code=error.code,
        errors=error.errors if isinstance(error, InvalidFields) else UNSET,
    )


def describe_status(status: HTTPStatus, detail: str) -> Problem:
    """The body of an ``HTTPException`` that has no class in ``errors.py``."""
    return Problem(title=phrase(status), status=status, detail=detail, code=status.name.lower())


def respond(request: Request[object, object, object], error: Exception) -> JSONResponse[Problem]:  # type: ignore[type-var]
    """Turn any exception into a response: an error of ``errors.py``, an error of Litestar, or a bug."""
    error = translate(request, error)
    if isinstance(error, ServiceError):
        problem, headers = describe(error), error.headers
    elif isinstance(error, HTTPException) and error.status_code != HTTPStatus.INTERNAL_SERVER_ERROR:
        problem, headers = describe_status(HTTPStatus(error.status_code), error.detail), error.headers or {}
    else:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        problem, headers = describe(InternalError), {}
    return JSONResponse(problem, status_code=problem.status, headers=dict(headers), media_type=MEDIA_TYPE)


def problem_app(error: type[ServiceError]) -> ASGIApp:
    """An app that answers every request with ``error``."""
    problem = describe(error)
    head, body = head_of(MEDIA_TYPE, error.headers), json.encode(problem)

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_whole(send, problem.status, head, body)

    return answer
