"""The errors of the service. Each has a status, a stable code and one sentence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from msgspec import Struct

_MIB: Final = 1024 * 1024
_BEARER: Final = {"WWW-Authenticate": "Bearer"}
_INVALID_TOKEN: Final = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
_NO_CODING: Final = {"Accept-Encoding": "identity"}  # RFC 9110, section 12.5.3
_RETRY: Final = {"Retry-After": "1"}


class FaultyField(Struct, frozen=True):
    """One field that breaks a rule; ``pointer`` is a JSON Pointer (RFC 6901) into the body or the query."""

    pointer: str
    detail: str


class ServiceError(Exception):
    """The base class of all errors below. ``problems.py`` turns any of them into a response."""

    status: ClassVar[int]
    code: ClassVar[str]
    detail: str
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, *arguments: object, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        """``headers`` are added to those of the class, and replace fields of the same name."""
        super().__init__(*arguments)
        if headers:
            self.headers = {**self.headers, **headers}


class NotJson(ServiceError):
    status, code = 400, "not_json"
    detail = "The body is not JSON in UTF-8"


class NotForm(ServiceError):
    status, code = 400, "not_form"
    detail = "The body is not a form in UTF-8"


class UnsupportedGrantType(ServiceError):
    status, code = 400, "unsupported_grant_type"
    detail = "The grant types are password and refresh_token"


class InvalidRefreshToken(ServiceError):
    status, code = 400, "invalid_refresh_token"
    detail = "The refresh token is not valid"


class MalformedPrecondition(ServiceError):
    status, code = 400, "malformed_precondition"
    detail = "If-Match and If-None-Match take * or a list of entity tags"  # RFC 9110, section 13.1


class MalformedIdempotencyKey(ServiceError):
    status, code = 400, "malformed_idempotency_key"
    detail = "An Idempotency-Key has 1 to 255 visible ASCII characters, with or without quotes"


class ClientDisconnected(ServiceError):
    status, code = 400, "client_disconnected"
    detail = "The client disconnected before its body was complete"


class NotHTTP(ServiceError):
    status, code = 400, "bad_request"
    detail = "The request is not valid HTTP/1.1"


class HostMissing(ServiceError):
    status, code = 400, "host_missing"
    detail = "A request has exactly one Host header field"  # RFC 9112, section 3.2


class InvalidHost(ServiceError):
    status, code = 400, "invalid_host"
    detail = "The Host header field is not a host with an optional port"


class NotAProxy(ServiceError):
    status, code = 400, "not_a_proxy"
    detail = "CONNECT is for proxies"


class NotAuthenticated(ServiceError):
    status, code = 401, "not_authenticated"
    detail = "Not authenticated"
    headers = _BEARER


class InvalidToken(ServiceError):
    status, code = 401, "invalid_token"
    detail = "Could not validate credentials"
    headers = _INVALID_TOKEN


class IncorrectCredentials(ServiceError):
    status, code = 401, "incorrect_credentials"
    detail = "Incorrect username or password"
    headers = _BEARER


class OnlyOwnerMayUpdate(ServiceError):
    status, code = 403, "not_owner"
    detail = "Only the owner can update this post"


class OnlyOwnerMayDelete(ServiceError):
    status, code = 403, "not_owner"
    detail = "Only the owner can delete this post"


class IncorrectPassword(ServiceError):
    status, code = 403, "incorrect_password"
    detail = "Incorrect password"


class UserNotFound(ServiceError):
    status, code = 404, "user_not_found"
    detail = "User not found"


class SessionNotFound(ServiceError):
    status, code = 404, "session_not_found"
    detail = "Session not found"


class PostNotFound(ServiceError):
    status, code = 404, "post_not_found"
    detail = "Post not found"


class RequestTimeout(ServiceError):
    status, code = 408, "request_timeout"
    detail = "The request did not arrive in time"


class UsernameOrEmailTaken(ServiceError):
    status, code = 409, "username_or_email_taken"
    detail = "Username or email already exists"


class KeyInProgress(ServiceError):
    status, code = 409, "key_in_progress"
    detail = "A request with this key is in progress"


class ListChanged(ServiceError):
    status, code = 412, "list_changed"
    detail = "The list has changed"


class PostChanged(ServiceError):
    status, code = 412, "post_changed"
    detail = "The post has changed"


class BodyTooLarge(ServiceError):
    status, code = 413, "body_too_large"
    detail = "The body is over 1 MiB"

    def __init__(self, limit: int = _MIB) -> None:
        """``limit`` is the limit of the route, in bytes."""
        super().__init__(limit)
        self.detail = (
            f"The body is over {limit // _MIB} MiB" if limit % _MIB == 0 else f"The body is over {limit} bytes"
        )


class WrongContentType(ServiceError):
    status, code = 415, "wrong_content_type"
    detail = "The content type is not the one that this route takes"


class ContentCodingNotSupported(ServiceError):
    status, code = 415, "content_coding_not_supported"
    detail = "The body has a content coding; send it without one"
    headers = _NO_CODING


class InvalidFields(ServiceError):
    status, code = 422, "invalid_fields"
    detail = "Some fields break a rule"

    def __init__(self, errors: list[FaultyField]) -> None:
        """``errors`` lists every faulty field, not only the first."""
        super().__init__(errors)
        self.errors = errors


class KeyUsedWithAnotherBody(ServiceError):
    status, code = 422, "key_used_with_another_body"
    detail = "Idempotency-Key was used with another body"
    errors = (FaultyField("", "differs from the body of the first request with this key"),)


class TooManyAttempts(ServiceError):
    status, code = 429, "too_many_attempts"
    detail = "Too many attempts"
    headers = _RETRY


class HeaderFieldsTooLarge(ServiceError):
    status, code = 431, "request_header_fields_too_large"
    detail = "The head, a trailer section or a chunk extension is over 64 KiB, or has over 1,000 fields"


class InternalError(ServiceError):
    status, code = 500, "internal_server_error"
    detail = "An unexpected error occurred in the service"


class TooManyPasswords(ServiceError):
    status, code = 503, "too_many_passwords"
    detail = "Too many passwords are waiting to be checked"
    headers = _RETRY


class HashingFailed(ServiceError):
    status, code = 503, "hashing_failed"
    detail = "Passwords cannot be checked now"
    headers = _RETRY


class DatabaseUnavailable(ServiceError):
    status, code = 503, "database_unavailable"
    detail = "The database cannot serve this now"
    headers = _RETRY


class Overloaded(ServiceError):
    status, code = 503, "overloaded"
    detail = "Too many requests are in flight"
    headers = _RETRY


class Stopping(ServiceError):
    status, code = 503, "stopping"
    detail = "The service is stopping"
    headers = _RETRY
