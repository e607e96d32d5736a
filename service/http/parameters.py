"""The parameters of a handler: the query, the header fields and the cookies of a request as arguments."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import litestar
import msgspec
from litestar.enums import ParamType
from litestar.params import ParameterKwarg
from litestar.typing import FieldDefinition

from service.errors import FaultyField, InvalidFields
from service.http.decoding import Decoder, Texts, TypeDecoder, parse_query

AnyRequest = litestar.Request[Any, Any, Any]
Rule = Callable[[AnyRequest, Texts], list[FaultyField]]


def _find_in_query(request: AnyRequest, names: Collection[str], lists: Collection[str]) -> Texts:
    found: dict[str, Any] = {}
    for name, text in parse_query(request.scope["query_string"]):
        if name in lists:
            found.setdefault(name, []).append(text)
        elif name in names:
            found[name] = text  # of a repeated parameter the last one counts
    return found


def _find_in_headers(request: AnyRequest, names: Collection[str], lists: Collection[str]) -> Texts:
    wanted = {name.lower().encode(): name for name in names}
    found: dict[str, Any] = {}
    for field, value in request.scope["headers"]:
        if name := wanted.get(field):
            text = value.decode("latin-1")
            if name in lists:
                found.setdefault(name, []).append(text)
            else:
                found.setdefault(name, text)
    return found


def _find_in_cookies(request: AnyRequest, names: Collection[str], lists: Collection[str]) -> Texts:
    return {name: [text] if name in lists else text for name, text in request.cookies.items() if name in names}


FINDERS: Final[dict[ParamType, Callable[[AnyRequest, Collection[str], Collection[str]], Texts]]] = {
    ParamType.QUERY: _find_in_query,
    ParamType.HEADER: _find_in_headers,
    ParamType.COOKIE: _find_in_cookies,
}


class Parameters:
    """The parameters that a function declares in one place: the query, the header fields or the cookies."""

    def __init__(
        self,
        place: ParamType,
        declared: Mapping[str, FieldDefinition],
        types: Mapping[str, Any],
        type_decoder: TypeDecoder,
        rule: Rule | None = None,
    ) -> None:
        """``types`` are the types of the arguments with their limits, as msgspec takes them.

        ``rule`` finds the faults that concern several parameters.
        """
        names = {argument: declaration_of(field).name or argument for argument, field in declared.items()}
        fields = [_struct_field(argument, types[argument], field) for argument, field in declared.items()]
        self.arguments = tuple(names)
        self._names = frozenset(names.values())
        self._decoder = Decoder(msgspec.defstruct("Parameters", fields, rename=names, kw_only=True), type_decoder)
        self._find = FINDERS[place]
        self._rule = rule
        self._defaults = self._read_defaults()

    def _read_defaults(self) -> dict[str, Any] | None:
        """The arguments of a request without any of the parameters; ``None`` if one is required.

        Requests share them: Litestar refuses defaults that are not hashable, so no handler can change one.
        """
        try:
            return msgspec.structs.asdict(self._decoder.decode_texts({}))
        except InvalidFields:
            return None

    def read(self, request: AnyRequest) -> dict[str, Any]:
        """Return the arguments. Raises ``InvalidFields`` with all faulty parameters."""
        texts = self._find(request, self._names, self._decoder.lists)
        faults = self._rule(request, texts) if self._rule else []
        if self._defaults is not None and not (texts or faults):
            return self._defaults.copy()
        try:
            decoded = self._decoder.decode_texts(texts)
        except InvalidFields as error:
            invalid = {fault.pointer for fault in error.errors}
            raise InvalidFields(error.errors + [fault for fault in faults if fault.pointer not in invalid]) from None
        if faults:
            raise InvalidFields(faults)
        return msgspec.structs.asdict(decoded)


def _struct_field(argument: str, kind: Any, declared: FieldDefinition) -> tuple[Any, ...]:
    """A parameter as a field of a struct, with its default if a request may leave it out."""
    if declared.has_default:
        return argument, kind, declared.default
    return (argument, kind, None) if declared.is_optional or declared.is_any else (argument, kind)


def declaration_of(field: FieldDefinition) -> ParameterKwarg:
    """How a parameter is declared. Litestar's default is a query parameter."""
    return field.kwarg_definition if isinstance(field.kwarg_definition, ParameterKwarg) else ParameterKwarg()
