"""Unicode: equal text is one name and one password however it was typed (NFC), and names have no hidden characters."""

import time
import unicodedata

import argon2
import asyncpg
import httpx
import pytest

from service.database import schema
from tests.people import assert_problem, login, pointers

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
PASSWORDS = [unicodedata.normalize(form, "crème brûlée") for form in ("NFC", "NFD")]


async def register(
    client: httpx.AsyncClient, username: str, email: str = "jose@example.com", password: str = PASSWORDS[0]
) -> httpx.Response:
    return await client.post("/auth/register", json={"username": username, "email": email, "password": password})


@pytest.mark.parametrize("username", [COMPOSED, DECOMPOSED], ids=["composed name", "decomposed name"])
@pytest.mark.parametrize("password", PASSWORDS, ids=["composed password", "decomposed password"])
async def test_an_account_is_reached_by_either_spelling_of_its_name_and_password(
    client: httpx.AsyncClient, username: str, password: str
) -> None:
    response = await register(client, username, password=password)

    assert (response.status_code, response.json()["username"]) == (201, COMPOSED)
    for typed_name in (COMPOSED, DECOMPOSED):
        for typed_password in PASSWORDS:
            assert await login(client, typed_name, typed_password)


async def test_two_spellings_of_a_name_are_one_account(client: httpx.AsyncClient, db: asyncpg.Connection) -> None:
    await register(client, COMPOSED)

    response = await register(client, DECOMPOSED, "other@example.com")

    assert_problem(response, 409, "username_or_email_taken")
    assert await db.fetchval("select count(*) from users") == 1


@pytest.mark.parametrize(
    ("username", "sentence"),
    [
        ("", "must have at least 1 character"),
        ("u" * 51, "must have at most 50 characters"),
        ("\u0958" * 26, "must have at most 50 characters"),  # composed text that NFC makes twice as long
        (" jose", "must not begin or end with white space"),
        ("jose ", "must not begin or end with white space"),
        ("\u3000jose", "must not begin or end with white space"),
        ("jo\tse", "must not contain control or format characters"),
        ("jose\n", "must not contain control or format characters"),
        ("jo\x85se", "must not contain control or format characters"),
        ("jo\u200bse", "must not contain control or format characters"),
        ("\u202ejose", "must not contain control or format characters"),
        ("jo\0se", "must not contain control or format characters"),
    ],
)
async def test_an_invalid_name_is_refused(
    client: httpx.AsyncClient, db: asyncpg.Connection, username: str, sentence: str
) -> None:
    response = await register(client, username)

    assert_problem(response, 422, "invalid_fields")
    assert response.json()["errors"] == [{"pointer": "/username", "detail": sentence}]
    assert await db.fetchval("select count(*) from users") == 0


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("1234567", "must have at least 8 characters"),
        (unicodedata.normalize("NFD", "crème b"), "must have at least 8 characters"),  # 8 code points, 7 characters
        ("p" * 129, "must have at most 128 characters"),
        ("12345678\0", "must not contain U+0000"),
    ],
)
async def test_an_invalid_password_is_refused(client: httpx.AsyncClient, password: str, sentence: str) -> None:
    response = await register(client, "jose", password=password)

    assert_problem(response, 422, "invalid_fields")
    assert response.json()["errors"] == [{"pointer": "/password", "detail": sentence}]


@pytest.mark.parametrize(
    ("username", "password"),
    [
        (unicodedata.normalize("NFD", "é" * 50), unicodedata.normalize("NFD", "é" * 128)),
        (
            unicodedata.normalize("NFD", "\u1f82" * 50),
            unicodedata.normalize("NFD", "\u1f82" * 128),
        ),  # 4 code points each
        ("José da Silva", " spaces at both ends "),
        ("ab\u00a0c", "control \x01 and format \u200b"),
    ],
    ids=["two code points a character", "four code points a character", "white space within", "no rules for passwords"],
)
async def test_limits_count_characters_of_the_normal_form(
    client: httpx.AsyncClient, username: str, password: str
) -> None:
    response = await register(client, username, password=password)

    assert response.status_code == 201, response.text
    assert await login(client, username, password)


async def test_endless_combining_marks_do_not_block_the_service(client: httpx.AsyncClient) -> None:
    """To order half a million combining marks would take minutes, during which no request is served."""
    marks = "\u0315\u0300" * 100_000
    started = time.perf_counter()

    refused = await register(client, marks, password=marks)
    unknown = await client.post("/auth/token", data={"username": marks[:80_000], "password": marks[:80_000]})

    assert pointers(refused) == ["/username", "/password"]
    assert_problem(unknown, 401, "incorrect_credentials")
    assert time.perf_counter() - started < 5


async def test_a_password_that_was_hashed_as_it_was_typed_still_logs_in(
    client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    """As passwords were before they were normalised; from that login on, either spelling works."""
    await register(client, COMPOSED)
    older = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORDS[1])
    await db.execute("update users set password_hash = $1", older)

    assert await login(client, COMPOSED, PASSWORDS[1])

    assert await login(client, COMPOSED, PASSWORDS[0])
    assert await login(client, COMPOSED, PASSWORDS[1])


async def test_names_stored_before_are_normalised_by_a_schema_file(
    empty_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of several accounts whose names are now the same, the one that has it already keeps it, else the oldest."""
    before = tmp_path_factory.mktemp("sql")
    for file in schema.read_files():
        if file.name < "004":
            (before / file.name).write_text(file.statements, encoding="utf-8")
    await schema.migrate(empty_database, before)
    forms = {form: unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD")}
    mixed = {form: unicodedata.normalize(form, "éè") for form in ("NFC", "NFD")}
    half = mixed["NFC"][0] + mixed["NFD"][2:]
    names = [DECOMPOSED, forms["NFD"], forms["NFC"], mixed["NFD"], half, "\u0958" * 26, "alice"]
    connection = await asyncpg.connect(empty_database)
    for number, name in enumerate(names):
        await connection.execute(
            "insert into users (username, email, password_hash) values ($1, $2, '')", name, f"{number}@x"
        )

    await schema.migrate(empty_database)

    stored = [row["username"] for row in await connection.fetch("select username from users order by id")]
    await connection.close()
    assert stored == [COMPOSED, forms["NFD"], forms["NFC"], mixed["NFC"], half, "\u0958" * 26, "alice"]
