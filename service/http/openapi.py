"""The OpenAPI 3.1 document: what Litestar reads off the routes, and the failures that follow from their shape."""

from collections.abc import Iterable
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import msgspec
from email_validator import SPECIAL_USE_DOMAIN_NAMES
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, OAuthFlow, OAuthFlows, Schema, SecurityScheme, Tag
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import ParameterKwarg
from litestar.plugins import OpenAPISchemaPlugin
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler
from litestar.typing import FieldDefinition

from service import errors
from service.http.problems import MEDIA_TYPE, Problem, describe, phrase
from service.http.requests import FORM, Request
from service.http.routes import BEARER
from service.structs.fields import MAX_EMAIL_LENGTH, MAX_ID, Email, PostId, Timestamp, UserId

TAGS: Final = {
    "auth": "Registration and login.",
    "users": "One's own account, and everybody's profile.",
    "posts": "Anyone reads them, their owner writes them.",
    "operation": "For those who run the service.",
}


class _FieldTypes(OpenAPISchemaPlugin):
    """Describes the field types that only this service knows."""

    @staticmethod
    def is_plugin_supported_type(value: Any) -> bool:
        return value in {Email, PostId, Timestamp, UserId}

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:  # noqa: ARG002
        if field_definition.annotation is Email:
            return Schema(
                type=OpenAPIType.STRING,
                format=OpenAPIFormat.IDN_EMAIL,
                max_length=MAX_EMAIL_LENGTH,
                schema_not=Schema(pattern=rf"\.({'|'.join(SPECIAL_USE_DOMAIN_NAMES)})$"),
            )
        if field_definition.annotation is Timestamp:
            return Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME, description="In UTC.")
        return Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=MAX_ID)


@cache
def document(route_handlers: tuple[ControllerRouterHandler, ...]) -> bytes:
    """Describe the routes, as JSON. A route names its own failures as ``fails_with``."""
    login = OAuthFlow(token_url="/auth/token", scopes={})  # noqa: S106 - a path
    scheme = SecurityScheme(type="oauth2", description="Your username and password.", flows=OAuthFlows(password=login))
    # An app of its own, so that the one that serves carries none of Litestar's documentation routes, whose errors have
    # another body.
    described = Litestar(
        route_handlers,
        request_class=Request,
        plugins=[_FieldTypes()],
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Accounts and posts",
            version="1.0.0",
            description="People register, log in and write posts that only their owner may change.",
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
    }
    for operations in schema["paths"].values():
        operations.pop("head", None)  # as GET, without the body
        for operation in operations.values():
            handler = handlers[operation["operationId"]]
            operation["summary"] = handler.handler_name.replace("_", " ").capitalize()
            if "parameters" in operation:
                operation["parameters"] = [_parameter(given, handler) for given in operation["parameters"]]
            _describe_ids((given["name"], given["schema"]) for given in operation.get("parameters", ()))
            operation["responses"].pop("400", None)  # Litestar's guess, with its own body
            for response in operation["responses"].values():
                for header in response.get("headers", {}).values():
                    header.setdefault("schema", {"type": "string"})  # which OpenAPI demands of every header
            operation["responses"] |= _failures(_kinds(operation, handler))
    for component in schema["components"]["schemas"].values():
        _describe_ids(component["properties"].items())
        for field in component["properties"].values():
            if len(field.get("oneOf", ())) == 1:  # how Litestar writes a field that may be absent
                field.update(field.pop("oneOf")[0])
    _, components = msgspec.json.schema_components([Problem], ref_template="#/components/schemas/{name}")
    schema["components"]["schemas"] |= components
    return msgspec.json.encode(schema)


def _describe_ids(schemas: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Say of ids that they need 64 bits: without a format some generators of clients take 32."""
    for name, schema in schemas:
        if name in {"id", "user_id", "post_id", "after"}:
            schema["format"] = "int64"


def _parameter(given: dict[str, Any], handler: HTTPRouteHandler) -> dict[str, Any]:
    """Describe a parameter as Litestar does, but with exact bounds, and without null, which no text can be."""
    schema = given["schema"]
    if len(types := [one for one in schema.get("oneOf", ()) if one != {"type": "null"}]) == 1:
        schema = types[0] | {name: value for name, value in schema.items() if name != "oneOf"}
    schema.pop("description", None)
    for name, field in handler.parsed_fn_signature.parameters.items():
        declared = field.kwarg_definition
        if isinstance(declared, ParameterKwarg) and given["name"] == (declared.name or name):
            bounds = {"minimum": declared.ge, "maximum": declared.le}
            schema |= {bound: value for bound, value in bounds.items() if value is not None}
    return {name: given[name] for name in ("name", "in", "required", "description") if name in given} | {
        "schema": schema
    }


def _kinds(operation: dict[str, Any], handler: HTTPRouteHandler) -> set[type[errors.ServiceError]]:
    """Every way in which a route fails."""
    kinds: set[type[errors.ServiceError]] = set(handler.opt.get("fails_with", ()))
    if "requestBody" in operation:
        malformed = errors.NotForm if FORM in operation["requestBody"]["content"] else errors.NotJson
        kinds |= {malformed, errors.BodyTooLarge, errors.InvalidFields}
        kinds |= {errors.WrongContentType, errors.ContentCodingNotSupported}
    if any(parameter["in"] != "path" for parameter in operation.get("parameters", ())):
        kinds |= {errors.InvalidFields}
    if "security" in operation:
        kinds |= {errors.NotAuthenticated, errors.InvalidToken}
    if "operation" not in operation["tags"]:
        kinds |= {errors.DatabaseUnavailable}
    return kinds


def _failures(kinds: Iterable[type[errors.ServiceError]]) -> dict[str, Any]:
    """One response per status, with an example of each kind."""
    responses = {}
    ordered = sorted(kinds, key=attrgetter("status", "code"))
    for status, group in groupby(ordered, key=attrgetter("status")):
        examples: dict[str, Any] = {}
        headers: dict[str, Any] = {}
        for kind in group:
            examples[kind.code] = {"summary": kind.detail, "value": describe(_example(kind))}
            headers |= {name: {"schema": {"type": "string"}, "example": value} for name, value in kind.headers.items()}
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
        responses[str(status)] = {
            "description": phrase(status),
            "headers": headers,
            "content": {MEDIA_TYPE: content},
        }
    return responses


def _example(kind: type[errors.ServiceError]) -> errors.ServiceError | type[errors.ServiceError]:
    if kind is errors.InvalidFields:
        return errors.InvalidFields([errors.FaultyField("/title", "must have at least 1 character")])
    return kind
