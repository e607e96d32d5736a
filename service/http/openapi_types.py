"""How the OpenAPI document describes the field types that only this service knows."""

from typing import Any, Final

from email_validator import SPECIAL_USE_DOMAIN_NAMES
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition

from service.security import positions
from service.structs.fields import (
    GRANT_TYPES,
    MAX_EMAIL_LENGTH,
    MAX_ID,
    MAX_PASSWORD_LENGTH,
    MAX_USERNAME_LENGTH,
    MIN_PASSWORD_LENGTH,
    WITHOUT_NUL,
    Email,
    GrantType,
    LoginName,
    LoginPassword,
    Password,
    PostId,
    SessionId,
    Timestamp,
    UserId,
    Username,
)

_ID: Final[dict[str, Any]] = {"type": "integer", "minimum": 1, "maximum": MAX_ID, "format": "int64"}

# Where a page begins: an id or 0, or the opaque position of a search. For ``schema_extra``.
POSITION: Final[dict[str, Any]] = {
    "type": None,
    "one_of": [
        Schema(**_ID | {"minimum": 0}),
        Schema(type=OpenAPIType.STRING, pattern=f"^[A-Za-z0-9_-]{{{positions.LENGTH}}}$"),
    ],
}

# Control and format characters. Programs read `\p{Cc}` differently, and characters beyond U+FFFF as well, so those few
# are only in the description.
_HIDDEN: Final = (
    r"\u0000-\u001f\u007f-\u009f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
)

# The field types that only this service knows.
FIELD_TYPES: Final[dict[Any, dict[str, Any]]] = {
    Username: {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_USERNAME_LENGTH,
        "pattern": rf"^[^\s{_HIDDEN}]([^{_HIDDEN}]*[^\s{_HIDDEN}])?$",
    },
    LoginName: {"type": "string", "minLength": 1, "pattern": WITHOUT_NUL},
    LoginPassword: {"type": "string", "format": "password", "minLength": 1, "pattern": WITHOUT_NUL},
    Password: {
        "type": "string",
        "format": "password",
        "minLength": MIN_PASSWORD_LENGTH,
        "maxLength": MAX_PASSWORD_LENGTH,
        "pattern": WITHOUT_NUL,
    },
    GrantType: {"type": "string", "enum": [*GRANT_TYPES]},
    Email: {
        "type": "string",
        "format": "idn-email",
        "maxLength": MAX_EMAIL_LENGTH,
        "not": {"pattern": rf"\.({'|'.join(SPECIAL_USE_DOMAIN_NAMES)})$"},
    },
    Timestamp: {"type": "string", "format": "date-time"},
    PostId: _ID,
    SessionId: _ID,
    UserId: _ID,
}


class FieldTypes(OpenAPISchemaPlugin):
    """Describes the types of ``FIELD_TYPES`` to Litestar."""

    @staticmethod
    def is_plugin_supported_type(value: Any) -> bool:
        return value in FIELD_TYPES

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:  # noqa: ARG002
        described = dict(FIELD_TYPES[field_definition.annotation])
        return Schema(**{Schema.field_aliases().get(name, name): value for name, value in described.items()})
