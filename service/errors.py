"""What can go wrong, as facts: each has a status, a stable code and one sentence."""

from typing import ClassVar

from msgspec import Struct


class FaultyField(Struct, frozen=True):
    """One field that breaks a rule; ``pointer`` is a JSON Pointer (RFC 6901) into the body or the query."""

    pointer: str
    detail: str


class ServiceError(Exception):
    """The root of every fact below; ``problems.py`` turns any of them into a response."""

    status: ClassVar[int]
    code: ClassVar[str]
    detail: ClassVar[str]
    headers: ClassVar[dict[str, str]] = {}


class NotJson(ServiceError):
    status, code = 400, "not_json"
    detail = "The body is not JSON in UTF-8"


class NotForm(ServiceError):
    status, code = 400, "not_form"
    detail = "The body is not a form in UTF-8"


class UnsupportedGrantType(ServiceError):
    status, code = 400, "unsupported_grant_type"
    detail = "The only grant type here is password"


class ClientDisconnected(ServiceError):
    status, code = 400, "client_disconnected"
    detail = "The client left before its body was complete"


class NotHTTP(ServiceError):
    status, code = 400, "bad_request"
    detail = "The request is not valid HTTP/1.1"


class HostMissing(ServiceError):
    status, code = 400, "host_missing"
    detail = "A request has exactly one Host header field"  # RFC 9112, section 3.2


class NotAProxy(ServiceError):
    status, code = 400, "not_a_proxy"
    detail = "CONNECT is for proxies"


class NotAuthenticated(ServiceError):
    status, code = 401, "not_authenticated"
    detail = "Not authenticated"
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}


class InvalidToken(ServiceError):
    status, code = 401, "invalid_token"
    detail = "Could not validate credentials"
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class IncorrectCredentials(ServiceError):
    status, code = 401, "incorrect_credentials"
    detail = "Incorrect username or password"
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}


class OnlyOwnerMayUpdate(ServiceError):
    status, code = 403, "not_owner"
    detail = "Only the owner can update this post"


class OnlyOwnerMayDelete(ServiceError):
    status, code = 403, "not_owner"
    detail = "Only the owner can delete this post"


class UserNotFound(ServiceError):
    status, code = 404, "user_not_found"
    detail = "User not found"


class PostNotFound(ServiceError):
    status, code = 404, "post_not_found"
    detail = "Post not found"


class RequestTimeout(ServiceError):
    status, code = 408, "request_timeout"
    detail = "The request did not arrive in time"


class UsernameOrEmailTaken(ServiceError):
    status, code = 409, "username_or_email_taken"
    detail = "Username or email already exists"


class BodyTooLarge(ServiceError):
    status, code = 413, "body_too_large"
    detail = "The body is over 1 MiB"


class WrongContentType(ServiceError):
    status, code = 415, "wrong_content_type"
    detail = "The content type is not the one that this route takes"


class HeaderFieldsTooLarge(ServiceError):
    status, code = 431, "request_header_fields_too_large"
    detail = "The head, a trailer section or a chunk extension is over 64 KiB, or has over 1,000 fields"


class InternalError(ServiceError):
    status, code = 500, "internal_server_error"
    detail = "Something broke on our side"


class InvalidFields(ServiceError):
    status, code = 422, "invalid_fields"
    detail = "Some fields break a rule"

    def __init__(self, errors: list[FaultyField]) -> None:
        """``errors`` lists every faulty field, not only the first."""
        super().__init__(errors)
        self.errors = errors


class TooManyPasswords(ServiceError):
    status, code = 503, "too_many_passwords"
    detail = "Too many passwords are waiting to be checked"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class DatabaseUnavailable(ServiceError):
    status, code = 503, "database_unavailable"
    detail = "The database does not answer"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class Overloaded(ServiceError):
    status, code = 503, "overloaded"
    detail = "Too many requests are under way"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class Stopping(ServiceError):
    status, code = 503, "stopping"
    detail = "The service is about to stop"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}
