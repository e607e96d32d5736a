"""The sentences for invalid values: msgspec's messages in plain words, without the names of Python's types."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import ValidationError, inspect, json

from service.errors import FaultyField
from service.structs.fields import WITHOUT_NUL

_encoder = json.Encoder()

# The sentence if no message below matches.
NOT_VALID: Final = "is not valid"

_TYPES: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
    "bytes": "text in base64",
    "datetime": "a date and time",
    "date": "a date",
    "time": "a time of day",
    "duration": "a duration",
    "uuid": "a UUID",
    "decimal": "a decimal number",
}
_UNITS: Final = {"str": "character", "bytes": "byte", "array": "item", "object": "field"}
_LIMITS: Final = {">= ": "at least ", "at least ": "at least ", "<= ": "at most ", "at most ": "at most ", "": ""}
_BOUNDS: Final = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}
_PATTERNS: Final = {WITHOUT_NUL: "must not contain U+0000"}
_DURATION: Final = "must be a duration such as PT15M"
_SENTENCES: Final = {
    "Invalid RFC3339 encoded datetime": "must be a date and time such as 2026-11-22T12:25:55Z",
    "Invalid RFC3339 encoded date": "must be a date such as 2026-11-22",
    "Invalid RFC3339 encoded time": "must be a time of day such as 12:25:55",
    "Invalid ISO8601 duration": _DURATION,
    "Only units 'D', 'H', 'M', and 'S' are supported when parsing ISO8601 durations": _DURATION,
    "Invalid MessagePack timestamp": "must be a date and time",
    "Invalid MessagePack timestamp: nanoseconds out of range": "is out of range",
    "Invalid UUID": "must be a UUID",
    "Invalid UUID bytes": "must be a UUID",
    "Invalid base64 encoded string": "must be text in base64",
    "Invalid decimal string": "must be a decimal number",
    "Invalid epoch timestamp": "is out of range",
    "Integer value out of range": "is out of range",
    "Number out of range": "is out of range",
    "Duration is out of range": "is out of range",
    "Timestamp is out of range": "is out of range",
}

_PLACE: Final = re.compile(r"(?P<message>.*?)(?: - at `(?:key` in `)?\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_TYPE: Final = re.compile(r"Expected `([^`]+)`(?:, got `[^`]*`)?")
_MULTIPLE: Final = re.compile(r"Expected `(?:int|float)` that's a multiple of (\S+)")
_PATTERN: Final = re.compile(r"Expected `str` matching regex .*", re.DOTALL)
_LENGTH: Final = re.compile(
    r"Expected `(str|bytes|array|object)` of (at least |at most )?length (>= |<= )?(\d+)(?: to (\d+))?(?:, got \d+)?"
)
_FIELD: Final = re.compile(r"Object (missing required|contains unknown) field `([^`]*)`")


def _length(found: re.Match[str]) -> str:
    unit, limit, operator, low, high = found.groups(default="")
    plural = "" if (high or low) == "1" else "s"
    return f"must have {_LIMITS[limit or operator]}{low}{high and f' to {high}'} {_UNITS[unit]}{plural}"


# All other messages of msgspec, except those that name types.
_MESSAGES: Final[dict[re.Pattern[str], Callable[[re.Match[str]], str]]] = {
    _LENGTH: _length,
    re.compile(r"Expected `(?:int|float)` (>=|>|<=|<) (\S+?)(?:\.0)?"): lambda found: (
        f"must be {_BOUNDS[found[1]]} {found[2]}"
    ),
    re.compile(_MULTIPLE.pattern + r"?(?:\.0)?"): lambda found: f"must be a multiple of {found[1]}",
    _PATTERN: lambda _: "does not have the required form",
    re.compile(r"Expected `\w+` with (a|no) timezone component"): lambda found: f"must have {found[1]} time zone",
    re.compile(r"Invalid (?:enum )?value .*", re.DOTALL): lambda _: "is not one of the allowed values",
}


def alternatives(kind: inspect.Type) -> list[inspect.Type]:
    """The types that a field takes: those of a union, else its only one."""
    if isinstance(kind, inspect.Metadata):
        return alternatives(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [one for member in kind.types for one in alternatives(member)]
    return [kind]


def describe_fault(
    pointer: str, error: ValidationError, types: Sequence[inspect.Type] = (), *, nullable: bool = True
) -> FaultyField:
    """Describe why msgspec did not take a value at ``pointer`` that may be one of ``types``.

    ``nullable`` is false where the value is text of a form, a query or a header, which cannot be null.
    The message of a ``ValueError`` that one of our own types raises is used as it is.
    """
    matched = _PLACE.fullmatch(str(error))
    path, message = (matched["path"] or "", matched["message"]) if matched else ("", "")
    for name, index in _STEP.findall(path):
        if index == "...":  # an item of a mapping or a set, which msgspec does not name
            break
        pointer += "/" + (name.replace("~", "~0").replace("/", "~1") or index)
    if field := _FIELD.fullmatch(message):
        return FaultyField(f"{pointer}/{field[2]}", "is required" if field[1].startswith("missing") else "is not known")
    words = None if path or not types else _from_type(message, types, nullable=nullable)
    words = words or explain(message, nullable=nullable)
    if words == NOT_VALID and isinstance(error.__cause__, ValueError) and "`" not in message:
        words = message
    return FaultyField(pointer, words)


def explain(message: str, *, nullable: bool = True) -> str:
    """Put a message of msgspec, without its place, into plain words."""
    if sentence := _SENTENCES.get(message.strip()):
        return sentence
    for pattern, words in _MESSAGES.items():
        if found := pattern.fullmatch(message):
            return words(found)
    if found := _TYPE.fullmatch(message):
        types = [name for name in found[1].split(" | ") if nullable or name != "null"]
        if all(name in _TYPES for name in types):
            return f"must be {' or '.join(_TYPES[name] for name in types)}"
    return NOT_VALID


def _from_type(message: str, types: Sequence[inspect.Type], *, nullable: bool) -> str | None:
    """Describe all bounds of a number, or all choices, where the message names only one bound or type."""
    kinds = [kind for kind in types if not isinstance(kind, inspect.NoneType)]
    if len(kinds) != 1:
        return None
    [kind] = kinds
    null = " or null" if nullable and len(types) > 1 else ""
    if isinstance(kind, inspect.LiteralType | inspect.EnumType):
        values = kind.values if isinstance(kind, inspect.LiteralType) else [member.value for member in kind.cls]
        accepted = [_encoder.encode(value).decode() for value in values if nullable or value is not None]
        return f"must be {' or '.join(accepted)}{null}"
    if isinstance(kind, inspect.IntType | inspect.FloatType) and not _MULTIPLE.fullmatch(message):
        return f"must be {_number(kind)}{null}"
    if isinstance(kind, inspect.StrType) and not _LENGTH.fullmatch(message):
        return _PATTERNS.get(kind.pattern or "") if _PATTERN.fullmatch(message) else f"must be text{null}"
    return None


def _number(kind: inspect.IntType | inspect.FloatType) -> str:
    noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    if kind.ge is not None and kind.le is not None:
        return f"{noun} from {kind.ge} to {kind.le}"
    bounds = {"at least": kind.ge, "above": kind.gt, "at most": kind.le, "below": kind.lt}
    limits = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
    return f"{noun} of {limits}" if limits.startswith("at") else f"{noun} {limits}".strip()
