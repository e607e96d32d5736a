"""Bodies and queries of requests to structs, with every fault at once.

msgspec stops at the first fault, which is as fast as it gets while all is well. Only when something is wrong is what
came taken apart a second time, field by field, to name everything that a client has to mend.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import NODEFAULT, DecodeError, Raw, Struct, ValidationError
from msgspec.structs import FieldInfo

from service.errors import FaultyField, InvalidFields, NotForm, NotJson
from service.structs.fields import decode_field

T = TypeVar("T", bound=Struct)

MAX_FORM_FIELDS: Final = 100

_WHOLE_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,19}", re.ASCII)


@cache
def _decoder(kind: type[Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, dec_hook=decode_field)


@cache
def _fields(kind: type[Struct]) -> list[tuple[FieldInfo, msgspec.json.Decoder[Any]]]:
    """The fields of a struct, and what decodes each by itself."""
    return [(field, msgspec.json.Decoder(field.type, dec_hook=decode_field)) for field in msgspec.structs.fields(kind)]


def decode_json(body: bytes, kind: type[T]) -> T:
    """Decode a JSON body. Raises ``NotJson``, or ``InvalidFields`` with all faulty fields."""
    try:
        body.decode()  # msgspec skips fields that it does not know without a look at their encoding
        decoded: T = _decoder(kind).decode(body)
    except ValidationError as error:
        return _decode_field_by_field(body, kind, error)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson from None
    return decoded


def _decode_field_by_field(body: bytes, kind: type[T], error: ValidationError) -> T:
    try:
        whole = msgspec.json.decode(body, type=Raw)  # to its end, also where it is no object
        fields = msgspec.json.decode(whole, type=dict[str, Raw])
    except ValidationError:
        raise InvalidFields([FaultyField("", str(error))]) from None
    except (DecodeError, RecursionError):  # further on than the first fault
        raise NotJson from None
    values, faults = {}, []
    for field, decoder in _fields(kind):
        name = field.encode_name
        if name in fields:
            try:
                values[field.name] = decoder.decode(fields[name])
            except ValidationError as fault:
                faults.append(_fault(name, fault))
        elif field.default is NODEFAULT:
            faults.append(FaultyField(f"/{name}", "Missing"))
    if faults:
        raise InvalidFields(faults) from None
    return kind(**values)  # the fault was in a repeated field, of which the last one counts


def parse_form(body: bytes) -> list[tuple[str, str]]:
    """Take an ``application/x-www-form-urlencoded`` body apart. Raises ``NotForm``."""
    try:
        return parse_qsl(body.decode(), errors="strict", max_num_fields=MAX_FORM_FIELDS)
    except ValueError:  # of which UnicodeDecodeError is one
        raise NotForm from None


def decode_form(pairs: Iterable[tuple[str, str]], kind: type[T]) -> T:
    """Decode the fields of a form. Raises ``InvalidFields`` with all faulty fields.

    One without a value counts as absent, and one of ours that comes twice is a fault (RFC 6749, section 3.2). Lone
    surrogates, which the charset of a part of a multipart form can stand for, raise ``UnicodeEncodeError``.
    """
    values: dict[str, Any] = {}
    repeated = set()
    for name, value in pairs:
        if value == "":
            continue
        value.encode()
        if name in values and name in kind.__struct_encode_fields__:
            repeated.add(name)
        values[name] = value
    return _to_struct(values, kind, repeated)


def decode_query(query: bytes, kind: type[T]) -> T:
    """Decode a query of whole numbers. Raises ``InvalidFields`` with all faulty fields.

    Of a parameter that comes twice the last one counts.
    """
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return _to_struct({name: int(text) if _WHOLE_NUMBER.fullmatch(text) else text for name, text in pairs}, kind)


def _to_struct(values: Mapping[str, Any], kind: type[T], repeated: Collection[str] = ()) -> T:
    try:
        if not repeated:
            return msgspec.convert(values, kind, dec_hook=decode_field)
    except ValidationError:
        pass
    raise InvalidFields(list(_faults(values, kind, repeated)))


def _faults(values: Mapping[str, Any], kind: type[Struct], repeated: Collection[str]) -> Iterable[FaultyField]:
    for field, _ in _fields(kind):
        name = field.encode_name
        if name in repeated:
            yield FaultyField(f"/{name}", "Given more than once")
        elif name in values:
            try:
                msgspec.convert(values[name], field.type, dec_hook=decode_field)
            except ValidationError as fault:
                yield _fault(name, fault)
        elif field.default is NODEFAULT:
            yield FaultyField(f"/{name}", "Missing")


def _fault(name: str, error: ValidationError) -> FaultyField:
    # What is wrong, without the place, which the pointer names.
    sentence = str(error).split(" - at `", maxsplit=1)[0]
    # The only pattern among the fields: see WITHOUT_NUL.
    return FaultyField(f"/{name}", "Must not contain U+0000" if "matching regex" in sentence else sentence)
