"""Hostile bodies, queries and tokens get the right 4xx, store nothing, and leave the connection usable."""

import base64
import gzip
import json
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from tests.bodies import FORM, JSON, MEBIBYTE
from tests.people import Person, assert_problem, login, pointers
from tests.tables import all_rows

POST = b'"title": "T", "content": "C"'
DEEP = b"[" * 100_000 + b"]" * 100_000
PARTS = {"Content-Type": "multipart/form-data; boundary=B"}


def with_title(value: bytes) -> bytes:
    return b'{"title": ' + value + b', "content": "C"}'


def with_unknown(value: bytes) -> bytes:
    return b"{" + POST + b', "other": ' + value + b"}"


def part(name: bytes, value: bytes, charset: bytes = b"utf-8") -> bytes:
    head = b'--B\r\nContent-Disposition: form-data; name="%b"\r\nContent-Type: text/plain; charset=%b' % (name, charset)
    return head + b"\r\n\r\n" + value + b"\r\n"


REFUSED = {
    # Well-formed: a 422 names the invalid field.
    "a number over 64 bits": (422, with_title(b"18446744073709551616")),
    "a number over the range of a double": (422, with_title(b"1e400")),
    "a number of 100,000 digits": (422, with_title(b"9" * 100_000)),
    "a negative number of 100,000 digits": (422, with_title(b"-" + b"9" * 100_000)),
    "a fraction of 100,000 digits": (422, with_title(b"0." + b"1" * 100_000)),
    "minus zero": (422, with_title(b"-0")),
    "a nested list": (422, with_title(b"[" * 500 + b"]" * 500)),
    "a repeated key whose last value is wrong": (422, b'{"title": "T", "content": "C", "title": 1}'),
    "a scalar": (422, b"1"),
    "a string": (422, b'"title"'),
    "null": (422, b"null"),
    "only a number over the range of a double": (422, b"1e400"),
    "an object in a list": (422, b"[{" + POST + b"}]"),
    # Not JSON, or nested deeper than we decode.
    "depth": (400, DEEP),
    "depth in a field": (400, with_title(DEEP)),
    "depth in an unknown field": (400, with_unknown(DEEP)),
    "depth of objects": (400, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "an infinity": (400, with_unknown(b"Infinity")),
    "NaN in an unknown field": (400, with_unknown(b"NaN")),
    "a leading zero": (400, with_unknown(b"01")),
    "an underscore in a number": (400, with_unknown(b"1_0")),
    "white space": (400, b" \r\n\t"),
    "two byte order marks": (400, b"\xef\xbb\xbf\xef\xbb\xbf{" + POST + b"}"),
    "a byte order mark alone": (400, b"\xef\xbb\xbf"),
    "a byte order mark of UTF-16": (400, ("{" + POST.decode() + "}").encode("utf-16")),
    "UTF-32": (400, ("{" + POST.decode() + "}").encode("utf-32")),
    "Latin-1": (400, '{"title": "é", "content": "C"}'.encode("latin-1")),
    "an overlong form": (400, with_title(b'"\xc0\xaf"')),
    "a raw surrogate": (400, with_title(b'"\xed\xa0\x80"')),
    "a code point beyond Unicode": (400, with_title(b'"\xf4\x90\x80\x80"')),
    "a surrogate in a key": (400, with_unknown(b'{"\\ud800": 1}')),
    "surrogates in the wrong order": (400, with_title(b'"\\udc00\\ud800"')),
    "a raw control character": (400, with_title(b'"a\nb"')),
    "a second document": (400, (b"{" + POST + b"}") * 2),
    "a trailing comma": (400, b"{" + POST + b",}"),
    "a trailing U+0000": (400, b"{" + POST + b"}\x00"),
    "a fault before the end of the document": (400, b'{"title": 1, "content": "C"'),
    "a list that does not end": (400, b"[1,"),
    "a compressed body": (400, gzip.compress(b"{" + POST + b"}")),
}


@pytest.mark.parametrize(("status", "body"), REFUSED.values(), ids=REFUSED)
async def test_hostile_json_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, status: int, body: bytes
) -> None:
    before = await all_rows(db)

    response = await client.post("/posts", content=body, headers=alice.headers | JSON)
    after = await client.get("/users/me", headers=alice.headers)

    assert_problem(response, status, {400: "not_json", 422: "invalid_fields"}[status])
    assert status == 400 or pointers(response) in (["/title"], [""])
    assert await all_rows(db) == before
    assert after.extensions["network_stream"] is response.extensions["network_stream"]
    assert after.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        with_unknown(b"1e400"),
        with_unknown(b"9" * 100_000),
        with_unknown(b"[" * 500 + b"]" * 500),
        b'{"title": 1, "content": "C", "title": "T"}',  # the last value of a repeated key counts
        b'{"title": null, "content": [], "title": "T", "content": "C"}',
        b'{"t\\u0069tle": "T", "content": "C"}',
        b"\xef\xbb\xbf{" + POST + b"}",  # a byte order mark
        b"\xef\xbb\xbf" + b'{"title": 1, "content": "C", "title": "T"}',
    ],
    ids=lambda body: body[:40],
)
async def test_unusual_but_valid_json_is_accepted(client: httpx.AsyncClient, alice: Person, body: bytes) -> None:
    response = await client.post("/posts", content=body, headers=alice.headers | JSON)

    assert response.status_code == 201
    assert (response.json()["title"], response.json()["content"]) == ("T", "C")


@pytest.mark.parametrize(("size", "status"), [(MEBIBYTE - 1, 201), (MEBIBYTE, 201), (MEBIBYTE + 1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_limit_is_exact(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, *, size: int, status: int, chunked: bool
) -> None:
    body = b"{" + POST + b" " * (size - len(POST) - 2) + b"}"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, size, 100_000):
            yield body[start : start + 100_000]

    response = await client.post("/posts", content=chunks() if chunked else body, headers=alice.headers | JSON)

    assert response.status_code == status
    assert await db.fetchval("select count(*) from posts") == (status == 201)


PASSWORD = part(b"password", b"x") + b"--B--\r\n"

FORMS = {
    "10,000 fields": (400, b"&".join(b"f%d=1" % number for number in range(10_000)), FORM),
    "a million separators": (400, b"&" * 1_000_000, FORM),
    "encoded bytes that are not UTF-8": (400, b"username=%ed%a0%80&password=x", FORM),
    "a percent sign without two digits": (401, b"username=%zz&password=%", FORM),
    "an encoded U+0000": (422, b"username=%00&password=x", FORM),
    "a name of 900,000 bytes": (401, b"username=" + b"a" * 900_000 + b"&password=x", FORM),
    "a password of 900,000 bytes": (401, b"username=alice&password=" + b"a" * 900_000, FORM),
    "a field that comes twice": (422, b"username=alice&password=x&password=x", FORM),
    "semicolons": (422, b"username=alice;password=x", FORM),
    "10,000 parts": (400, b"".join(part(b"f%d" % number, b"1") for number in range(10_000)) + PASSWORD, PARTS),
    "a part that comes twice": (422, part(b"username", b"a") * 2 + PASSWORD, PARTS),
    "a part with U+0000": (422, part(b"username", b"\x00") + PASSWORD, PARTS),
    "a charset that makes lone surrogates": (400, part(b"username", b"+2AA-", b"utf-7") + PASSWORD, PARTS),
    "escapes that make lone surrogates": (400, part(b"username", b"\\ud800", b"unicode_escape") + PASSWORD, PARTS),
    "a charset that always fails": (400, part(b"username", b"alice", b"undefined") + PASSWORD, PARTS),
    "a charset that is not a text encoding": (400, part(b"username", b"alice", b"zlib") + PASSWORD, PARTS),
    "a charset with U+0000": (400, part(b"username", b"alice", b'"a\0b"') + PASSWORD, PARTS),
    "an unknown charset": (400, part(b"username", b"alice", b"nonsense") + PASSWORD, PARTS),
    "10,000 headers of a part": (400, b"--B\r\n" + b"X: 1\r\n" * 10_000 + b"\r\nx\r\n--B--\r\n", PARTS),
    "no last boundary": (400, part(b"username", b"alice"), PARTS),
    "a boundary of 50,000 bytes": (400, b"x", {"Content-Type": f"multipart/form-data; boundary={'B' * 50_000}"}),
    "an empty boundary": (400, b"----", {"Content-Type": 'multipart/form-data; boundary=""'}),
}


@pytest.mark.parametrize(("status", "body", "headers"), FORMS.values(), ids=FORMS)
async def test_hostile_forms_are_refused(
    client: httpx.AsyncClient, alice: Person, status: int, body: bytes, headers: dict[str, str]
) -> None:
    codes = {400: "not_form", 401: "incorrect_credentials", 422: "invalid_fields"}

    response = await client.post("/auth/token", content=body, headers=headers)

    assert_problem(response, status, codes[status])
    assert await login(client, alice.username, alice.password)


@pytest.mark.parametrize(
    "value",
    ["%205", "5%20", "%2B5", "1_0", "%D9%A3", "0x5", "05", "5%0A", "%00", "%FF", "NaN", "5.0", "1e1", "null", "true"],
)
async def test_a_number_in_a_query_has_decimal_digits_only(client: httpx.AsyncClient, value: str) -> None:
    response = await client.get(f"/posts?limit={value}&after={value}&user_id={value}")

    assert_problem(response, 422, "invalid_fields")
    assert sorted(pointers(response)) == ["/after", "/limit", "/user_id"]


@pytest.mark.parametrize("query", ["limit=" + "9" * 50_000, "after=-" + "9" * 50_000, "limit=1e400"])
async def test_a_huge_number_in_a_query_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert_problem(await client.get(f"/posts?{query}"), 422, "invalid_fields")


async def test_ten_thousand_parameters_are_ignored(client: httpx.AsyncClient) -> None:
    response = await client.get("/posts?" + "&".join(["x=1"] * 10_000))

    assert (response.status_code, response.json()) == (200, [])


@pytest.mark.parametrize("text", ["٣", "²", "1_0", "+1", "%201", "1%20", "1%0A", "01", "1.0", "1e0", "%00", "%FF"])
async def test_an_id_is_valid_in_its_canonical_form_only(client: httpx.AsyncClient, alice: Person, text: str) -> None:
    for _ in range(3):
        await alice.publish()

    for method, path, code in [
        ("GET", "/users", "user_not_found"),
        ("GET", "/posts", "post_not_found"),
        ("DELETE", "/posts", "post_not_found"),
    ]:
        assert_problem(await client.request(method, f"{path}/{text}", headers=alice.headers), 404, code)
    assert len((await client.get("/posts")).json()) == 3


def token(header: object) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b".".join(base64.urlsafe_b64encode(piece).rstrip(b"=") for piece in (content, b'{"sub": "1"}', b"x"))


@pytest.mark.parametrize(
    "value",
    [
        b"a" * 50_000,
        b"." * 1000,
        token({"alg": "none"}),
        token({"alg": "None"}),
        token({"alg": []}),
        token({"alg": "HS256", "crit": ["b64"]}),
        token(b"[" * 700),
        token(b"9" * 700),
        token(b"\xff"),
        token(b"null"),
        "é".encode("latin-1"),
        b'"quoted"',
        b"one two",
    ],
    ids=lambda value: value[:20],
)
async def test_a_hostile_token_is_an_invalid_token(client: httpx.AsyncClient, alice: Person, value: bytes) -> None:
    response = await client.get("/users/me", headers=[(b"Authorization", b"Bearer " + value)])

    assert_problem(response, 401, "invalid_token", "Could not validate credentials")
    assert (await client.get("/users/me", headers=alice.headers)).json() == alice.account
