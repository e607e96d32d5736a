"""The OpenAPI 3.1 document: what Litestar reads off the routes, and the errors that follow from their shape."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from litestar import Controller, Litestar
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, OAuthFlow, OAuthFlows, SecurityScheme, Server, Tag
from litestar.params import ParameterKwarg
from litestar.routes import HTTPRoute

from service.http.headers import REQUEST_ID
from service.http.openapi_errors import describe_errors
from service.http.openapi_types import FIELD_TYPES, FieldTypes
from service.http.preconditions import IF_NONE_MATCH, NOT_MODIFIED
from service.http.problems import TOKEN_PATH, Problem, TokenProblem
from service.http.requests import Request
from service.http.routes import BEARER, Route
from service.structs.fields import TYPE_DECODERS

Json = dict[str, Any]

DESCRIPTION: Final = """\
People register, log in and write posts that only their owner may change.

To try it here, register, choose **Authorize** to log in, and run the operations from top to bottom. After **End all of
your sessions**, log in again.

Every error has a JSON body (RFC 9457) with a stable `code` for programs and a `detail` for people; with status 422,
`errors` names every faulty field. Every response has an `X-Request-ID` header: the client's own id, or else a new one.
"""

# The API page shows the tags in this order, that of a session. The account is deleted last.
TAGS: Final = {
    "Registration and login": "An access token proves who sends a request. A refresh token gets the next one.",
    "Users": "Your own account, and everybody's profile.",
    "Posts": "Anyone may read them, and only the owner may change them.",
    "Sessions": "A login opens a session. Its tokens are valid until it ends.",
    "Account": "Changes of your own account need the current password.",
    "Operation": "For those who run the service.",
}

REFERENCE: Final = "#/components/schemas/{name}"

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
    "ETag": {
        "description": "The tag of this version, for `If-Match` and `If-None-Match` (RFC 9110, section 8.8.3).",
        "schema": {"type": "string", "pattern": '^"[!#-~]*"$'},
        "example": '"1-1-1"',
    },
    "Accept-Encoding": {
        "description": "The content codings that a body may have (RFC 9110, section 12.5.3).",
        "schema": {"type": "string"},
        "example": "identity",
    },
    "WWW-Authenticate": {
        "description": 'Which kind of token is needed (RFC 6750); with `error="invalid_token"` if one was sent.',
        "schema": {"type": "string"},
        "example": "Bearer",
    },
}


@cache
def document(controllers: tuple[type[Controller], ...]) -> bytes:
    """Describe the routes in the order in which the controllers declare them, as JSON.

    A route names its own errors as ``fails_with``, and the header fields that it reads by itself as ``reads_headers``.
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
        plugins=[FieldTypes()],
        type_decoders=TYPE_DECODERS,
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Accounts and posts",
            version="1.0.0",
            description=DESCRIPTION,
            servers=[Server(".")],
            use_handler_docstrings=True,
            operation_id_creator=lambda handler, method, _: f"{handler.handler_name}{'_head' * (method == 'HEAD')}",
            tags=[Tag(name, description) for name, description in TAGS.items()],
            components=Components(security_schemes={BEARER: scheme}),
        ),
    )
    schema = described.openapi_schema.to_schema()
    handlers = {
        handler.handler_name: handler
        for route in described.routes
        if isinstance(route, HTTPRoute)
        for handler, _ in route.route_handler_map.values()
        if isinstance(handler, Route)
    }
    schema["paths"] = _in_order(schema["paths"], [name for controller in controllers for name in vars(controller)])
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            handler = handlers[operation["operationId"]]
            if "parameters" in operation:
                operation["parameters"] = [_parameter(given, handler) for given in operation["parameters"]]
            _describe_ids((given["name"], given["schema"]) for given in operation.get("parameters", ()))
            operation["responses"].pop("400", None)  # Litestar's guess, with its own body
            _describe_request_headers(operation, handler)
            scope = {"method": method.upper(), "path": path, "headers": [(REQUEST_ID, _EXAMPLE_ID.encode())]}
            operation["responses"] |= describe_errors(operation, handler, scope)
            for response in operation["responses"].values():
                response["headers"] = _describe_headers(response.get("headers", {}))
    for component in schema["components"]["schemas"].values():
        fields = component.get("properties", {})
        _describe_ids(fields.items())
        for field in fields.values():
            if field.get("default") == "":  # an empty field of a form counts as absent
                del field["default"]
            if len(field.get("oneOf", ())) == 1:  # how Litestar writes a field that may be absent
                field.update(field.pop("oneOf")[0])
    _, components = msgspec.json.schema_components(
        [Problem, TokenProblem], schema_hook=lambda kind: FIELD_TYPES[kind], ref_template=REFERENCE
    )
    schema["components"]["schemas"] |= components
    schema["components"]["headers"] = _HEADERS
    return msgspec.json.encode(schema, enc_hook=str)  # a default may be of one of our own types


def _in_order(paths: Json, names: Sequence[str]) -> Json:
    """Sort paths and their operations by their place among ``names``; leave out HEAD, which is GET without a body."""
    places = {name: place for place, name in enumerate(names)}
    operations = sorted(
        (places.get(operation["operationId"], len(places)), path, method, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method != "head"
    )
    ordered: Json = {}
    for _, path, method, operation in operations:
        ordered.setdefault(path, {})[method] = operation
    return ordered


def _describe_ids(schemas: Iterable[tuple[str, Json]]) -> None:
    """Say of ids that they need 64 bits: without a format some generators of clients take 32."""
    for name, schema in schemas:
        if name in {"id", "user_id", "post_id", "session_id"}:
            schema["format"] = "int64"


def _describe_request_headers(operation: Json, handler: Route) -> None:
    """Describe the header fields that a route reads by itself."""
    if headers := handler.opt.get("reads_headers"):
        operation["parameters"] = [*operation.get("parameters", ()), *headers]
        if IF_NONE_MATCH in headers and HttpMethod.GET in handler.http_methods:
            operation["responses"]["304"] = dict(NOT_MODIFIED)


def _describe_headers(headers: Json) -> Json:
    """Describe the headers of a response. Those in ``_HEADERS`` are described once, for all responses."""
    described = {}
    for name in [*headers, "X-Request-ID"]:
        title = name.title() if name == "cache-control" else name  # as Litestar names it
        if title in _HEADERS:
            described[title] = {"$ref": f"#/components/headers/{title}"}
        else:
            described[title] = {"schema": {"type": "string"}} | headers[name]  # OpenAPI requires a schema
    return described


def _parameter(given: Json, handler: HTTPRouteHandler) -> Json:
    """Describe a parameter as Litestar does, but with exact bounds, and without null, which no text can be."""
    schema = given["schema"]
    if len(types := [one for one in schema.get("oneOf", ()) if one != {"type": "null"}]) == 1:
        schema = types[0] | {name: value for name, value in schema.items() if name != "oneOf"}
    elif types:
        schema["oneOf"] = types
    schema.pop("description", None)
    for name, field in handler.parsed_fn_signature.parameters.items():
        declared = field.kwarg_definition
        if isinstance(declared, ParameterKwarg) and given["name"] == (declared.name or name):
            bounds = {"minimum": declared.ge, "maximum": declared.le}
            schema |= {bound: value for bound, value in bounds.items() if value is not None}
    described = {name: given[name] for name in ("name", "in", "required", "description") if name in given}
    example = {"example": 1} if given["in"] == "path" and schema["type"] == "integer" else {}
    return described | {"schema": schema} | example
