"""The types of single fields: text without U+0000, e-mail addresses, times, ids in a path."""

import re
from typing import Annotated, Any, Final, TypeVar

import email_validator
from msgspec import Meta

from service.errors import PostNotFound, UserNotFound

# PostgreSQL's text holds every character but this one.
WITHOUT_NUL: Final = r"^[^\x00]*$"

MAX_ID: Final = 2**63 - 1
MAX_EMAIL_LENGTH: Final = 120

Id = TypeVar("Id", bound=int)

Username = Annotated[
    str,
    Meta(min_length=1, max_length=50, pattern=WITHOUT_NUL, description="Unique, case-sensitive.", examples=["alice"]),
]
Password = Annotated[
    str,
    Meta(min_length=8, max_length=128, pattern=WITHOUT_NUL, examples=["correct horse battery"]),
]
Title = Annotated[str, Meta(min_length=1, max_length=100, pattern=WITHOUT_NUL, examples=["First post"])]
Content = Annotated[str, Meta(min_length=1, pattern=WITHOUT_NUL, examples=["Hello, world."])]


class Email(str):
    """An address in the form that is stored: valid by syntax, its domain in lower case."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> "Email":
        """Check ``text`` by email-validator's syntax rules, without asking the DNS. Raises ``ValueError``."""
        if not isinstance(text, str):
            raise TypeError("Expected `str`")
        if len(text) > MAX_EMAIL_LENGTH:
            raise ValueError(f"Expected `str` of length <= {MAX_EMAIL_LENGTH}")
        try:
            address = email_validator.validate_email(text, check_deliverability=False).normalized
        except email_validator.EmailNotValidError as error:
            raise ValueError(str(error)) from error
        if len(address) > MAX_EMAIL_LENGTH:
            raise ValueError(f"Expected `str` of length <= {MAX_EMAIL_LENGTH}")
        return cls(address)


class Timestamp(str):
    """A time as it goes out (RFC 3339, in UTC): PostgreSQL writes it, see ``sql/003_rfc3339.sql``."""

    __slots__ = ()


class UserId(int):
    """A user's id in a path."""

    __slots__ = ()


class PostId(int):
    """A post's id in a path."""

    __slots__ = ()


_DECIMAL = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


def is_id(text: str) -> bool:
    """Whether ``text`` is a 64-bit positive integer in its one canonical form."""
    return bool(_DECIMAL.fullmatch(text)) and int(text) <= MAX_ID


def parse_id(kind: type[Id], text: str) -> Id:
    """Read an id in a path. What is none names nothing: raises ``PostNotFound`` or ``UserNotFound``."""
    if not is_id(text):
        raise PostNotFound if kind is PostId else UserNotFound
    return kind(text)


def decode_field(kind: type, value: Any) -> Any:
    """Decode the field types that msgspec does not know: its ``dec_hook``."""
    if kind is Email:
        return Email.parse(value)
    raise NotImplementedError(kind)


# For Litestar: ``decode_field`` decodes the types of this module.
TYPE_DECODERS: Final = [(lambda kind: getattr(kind, "__module__", None) == __name__, decode_field)]
