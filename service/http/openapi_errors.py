"""The errors of a route, as the OpenAPI document shows them: one response per status, with an example of each error."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import msgspec

from service import errors
from service.http.decoding import Decoder, is_struct
from service.http.problems import MEDIA_TYPE, describe
from service.http.requests import FORM, Request
from service.http.routes import Route
from service.structs.rules import NOT_VALID

Json = dict[str, Any]

_SCHEMA: Final = "#/components/schemas/{}"


def _kinds(operation: Json, handler: Route) -> set[type[errors.ServiceError]]:
    """Every error of a route, except invalid fields."""
    kinds: set[type[errors.ServiceError]] = set(handler.opt.get("fails_with", ()))
    if "requestBody" in operation:
        malformed = errors.NotForm if FORM in operation["requestBody"]["content"] else errors.NotJson
        kinds |= {malformed, errors.BodyTooLarge, errors.WrongContentType, errors.ContentCodingNotSupported}
    if "security" in operation:
        kinds |= {errors.NotAuthenticated, errors.InvalidToken}
    if "Operation" not in operation["tags"]:
        kinds |= {errors.DatabaseUnavailable}
    return kinds


def describe_errors(operation: Json, handler: Route, scope: Any) -> dict[str, Json]:
    """One response per status, with an example of each error."""
    responses = {}
    failures: set[Any] = {*_kinds(operation, handler)}
    if faults := _invalid_fields(operation, handler):
        failures.add(errors.InvalidFields(faults))
    ordered = sorted(failures, key=attrgetter("status", "code"))
    for status, group in groupby(ordered, key=attrgetter("status")):
        examples: Json = {}
        headers: Json = {}
        for error in group:
            problem = describe(error, scope)
            examples[error.code] = {"summary": error.detail, "value": problem}
            headers |= {name: {} for name in error.headers}
            schema = {"$ref": _SCHEMA.format(type(problem).__name__)}
        responses[str(status)] = {
            "description": " ".join(f"{example['summary']}." for example in examples.values()),
            "headers": headers,
            "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
        }
    return responses


def _invalid_fields(operation: Json, handler: Route) -> list[errors.FaultyField]:
    """What the route reports if all of its fields are invalid, or missing if they are never invalid."""
    names = [given["name"] for given in operation.get("parameters", ()) if given["in"] != "path"]
    faults = _faults_of_parameters(handler, names) or _faults_of_parameters(handler, [])
    if "requestBody" in operation:
        arguments = handler.arguments
        found = _faults_of_body(arguments.body, operation) if arguments.reads_body and arguments.body else []
        faults += found or [errors.FaultyField("", NOT_VALID)]
    return faults


def _faults_of_parameters(handler: Route, names: Sequence[str]) -> list[errors.FaultyField]:
    headers = [(name.lower().encode(), b"x") for name in names]
    cookies = (b"cookie", "; ".join(f"{name}=x" for name in names).encode())
    query = "&".join(f"{name}=x" for name in names).encode()
    scope: Any = {"type": "http", "headers": [*headers, cookies], "query_string": query, "state": {}}
    try:
        handler.arguments.read_parameters(Request(scope))
    except errors.InvalidFields as error:
        return error.errors
    return []


def _faults_of_body(decoder: Decoder[Any], operation: Json) -> list[errors.FaultyField]:
    fields = decoder.kind.__struct_encode_fields__ if is_struct(decoder.kind) else ()
    try:
        if FORM in operation["requestBody"]["content"]:
            decoder.decode_texts({})
        else:
            decoder.decode_json(msgspec.json.encode(dict.fromkeys(fields, "")))
            decoder.decode_json(b"{}")
    except errors.InvalidFields as error:
        return error.errors
    return []
