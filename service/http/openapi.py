"""The OpenAPI 3.1 document: what Litestar reads off the routes, and the errors that follow from their shape."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import msgspec
from email_validator import SPECIAL_USE_DOMAIN_NAMES
from litestar import Controller, Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, OAuthFlow, OAuthFlows, Schema, SecurityScheme, Server, Tag
from litestar.plugins import OpenAPISchemaPlugin
from litestar.routes import HTTPRoute
from litestar.typing import FieldDefinition
from msgspec import Struct

from service import errors
from service.http.decoding import decode_form, decode_json, decode_query
from service.http.headers import REQUEST_ID
from service.http.problems import MEDIA_TYPE, TOKEN_PATH, Problem, TokenProblem, describe
from service.http.requests import FORM, Request
from service.structs.fields import (
    MAX_EMAIL_LENGTH,
    MAX_ID,
    MAX_PASSWORD_LENGTH,
    MAX_USERNAME_LENGTH,
    MIN_PASSWORD_LENGTH,
    WITHOUT_NUL,
    Email,
    GrantType,
    LoginName,
    Password,
    PostId,
    Timestamp,
    UserId,
    Username,
)

DESCRIPTION: Final = """\
People register, log in and write posts that only their owner may change.

To try it here, register, choose **Authorize** to log in, and run the operations from top to bottom.

Every error has a JSON body (RFC 9457) with a stable `code` for programs and a `detail` for people; with status 422,
`errors` names every faulty field. Every response has an `X-Request-ID` header: the client's own id, or else a new one.
"""

TAGS: Final = {
    "Registration and login": "An access token proves who sends a request.",
    "Users": "Your own account, and everybody's profile.",
    "Posts": "Anyone may read them, and only the owner may change them.",
    "Operation": "For those who run the service.",
}

REFERENCE: Final = "#/components/schemas/{name}"

_ID: Final = {"type": "integer", "minimum": 1, "maximum": MAX_ID, "format": "int64"}

# Control and format characters. Programs read `\p{Cc}` differently, and characters beyond U+FFFF as well, so those few
# are only in the description.
_HIDDEN: Final = (
    r"\u0000-\u001f\u007f-\u009f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
)

# The field types that only this service knows.
_FIELD_TYPES: Final[dict[Any, dict[str, Any]]] = {
    Username: {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_USERNAME_LENGTH,
        "pattern": rf"^[^\s{_HIDDEN}]([^{_HIDDEN}]*[^\s{_HIDDEN}])?$",
    },
    LoginName: {"type": "string", "minLength": 1, "pattern": WITHOUT_NUL},
    Password: {
        "type": "string",
        "format": "password",
        "minLength": MIN_PASSWORD_LENGTH,
        "maxLength": MAX_PASSWORD_LENGTH,
        "pattern": WITHOUT_NUL,
    },
    GrantType: {"type": "string", "const": "password"},
    Email: {
        "type": "string",
        "format": "idn-email",
        "maxLength": MAX_EMAIL_LENGTH,
        "not": {"pattern": rf"\.({'|'.join(SPECIAL_USE_DOMAIN_NAMES)})$"},
    },
    Timestamp: {"type": "string", "format": "date-time", "description": "In UTC."},
    PostId: _ID,
    UserId: _ID,
}

_EXAMPLE_ID: Final = "5f0c9a7be2d4-0000001a"

# Headers of many routes.
_HEADERS: Final = {
    "X-Request-ID": {
        "description": "The client's own if it sent one of 1 to 64 letters, digits, dots, underscores and hyphens, "
        "else a new one.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "example": _EXAMPLE_ID,
    },
    "Cache-Control": {
        "description": "`no-store`: neither browsers nor proxies keep this response.",
        "schema": {"type": "string", "const": "no-store"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "1",
    },
    "WWW-Authenticate": {
        "description": 'Which kind of token is needed (RFC 6750); with `error="invalid_token"` if one was sent.',
        "schema": {"type": "string"},
        "example": "Bearer",
    },
}


class _FieldTypes(OpenAPISchemaPlugin):
    """Describes the types of ``_FIELD_TYPES`` to Litestar."""

    @staticmethod
    def is_plugin_supported_type(value: Any) -> bool:
        return value in _FIELD_TYPES

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:  # noqa: ARG002
        described = dict(_FIELD_TYPES[field_definition.annotation])
        return Schema(**{Schema.field_aliases().get(name, name): value for name, value in described.items()})


def document(controllers: Sequence[type[Controller]]) -> bytes:
    """Describe the routes in the order in which the controllers declare them, as JSON.

    A route names its own errors as ``fails_with``, and the structs that Litestar does not see as ``form``, which is a
    body, and ``query``.
    """
    # References are relative: to the address of the document, and the token's URL to the server.
    login = OAuthFlow(token_url=TOKEN_PATH.removeprefix("/"), scopes={})
    scheme = SecurityScheme(
        type="oauth2", description="Log in with a username and a password.", flows=OAuthFlows(password=login)
    )
    # An app of its own, so that the one that serves carries none of Litestar's documentation routes, whose errors have
    # another body.
    described = Litestar(
        controllers,
        request_class=Request,
        plugins=[_FieldTypes()],
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Accounts and posts",
            version="1.0.0",
            description=DESCRIPTION,
            servers=[Server(".")],
            use_handler_docstrings=True,
            operation_id_creator=lambda handler, method, _: f"{handler.handler_name}{'_head' * (method == 'HEAD')}",
            tags=[Tag(name, description) for name, description in TAGS.items()],
            components=Components(security_schemes={"bearer": scheme}),
        ),
    )
    schema = described.openapi_schema.to_schema()
    handlers = {
        handler.handler_name: handler
        for route in described.routes
        if isinstance(route, HTTPRoute)
        for handler, _ in route.route_handler_map.values()
    }
    schema["paths"] = _in_order(schema["paths"], [name for controller in controllers for name in vars(controller)])
    structs: list[Any] = [Problem, TokenProblem]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            handler = handlers[operation["operationId"]]
            _describe_request(operation, handler)
            structs += filter(None, [handler.opt.get("form")])
            operation["responses"].pop("400", None)  # Litestar's guess, with its own body
            scope = {"method": method.upper(), "path": path, "headers": [(REQUEST_ID, _EXAMPLE_ID.encode())]}
            operation["responses"] |= _errors(_kinds(operation, handler), handler, scope)
            for response in operation["responses"].values():
                headers = response.setdefault("headers", {})
                if headers.pop("cache-control", None):  # as Litestar names it, without a description
                    headers |= _references(["Cache-Control"])
                for header in headers.values():
                    if "$ref" not in header:
                        header.setdefault("schema", {"type": "string"})  # which OpenAPI demands of every header
                headers |= _references(["X-Request-ID"])
    for component in schema["components"]["schemas"].values():
        _describe_ids(component["properties"].items())
        for field in component["properties"].values():
            if len(field.get("oneOf", ())) == 1:  # how Litestar writes a field that may be absent
                field.update(field.pop("oneOf")[0])
    _, components = msgspec.json.schema_components(
        structs, schema_hook=lambda kind: _FIELD_TYPES[kind], ref_template=REFERENCE
    )
    schema["components"]["schemas"] |= components
    schema["components"]["headers"] = _HEADERS
    return msgspec.json.encode(schema)


def _in_order(paths: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Sort paths and their operations by their place among ``names``; leave out HEAD, which is GET without a body."""
    places = {name: place for place, name in enumerate(names)}
    operations = sorted(
        (places.get(operation["operationId"], len(places)), path, method, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method != "head"
    )
    ordered: dict[str, Any] = {}
    for _, path, method, operation in operations:
        ordered.setdefault(path, {})[method] = operation
    return ordered


def _describe_request(operation: dict[str, Any], handler: HTTPRouteHandler) -> None:
    if form := handler.opt.get("form"):
        content = {"schema": {"$ref": REFERENCE.format(name=form.__name__)}}
        operation["requestBody"] = {"required": True, "content": {FORM: content}}
    if query := handler.opt.get("query"):
        operation["parameters"] = _parameters(query)
    for given in operation.get("parameters", ()):
        if given["in"] == "path":
            given["example"] = 1
        _describe_ids([(given["name"], given["schema"])])


def _describe_ids(schemas: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Say of ids that they need 64 bits: without a format some generators of clients take 32."""
    for name, schema in schemas:
        if name in {"id", "user_id", "post_id", "after"}:
            schema["format"] = "int64"


def _parameters(query: type[Struct]) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components([query], ref_template="{name}")
    return [
        {"name": name, "in": "query", "required": False, "description": schema.pop("description"), "schema": schema}
        for name, schema in components[query.__name__]["properties"].items()
    ]


def _kinds(operation: dict[str, Any], handler: HTTPRouteHandler) -> set[type[errors.ServiceError]]:
    """Every way in which a route fails."""
    kinds: set[type[errors.ServiceError]] = set(handler.opt.get("fails_with", ()))
    if "requestBody" in operation:
        malformed = errors.NotForm if "form" in handler.opt else errors.NotJson
        kinds |= {malformed, errors.BodyTooLarge, errors.WrongContentType, errors.InvalidFields}
    if any(parameter["in"] == "query" for parameter in operation.get("parameters", ())):
        kinds |= {errors.InvalidFields}
    if "security" in operation:
        kinds |= {errors.NotAuthenticated, errors.InvalidToken}
    if "Operation" not in operation["tags"]:
        kinds |= {errors.DatabaseUnavailable}
    return kinds


def _errors(
    kinds: Iterable[type[errors.ServiceError]], handler: HTTPRouteHandler, scope: Any
) -> dict[str, dict[str, Any]]:
    """One response per status, with an example of each kind."""
    responses = {}
    ordered = sorted(kinds, key=attrgetter("status", "code"))
    for status, group in groupby(ordered, key=attrgetter("status")):
        examples: dict[str, Any] = {}
        headers: set[str] = set()
        for kind in group:
            problem = describe(_invalid_fields(handler) if kind is errors.InvalidFields else kind, scope)
            examples[kind.code] = {"summary": kind.detail, "value": problem}
            headers |= kind.headers.keys()
            schema = {"$ref": REFERENCE.format(name=type(problem).__name__)}
        responses[str(status)] = {
            "description": " ".join(f"{example['summary']}." for example in examples.values()),
            "headers": _references(headers),
            "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
        }
    return responses


def _references(headers: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(headers)}


def _invalid_fields(handler: HTTPRouteHandler) -> errors.InvalidFields:
    """What the route says when all of its fields are faulty."""
    try:
        if form := handler.opt.get("form"):
            decode_form([], form)
        elif query := handler.opt.get("query"):
            decode_query("&".join(f"{name}=x" for name in query.__struct_encode_fields__).encode(), query)
        else:
            body = handler.parsed_fn_signature.parameters["data"].annotation
            decode_json(msgspec.json.encode(dict.fromkeys(body.__struct_encode_fields__, "")), body)
    except errors.InvalidFields as error:
        return error
    raise RuntimeError(f"{handler.handler_name} takes fields without any rule")
