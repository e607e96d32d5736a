"""Passwords that are refused because they are guessed first."""

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import Serve
from tests.people import assert_problem, login
from tests.serving import Share, SharedApp, open_client

COMMON = "is one of the most common passwords"


@pytest.fixture(scope="session")
async def running_app(share: Share) -> SharedApp:
    return await share(password_denylist="on")


@pytest.mark.parametrize(
    ("password", "detail"),
    [
        ("password", COMMON),
        ("PassWord", COMMON),
        ("12345678", COMMON),
        ("copyright (c) 2012-2016 Dan Wheeler and Dropbox, Inc.). tests/renew_denylist.py writes this file.", None),
        ("password\nsunshine", None),
        ("my name is MARIANNE!", "must not contain the username"),
        ("mail for m.smith here", "must not contain the part of the e-mail address before the @"),
        ("correct horse battery", None),
        ("passwor d", None),
    ],
)
async def test_a_password_that_is_guessed_first_is_refused(
    client: httpx.AsyncClient, password: str, detail: str | None
) -> None:
    body = {"username": "Marianne", "email": "m.smith@example.com", "password": password}

    response = await client.post("/auth/register", json=body)

    if detail is None:
        assert response.status_code == 201
    else:
        assert_problem(response, 422, "invalid_fields")
        assert response.json()["errors"] == [{"pointer": "/password", "detail": detail}]


async def test_short_names_may_be_part_of_a_password(client: httpx.AsyncClient) -> None:
    body = {"username": "bob", "email": "bo@example.com", "password": "bob bo and others"}

    assert (await client.post("/auth/register", json=body)).status_code == 201


async def test_a_new_password_is_checked_as_well(client: httpx.AsyncClient) -> None:
    body = {"username": "mallory", "email": "mallory@example.com", "password": "correct horse"}
    await client.post("/auth/register", json=body)
    headers = {"Authorization": f"Bearer {await login(client, 'mallory', 'correct horse')}"}
    for new_password, detail in [("sunshine", COMMON), ("mallory's own", "must not contain the username")]:
        body = {"current_password": "correct horse", "new_password": new_password}
        response = await client.post("/users/me/password", json=body, headers=headers)

        assert_problem(response, 422, "invalid_fields")
        assert response.json()["errors"] == [{"pointer": "/new_password", "detail": detail}]


async def test_the_denylist_is_off_by_default(serve: Serve, settings: Settings) -> None:
    async with open_client(await serve(create_app(settings))) as client:
        body = {"username": "sunshine", "email": "x@example.com", "password": "sunshine"}
        assert (await client.post("/auth/register", json=body)).status_code == 201
