"""The types of single fields: text without U+0000, names, passwords, e-mail addresses, times, ids in a path."""

import re
import unicodedata
from typing import Annotated, Any, Final, TypeVar

import email_validator
from msgspec import Meta

from service.errors import PostNotFound, ServiceError, SessionNotFound, UnsupportedGrantType, UserNotFound

# PostgreSQL's text holds every character but this one.
WITHOUT_NUL: Final = r"^[^\x00]*$"

MAX_ID: Final = 2**63 - 1
MAX_USERNAME_LENGTH: Final = 50
MIN_PASSWORD_LENGTH: Final = 8
MAX_PASSWORD_LENGTH: Final = 128
MAX_EMAIL_LENGTH: Final = 120

# No character has more code points than this in its longest canonical form, U+1F82 for example.
_MAX_DECOMPOSITION: Final = 4

_HIDDEN: Final = {"Cc", "Cf"}  # the categories of control and format characters

Id = TypeVar("Id", bound=int)

Title = Annotated[str, Meta(min_length=1, max_length=100, pattern=WITHOUT_NUL)]
Content = Annotated[str, Meta(min_length=1, pattern=WITHOUT_NUL)]


def normalize(text: str, max_length: int) -> str:
    """Return the NFC form of ``text``, or ``text`` itself if that form is certainly longer than ``max_length``.

    Without this bound a megabyte of combining marks, which NFC has to sort, would take minutes.
    """
    return text if len(text) > max_length * _MAX_DECOMPOSITION else unicodedata.normalize("NFC", text)


class Username(str):
    """A name in the form that is stored: NFC, without hidden characters."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> "Username":
        """Check and normalise a new name. Raises ``ValueError``."""
        name = normalize(_text(value), MAX_USERNAME_LENGTH)
        _check_length(name, 1, MAX_USERNAME_LENGTH)
        if any(unicodedata.category(character) in _HIDDEN for character in name):
            raise ValueError("must not contain control or format characters")
        if name[0].isspace() or name[-1].isspace():
            raise ValueError("must not begin or end with white space")
        return cls(name)


class LoginName(str):
    """A name to log in with, normalised as the stored one is.

    No other rule is checked: no account has such a name, and the response must not show which of the two is wrong.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> "LoginName":
        """Raises ``ValueError`` for text that PostgreSQL cannot compare."""
        text = _text(value)
        _check_nul(text)
        return cls(normalize(text, MAX_USERNAME_LENGTH))


class LoginPassword(str):
    """A password to log in with, as it was typed. No other rule is checked, for the same reason."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> "LoginPassword":
        """Raises ``ValueError`` for U+0000, which no password has."""
        text = _text(value)
        _check_nul(text)
        return cls(text)


class Password(str):
    """A new password, in the form that is hashed: NFC."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> "Password":
        """Check and normalise a new password. Raises ``ValueError``."""
        password = normalize(_text(value), MAX_PASSWORD_LENGTH)
        _check_length(password, MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH)
        _check_nul(password)
        return cls(password)


class GrantType(str):
    """What is exchanged for a token (RFC 6749, section 4)."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> "GrantType":
        """Raises ``UnsupportedGrantType``, which counts before invalid fields, or ``ValueError``."""
        if _text(value) not in GRANT_TYPES:
            raise UnsupportedGrantType
        return cls(value)


PASSWORD_GRANT: Final = GrantType("password")
REFRESH_GRANT: Final = GrantType("refresh_token")
GRANT_TYPES: Final = (PASSWORD_GRANT, REFRESH_GRANT)


class Email(str):
    """An address in the form that is stored: valid by syntax, its domain in lower case."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> "Email":
        """Check ``value`` by email-validator's syntax rules, without asking the DNS. Raises ``ValueError``."""
        text = _text(value)
        _check_length(text, 1, MAX_EMAIL_LENGTH)
        try:
            address = email_validator.validate_email(text, check_deliverability=False).normalized
        except email_validator.EmailNotValidError as error:
            raise ValueError(str(error)) from error
        _check_length(address, 1, MAX_EMAIL_LENGTH)
        return cls(address)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - one kind of error for every rule
    return value


def _check_length(text: str, least: int, most: int) -> None:
    if len(text) < least:
        raise ValueError(f"must have at least {least} character{'s' * (least > 1)}")
    if len(text) > most:
        raise ValueError(f"must have at most {most} characters")


def _check_nul(text: str) -> None:
    if "\0" in text:
        raise ValueError("must not contain U+0000")


class Timestamp(str):
    """A time in a response (RFC 3339, in UTC). PostgreSQL formats it, see ``sql/003_rfc3339.sql``."""

    __slots__ = ()


class UserId(int):
    """A user's id in a path."""

    __slots__ = ()


class PostId(int):
    """A post's id in a path."""

    __slots__ = ()


class SessionId(int):
    """A session's id in a path."""

    __slots__ = ()


# What an id that is none, or that nothing has, means in a path.
_NOT_FOUND: Final[dict[type[int], type[ServiceError]]] = {
    PostId: PostNotFound,
    SessionId: SessionNotFound,
    UserId: UserNotFound,
}

_DECIMAL = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


def is_id(text: str) -> bool:
    """Whether ``text`` is a positive 64-bit integer in its canonical form."""
    return bool(_DECIMAL.fullmatch(text)) and int(text) <= MAX_ID


def parse_id(kind: type[Id], text: str) -> Id:
    """Read an id in a path. Raises ``PostNotFound``, ``SessionNotFound`` or ``UserNotFound`` for other text."""
    if not is_id(text):
        raise _NOT_FOUND[kind]
    return kind(text)


def decode_field(kind: type, value: Any) -> Any:
    """Decode the field types that msgspec does not know: its ``dec_hook``."""
    if issubclass(kind, Username | LoginName | LoginPassword | Password | GrantType | Email):
        return kind.parse(value)
    raise NotImplementedError(kind)


# For Litestar: ``decode_field`` decodes the types of this module.
TYPE_DECODERS: Final = [(lambda kind: getattr(kind, "__module__", None) == __name__, decode_field)]
