"""The details of a 422: a plain sentence for every message of msgspec, without names of Python's types."""

import datetime as dt
import decimal
import enum
import re
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import msgspec
import pytest
from msgspec import Meta, Struct, UnsetType, ValidationError

from service.errors import FaultyField
from service.structs.fields import Email, Password, Title, decode_field
from service.structs.rules import NOT_VALID, alternatives, describe_fault, explain
from service.structs.users import UserCreate
from tests.people import assert_problem


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Inner(Struct, forbid_unknown_fields=True):
    number: int


class Outer(Struct):
    inner: Inner
    items: list[Inner] = []
    by_name: dict[str, int] = {}
    by_number: dict[int, str] = {}


class Pair(Struct):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("must not have a low above its high")


def limited(kind: Any, **limits: Any) -> Any:
    return Annotated[kind, Meta(**limits)]


# type, JSON, pointer, detail
FAULTS: list[tuple[Any, str, str, str]] = [
    # The types of this service.
    (Title, "1", "", "must be text"),
    (Title, "null", "", "must be text"),
    (Title, "1e400", "", "must be text"),
    (Title, '""', "", "must have at least 1 character"),
    (Title, f'"{"t" * 101}"', "", "must have at most 100 characters"),
    (Title, r'"\u0000"', "", "must not contain U+0000"),
    (Title | UnsetType, "null", "", "must be text"),
    (Title | UnsetType, '""', "", "must have at least 1 character"),
    (Password, '"seven77"', "", "must have at least 8 characters"),
    (Email, "5", "", "must be text"),
    (Email, '"x"', "", "An email address must have an @-sign."),
    (Email, f'"{"x" * 121}"', "", "must have at most 120 characters"),
    (UserCreate, "[]", "", "must be an object"),
    (UserCreate, "{}", "/username", "is required"),
    # Any other type.
    (int, '"x"', "", "must be a whole number"),
    (int, "1.5", "", "must be a whole number"),
    (int, "1e400", "", "must be a whole number"),
    (limited(int, ge=1, le=100), "0", "", "must be a whole number from 1 to 100"),
    (limited(int, ge=1, le=100), '"x"', "", "must be a whole number from 1 to 100"),
    (limited(int, ge=1), "0", "", "must be a whole number of at least 1"),
    (limited(int, le=9), "10", "", "must be a whole number of at most 9"),
    (limited(int, gt=1), "1", "", "must be a whole number above 1"),
    (limited(int, gt=1, lt=5), "5", "", "must be a whole number above 1 and below 5"),
    (limited(int, ge=0, lt=5), "-1", "", "must be a whole number of at least 0 and below 5"),
    (limited(int, multiple_of=5), "4", "", "must be a multiple of 5"),
    (limited(int, ge=1) | None, '"x"', "", "must be a whole number of at least 1 or null"),
    (float, '"x"', "", "must be a number"),
    (limited(float, gt=0, le=3600), "0", "", "must be a number above 0 and at most 3600"),
    (limited(float, ge=0.5, le=1), "2", "", "must be a number from 0.5 to 1"),
    (limited(float, multiple_of=0.5), "0.3", "", "must be a multiple of 0.5"),
    (bool, "1", "", "must be true or false"),
    (bool | None, "1", "", "must be true or false or null"),
    (None, "1", "", "must be null"),
    (limited(str, pattern="^a$"), '"b"', "", "does not have the required form"),
    (limited(str, min_length=2) | None, "1", "", "must be text or null"),
    (int | str | None, "1.5", "", "must be a whole number or text or null"),
    (Literal["a"], '"b"', "", 'must be "a"'),
    (Literal["a", "b"], "1", "", 'must be "a" or "b"'),
    (Literal[1, 2] | None, "3", "", "must be 1 or 2 or null"),
    (Colour, '"green"', "", 'must be "red" or "blue"'),
    (Colour | None, "1", "", 'must be "red" or "blue" or null'),
    (Size, "3", "", "must be 1 or 2"),
    (list[int], "{}", "", "must be a list"),
    (list[int], '[1, "x"]', "/1", "must be a whole number"),
    (list[limited(int, ge=2)], "[1]", "/0", "must be at least 2"),  # type: ignore[misc]
    (list[limited(float, lt=1)], "[1.0]", "/0", "must be below 1"),  # type: ignore[misc]
    (list[Colour], '["green"]', "/0", "is not one of the allowed values"),
    (limited(list[int], min_length=2), "[1]", "", "must have at least 2 items"),
    (limited(list[int], max_length=1), "[1, 2]", "", "must have at most 1 item"),
    (tuple[int, int], "[1]", "", "must have 2 items"),
    (limited(dict[str, int], min_length=1), "{}", "", "must have at least 1 field"),
    (limited(dict[str, int], max_length=1), '{"a": 1, "b": 2}', "", "must have at most 1 field"),
    (set[int], "1", "", "must be a list"),
    (bytes, '"!"', "", "must be text in base64"),
    (bytes, "1", "", "must be text in base64"),
    (limited(bytes, min_length=2), '"YQ=="', "", "must have at least 2 bytes"),
    (dt.datetime, '"x"', "", "must be a date and time such as 2026-11-22T12:25:55Z"),
    (dt.datetime, "1", "", "must be a date and time"),
    (Annotated[dt.datetime, Meta(tz=True)], '"2026-11-22T12:25:55"', "", "must have a time zone"),
    (Annotated[dt.datetime, Meta(tz=False)], '"2026-11-22T12:25:55Z"', "", "must have no time zone"),
    (dt.date, '"x"', "", "must be a date such as 2026-11-22"),
    (dt.date, "1", "", "must be a date"),
    (dt.time, '"x"', "", "must be a time of day such as 12:25:55"),
    (dt.time, "1", "", "must be a time of day"),
    (dt.timedelta, '"x"', "", "must be a duration such as PT15M"),
    (dt.timedelta, '"P999999999999D"', "", "is out of range"),
    (dt.timedelta, "[]", "", "must be a duration"),
    (uuid.UUID, '"x"', "", "must be a UUID"),
    (uuid.UUID, "1", "", "must be a UUID"),
    (decimal.Decimal, '"x"', "", "must be a decimal number"),
    (decimal.Decimal, "[]", "", "must be a decimal number"),
    # Places.
    (Outer, "{}", "/inner", "is required"),
    (Outer, '{"inner": 1}', "/inner", "must be an object"),
    (Outer, '{"inner": {}}', "/inner/number", "is required"),
    (Outer, '{"inner": {"number": "x"}}', "/inner/number", "must be a whole number"),
    (Outer, '{"inner": {"number": 1, "other": 2}}', "/inner/other", "is not known"),
    (Outer, '{"inner": {"number": 1}, "items": [{"number": 1}, {}]}', "/items/1/number", "is required"),
    (Outer, '{"inner": {"number": 1}, "by_name": {"a": "x"}}', "/by_name", "must be a whole number"),
    (Outer, '{"inner": {"number": 1}, "by_number": {"a": "x"}}', "/by_number", "must be a whole number"),
    (Pair, '{"low": 2, "high": 1}', "", "must not have a low above its high"),
]


def fault_of(kind: Any, json: str) -> FaultyField:
    with pytest.raises(ValidationError) as caught:
        msgspec.json.decode(json, type=kind, dec_hook=decode_field)
    return describe_fault("", caught.value, alternatives(msgspec.inspect.type_info(kind)))


@pytest.mark.parametrize(("kind", "json", "pointer", "detail"), FAULTS)
def test_every_message_has_a_plain_sentence(kind: Any, json: str, pointer: str, detail: str) -> None:
    assert fault_of(kind, json) == FaultyField(pointer, detail)


def test_a_text_cannot_be_null() -> None:
    for kind, words in (
        (limited(int, ge=1) | None, "must be a whole number of at least 1"),
        (bool | None, "must be true or false"),
    ):
        with pytest.raises(ValidationError) as caught:
            msgspec.convert("x", kind, strict=False)
        types = alternatives(msgspec.inspect.type_info(kind))
        assert describe_fault("/x", caught.value, types, nullable=False) == FaultyField("/x", words)


class Unknown:
    """A type that has no sentence."""


@pytest.mark.parametrize(
    "message",
    [
        "Expected `Unknown`, got `str`",
        "Expected `int | Unknown`, got `str`",
        "Something new about `int`",
        "Unsupported type: <class 'str'>",
        "",
    ],
)
def test_an_unknown_message_does_not_name_a_type(message: str) -> None:
    assert explain(message) == "is not valid"
    assert describe_fault("/x", ValidationError(message)) == FaultyField("/x", "is not valid")


def test_the_name_of_an_unsupported_type_is_not_revealed() -> None:
    def refuse(kind: type, value: object) -> object:
        raise TypeError(f"Unsupported type: {kind} for {value}")

    with pytest.raises(ValidationError) as caught:
        msgspec.convert({"x": 1}, dict[str, Unknown], dec_hook=refuse)

    assert describe_fault("", caught.value).detail == "is not valid"


@pytest.mark.parametrize("value", ["x - at `$.a`", "`", "a` - at `$.b", "'", "\n", " - at `$` - at `$.c`"])
def test_the_value_of_the_client_neither_appears_nor_changes_the_pointer(value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        msgspec.convert({"k": value}, dict[Literal["k"], Colour])

    assert describe_fault("/x", caught.value).detail == "is not one of the allowed values"


def test_all_messages_of_msgspec_are_known() -> None:
    """They are read from its compiled module, so that a new one fails here before a client sees it."""
    module = Path(msgspec._core.__file__)  # noqa: SLF001 - it has no other name
    messages = {found.decode() for found in re.findall(rb"(?<=\0)([A-Z][ -~]{3,120})%U(?=\0)", module.read_bytes())}
    arguments = {
        "`float` %s": "`float` >=",
        "%s": "int",
        "%U": "int",
        "%R": "1.0",
        "%zd": "2",
        "%lld": "2",
        "%llu": "2",
    }

    unknown = set()
    for message in messages:
        filled = message
        for hole, argument in arguments.items():
            filled = filled.replace(hole, argument)
        if describe_fault("", ValidationError(filled)).detail == NOT_VALID:
            unknown.add(filled)

    assert len(messages) > 40
    assert unknown == set()


@pytest.mark.parametrize(
    ("method", "path", "arguments", "details"),
    [
        (
            "POST",
            "/auth/register",
            {"json": {"username": "", "email": "a@b", "password": "seven77"}},
            {
                "/username": "must have at least 1 character",
                "/email": "The part after the @-sign is not valid. It should have a period.",
                "/password": "must have at least 8 characters",
            },
        ),
        (
            "POST",
            "/auth/register",
            {"json": {"username": 5, "email": None, "password": ["x"]}},
            {"/username": "must be text", "/email": "must be text", "/password": "must be text"},
        ),
        (
            "POST",
            "/auth/register",
            {"json": {"username": "a\0", "email": f"{'a' * 200}@example.com", "password": "p" * 129}},
            {
                "/username": "must not contain control or format characters",
                "/email": "must have at most 120 characters",
                "/password": "must have at most 128 characters",
            },
        ),
        (
            "POST",
            "/auth/register",
            {"json": {}},
            {"/username": "is required", "/email": "is required", "/password": "is required"},
        ),
        ("POST", "/auth/register", {"json": []}, {"": "must be an object"}),
        (
            "POST",
            "/auth/token",
            {"data": {"username": "a\0", "password": ["x", "y"], "grant_type": ["password", "password"]}},
            {
                "/username": "must not contain U+0000",
                "/password": "is given more than once",
                "/grant_type": "is given more than once",
            },
        ),
        ("POST", "/auth/token", {"data": {"username": ""}}, {"/username": "is required", "/password": "is required"}),
        (
            "GET",
            "/posts?limit=0&after=x&user_id=",
            {},
            {
                "/limit": "must be a whole number from 1 to 100",
                "/after": f"must be a whole number from 0 to {2**63 - 1}",
                "/user_id": f"must be a whole number from 1 to {2**63 - 1}",
            },
        ),
    ],
)
async def test_all_invalid_fields_are_described_at_once(
    client: httpx.AsyncClient, method: str, path: str, arguments: dict[str, Any], details: dict[str, str]
) -> None:
    response = await client.request(method, path, **arguments)

    assert_problem(response, 422, "invalid_fields")
    assert {fault["pointer"]: fault["detail"] for fault in response.json()["errors"]} == details
