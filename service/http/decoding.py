"""Decodes request bodies and parameters into structs, and reports all invalid fields at once.

msgspec stops at the first fault, which is the fastest way while everything is valid. Only after a fault are the fields
decoded one by one, to name all that a client has to change.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Generic, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from msgspec import DecodeError, Raw, Struct, ValidationError, inspect

from service.errors import FaultyField, InvalidFields, NotForm, NotJson
from service.structs.rules import alternatives, describe_fault

T = TypeVar("T")
TypeDecoder = Callable[[Any, Any], Any]
Texts = Mapping[str, Any]  # a text for each name, a list of texts where a field takes several, or an uploaded file

MAX_FORM_FIELDS: Final = 100

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# Numbers as JSON writes them. msgspec would also read `1e1` and `5.0` as whole numbers.
_WHOLE_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,19}", re.ASCII)
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]{1,99})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_NUMBERS: Final = {inspect.IntType: _WHOLE_NUMBER, inspect.FloatType: _NUMBER}
# msgspec would read `null` as None, but no text is null.
_NOT_NULL: Final = re.compile(r"(?!null\Z).*", re.IGNORECASE | re.DOTALL)
_INVALID: Final = "\0"  # msgspec rejects it for every type that has a pattern

_LISTS: Final = (inspect.CollectionType, inspect.TupleType)
# Types for which `null` is a text like any other. The items of a list have types of their own.
_WITHOUT_NULL: Final = (*_LISTS, inspect.StrType, inspect.AnyType, inspect.CustomType)


class _Field(Struct, frozen=True):
    """A field of a struct that is decoded by itself."""

    name: str
    attribute: str
    kind: Any
    types: list[inspect.Type]
    decoder: msgspec.json.Decoder[Any]
    required: bool


class Decoder(Generic[T]):
    """Decodes values of one type, in general a struct."""

    def __init__(self, kind: type[T], type_decoder: TypeDecoder) -> None:
        """``type_decoder`` is msgspec's ``dec_hook``: it decodes the types that msgspec does not know."""
        self.kind = kind
        # A struct may say which of its fields the values of others require.
        self._required_with: Callable[[Mapping[str, Any]], Collection[str]] = getattr(
            kind, "required_with", lambda _: ()
        )
        self._type_decoder = type_decoder
        self._decoder = msgspec.json.Decoder(kind, dec_hook=type_decoder)

    @cached_property
    def _fields(self) -> list[_Field]:
        fields = msgspec.structs.fields(cast("type[Struct]", self.kind)) if is_struct(self.kind) else ()
        return [
            _Field(
                name=field.encode_name,
                attribute=field.name,
                kind=field.type,
                types=alternatives(inspect.type_info(field.type)),
                decoder=msgspec.json.Decoder(field.type, dec_hook=self._type_decoder),
                required=field.required,
            )
            for field in fields
        ]

    @cached_property
    def _forms(self) -> dict[str, re.Pattern[str]]:
        """The patterns that the texts of fields must match before msgspec reads them."""
        return {field.name: form for field in self._fields if (form := _form_of(field.types))}

    @cached_property
    def lists(self) -> frozenset[str]:
        """The fields that take several values."""
        return frozenset(field.name for field in self._fields if any(isinstance(one, _LISTS) for one in field.types))

    def decode_json(self, body: bytes) -> T:
        """Decode a JSON body. Raises ``NotJson``, or ``InvalidFields`` with all faulty fields."""
        body = body.removeprefix(_BYTE_ORDER_MARK)
        try:
            body.decode()  # msgspec skips unknown fields without checking their encoding
            return self._decoder.decode(body)
        except ValidationError as error:
            return self._decode_json_by_field(body, error)
        except (DecodeError, UnicodeDecodeError, RecursionError):
            raise NotJson from None

    def _decode_json_by_field(self, body: bytes, error: ValidationError) -> T:
        try:
            whole = msgspec.json.decode(body, type=Raw)  # to its end, also if it is not an object
            if not is_struct(self.kind):
                raise InvalidFields([describe_fault("", error)]) from None
            fields = msgspec.json.decode(whole, type=dict[str, Raw])
        except ValidationError:
            raise InvalidFields([describe_fault("", error)]) from None
        except (DecodeError, RecursionError):  # after the first fault
            raise NotJson from None

        return self._decode_by_field(fields, lambda field: field.decoder.decode(fields[field.name]), nullable=True)

    def decode_texts(self, texts: Texts) -> T:
        """Decode the texts of a form, a query, header fields or cookies. Raises ``InvalidFields``."""
        values = texts
        for name, form in self._forms.items():
            text = texts.get(name)
            if text is not None and not (isinstance(text, str) and form.fullmatch(text)):
                values = {**values, name: _checked(text, form)}
        try:
            decoded = msgspec.convert(values, self.kind, strict=False, dec_hook=self._type_decoder)
        except ValidationError:
            pass
        else:
            if all(name in values for name in self._required_with(values)):
                return decoded

        def decode(field: _Field) -> Any:
            return msgspec.convert(values[field.name], field.kind, strict=False, dec_hook=self._type_decoder)

        repeated = {name for name, value in texts.items() if isinstance(value, list) and name not in self.lists}
        return self._decode_by_field(values, decode, nullable=False, repeated=repeated)

    def _decode_by_field(
        self,
        given: Mapping[str, Any],
        decode: Callable[[_Field], Any],
        *,
        nullable: bool,
        repeated: Collection[str] = (),
    ) -> T:
        values, faults = {}, []
        required = self._required_with(given)
        for field in self._fields:
            pointer = f"/{field.name}"
            if field.name in repeated:
                faults.append(FaultyField(pointer, "is given more than once"))
            elif field.name in given:
                try:
                    values[field.attribute] = decode(field)
                except ValidationError as fault:
                    faults.append(describe_fault(pointer, fault, field.types, nullable=nullable))
            elif field.required or field.name in required:
                faults.append(FaultyField(pointer, "is required"))
        if faults:
            raise InvalidFields(faults) from None
        try:
            return self.kind(**values)  # the fault was in a repeated JSON field: the last value counts
        except ValueError as fault:
            raise InvalidFields([FaultyField("", str(fault))]) from None


def is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _checked(value: Any, form: re.Pattern[str]) -> Any:
    """Return ``value``, with every text that does not match ``form`` replaced by one that msgspec rejects."""
    if isinstance(value, list):
        return [_checked(one, form) for one in value]
    return _INVALID if isinstance(value, str) and not form.fullmatch(value) else value


def _form_of(types: Sequence[inspect.Type]) -> re.Pattern[str] | None:
    """The pattern that a text for a field of these types must match; ``None`` if msgspec alone decides."""
    kinds = [kind for kind in types if not isinstance(kind, inspect.NoneType)]
    forms = {
        _form_of(alternatives(kind.item_type)) if isinstance(kind, inspect.CollectionType) else _NUMBERS.get(type(kind))
        for kind in kinds
    }
    if len(forms) == 1 and None not in forms:
        return forms.pop()
    if forms == {_WHOLE_NUMBER, _NUMBER}:
        return _NUMBER
    is_nullable = len(kinds) < len(types) or any(None in getattr(kind, "values", ()) for kind in kinds)
    return _NOT_NULL if is_nullable and not any(isinstance(kind, _WITHOUT_NULL) for kind in kinds) else None


def parse_form(body: bytes) -> list[tuple[str, str]]:
    """Split an ``application/x-www-form-urlencoded`` body into its fields. Raises ``NotForm``."""
    try:
        return parse_qsl(body.decode(), errors="strict", max_num_fields=MAX_FORM_FIELDS)
    except ValueError:  # also a UnicodeDecodeError
        raise NotForm from None


def parse_query(query: bytes) -> Iterable[tuple[str, str]]:
    """Split a query into its parameters."""
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True)
    return [pair.partition("=")[::2] for pair in text.split("&")]  # the same, where nothing is encoded
