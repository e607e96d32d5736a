"""The arguments of a handler, as its signature declares them. All invalid fields of a request are reported at once."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from litestar.constants import RESERVED_KWARGS
from litestar.di import Provide
from litestar.enums import ParamType, RequestEncodingType
from litestar.exceptions import ClientException, HTTPException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.handlers import HTTPRouteHandler
from litestar.params import BodyKwarg
from litestar.typing import FieldDefinition
from msgspec import Struct

from service.errors import FaultyField, InvalidFields, NotForm, ServiceError
from service.http.decoding import Decoder, is_struct
from service.http.parameters import FINDERS, AnyRequest, Parameters, Rule, declaration_of
from service.http.requests import FORM, JSON, MULTIPART, check_content, check_encodable, read_form, read_json
from service.structs.fields import PostId, SessionId, UserId, parse_id

_ID_TYPES: Final = {PostId, SessionId, UserId}
_READERS: Final = {JSON: read_json, FORM: read_form}


class Arguments:
    """What the signature of a handler declares.

    Ids in the path, parameters, JSON bodies, and forms that are structs are read here. Litestar reads the rest.
    """

    def __init__(self, handler: HTTPRouteHandler, in_path: Collection[str]) -> None:
        """``in_path`` names the parameters in the path."""
        signature = handler.parsed_fn_signature.parameters
        self._type_decoder = handler.default_deserializer
        self._dependencies = handler.resolve_dependencies()
        self._reserved = {*in_path, *self._dependencies, *handler.resolve_layered_parameters(), *RESERVED_KWARGS}
        self.ids = {
            name: partial(parse_id, field.annotation) if field.annotation in _ID_TYPES else str
            for name, field in signature.items()
            if name in in_path and field.annotation in {*_ID_TYPES, str} and not declaration_of(field).is_constrained
        }
        # A route may name a rule for several parameters of its query.
        self._places = self._places_of(signature, handler.signature_model, handler.opt.get("query_rule"))
        self._places_of_dependencies = [
            place
            for provide in self._dependencies_of(signature)
            for place in self._places_of(provide.parsed_fn_signature.parameters, provide.signature_model)
        ]
        self.media_type = _media_type(signature)
        self.body = self._body_decoder(handler)
        self._read_body = _READERS.get(self.media_type or "")

        self.takes_request = "request" in signature
        self.reads_body = bool(self._read_body and self.body)
        self.reads_parameters = bool(self._places)
        read = {name for place in self._places for name in place.arguments} | self.ids.keys()
        self.left = signature.keys() - read - {"request"} - ({"data"} if self.reads_body else set())

    def _places_of(
        self, signature: Mapping[str, FieldDefinition], model: type[Struct], query_rule: Rule | None = None
    ) -> list[Parameters]:
        types = {field.name: field.type for field in msgspec.structs.fields(model)}
        places: dict[ParamType, dict[str, FieldDefinition]] = {}
        for name, field in signature.items():
            place = declaration_of(field).param_type
            if name not in self._reserved and not field.is_di_field and place in FINDERS:
                places.setdefault(place, {})[name] = field
        return [
            Parameters(place, fields, types, self._type_decoder, query_rule if place == ParamType.QUERY else None)
            for place, fields in places.items()
        ]

    def _dependencies_of(self, signature: Iterable[str]) -> list[Provide]:
        """The dependencies of a function, direct and indirect."""
        found = [self._dependencies[name] for name in signature if name in self._dependencies]
        return found + [more for one in found for more in self._dependencies_of(one.parsed_fn_signature.parameters)]

    def _body_decoder(self, handler: HTTPRouteHandler) -> Decoder[Any] | None:
        data = handler.parsed_data_field
        if data is None or data.has_default or handler.resolve_data_dto():
            return None
        is_readable = self.media_type == JSON or is_struct(data.annotation)
        return Decoder(data.annotation, self._type_decoder) if is_readable else None

    def read_ids(self, request: AnyRequest) -> dict[str, Any]:
        """Read the ids and the texts in the path. Raises ``PostNotFound`` or ``UserNotFound`` for an invalid id."""
        path = request.scope["path_params"]
        return {name: read(path[name]) for name, read in self.ids.items()}

    def read_parameters(self, request: AnyRequest) -> dict[str, Any]:
        """Read the parameters. Raises ``InvalidFields`` with all that are invalid."""
        if len(self._places) == 1 and not self._places_of_dependencies:
            return self._places[0].read(request)
        arguments: dict[str, Any] = {}
        faults: list[FaultyField] = []
        for place in self._places:
            try:
                arguments |= place.read(request)
            except InvalidFields as error:
                faults += error.errors
        # Litestar reads the parameters of dependencies again. They are also read here, to report all faults together.
        for place in self._places_of_dependencies:
            try:
                place.read(request)
            except InvalidFields as error:
                faults += [fault for fault in error.errors if fault not in faults]
        if faults:
            raise InvalidFields(faults)
        return arguments

    async def read(self, request: AnyRequest) -> dict[str, Any]:
        """Read the parameters and the body. Raises ``InvalidFields`` with the faults of all of them."""
        if not (self._read_body and self.body):
            return self.read_parameters(request)
        if not self._places and not self._places_of_dependencies:
            return {"data": await self._read_body(request, self.body)}
        arguments: dict[str, Any] = {}
        faults: list[FaultyField] = []
        try:
            arguments = self.read_parameters(request)
        except InvalidFields as error:
            faults += error.errors
        try:
            arguments["data"] = await self._read_body(request, self.body)
        except InvalidFields as error:
            faults += error.errors
        if faults:
            raise InvalidFields(faults)
        return arguments


class LitestarArguments:
    """Litestar's own model of a handler's arguments, completed by those that ``Arguments`` reads.

    Has the attributes of ``KwargsModel`` that ``HTTPRoute`` uses.
    """

    def __init__(self, model: Any, arguments: Arguments, before_fault: Callable[[AnyRequest], Awaitable[None]]) -> None:
        """``before_fault`` is awaited before an error about an argument is raised."""
        self.has_kwargs = bool(model.has_kwargs)  # a set, which is changed below
        self.dependency_batches = model.dependency_batches
        self.resolve_dependencies = model.resolve_dependencies
        if arguments.reads_body:  # it is not to be parsed twice
            model.expected_reserved_kwargs.discard("data")
            model.extractors = model._create_extractors()  # noqa: SLF001 - the only way to leave one out
        self._model = model
        self._arguments = arguments
        self._before_fault = before_fault

    async def to_kwargs(self, connection: AnyRequest) -> dict[str, Any]:
        """Read all arguments but the results of dependencies."""
        try:
            return await self._read(connection)
        except (ServiceError, HTTPException):
            await self._before_fault(connection)
            raise

    async def _read(self, connection: AnyRequest) -> dict[str, Any]:
        arguments = self._arguments
        ours = arguments.read_ids(connection) | await arguments.read(connection)
        if arguments.media_type is not None and not arguments.reads_body:
            check_content(connection.scope, arguments.media_type)
        try:
            values: dict[str, Any] = await self._model.to_kwargs(connection)
        except (ValidationException, RequestEntityTooLarge):
            raise
        except (ClientException, LookupError, UnicodeError):
            if arguments.media_type != MULTIPART:
                raise
            raise NotForm from None  # the last two come from the charset of a part
        if arguments.media_type == MULTIPART and isinstance(parts := values.get("data"), dict):
            check_encodable(parts.values())
            if arguments.body:
                values["data"] = arguments.body.decode_texts(parts)
        return values | ours


def _media_type(signature: Mapping[str, FieldDefinition]) -> str | None:
    """The media type of the body that a function takes: empty if it takes any, ``None`` if it takes no body."""
    if data := signature.get("data"):
        declared = data.kwarg_definition.media_type if isinstance(data.kwarg_definition, BodyKwarg) else JSON
        return declared.value if isinstance(declared, RequestEncodingType) else declared
    return "" if "body" in signature else None
