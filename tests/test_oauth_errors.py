"""The token endpoint's errors, as OAuth clients read them (RFC 6749, section 5.2)."""

import asyncio
import re

import asyncpg
import httpx
import msgspec
import pytest

from service import errors
from service.app import create_app
from service.database.database import Database
from service.queries import auth
from service.settings import Settings
from tests.bodies import FORM
from tests.conftest import Serve
from tests.people import Person, assert_problem
from tests.serving import open_client
from tests.waiting import WAITERS, until


@pytest.mark.parametrize(
    ("sent", "headers", "status", "error", "description"),
    [
        ("username=alice&password=wrong", FORM, 401, "invalid_grant", "Incorrect username or password"),
        ("username=alice", FORM, 422, "invalid_request", "password"),
        ("", FORM, 422, "invalid_request", "username"),
        ("username=a%00&password=%22%5C%C3%A9", FORM, 422, "invalid_request", "username"),
        ("grant_type=client_credentials", FORM, 400, "unsupported_grant_type", "grant type"),
        ("grant_type=authorization_code&username=a%00", FORM, 400, "unsupported_grant_type", "grant type"),
        ("username=%ff", FORM, 400, "invalid_request", "form"),
        ("{}", {"Content-Type": "application/json"}, 415, "invalid_request", "content type"),
        ("x" * (1024 * 1024 + 1), FORM, 413, "invalid_request", "1 MiB"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("path", ["/auth/token", "/auth/token/"])
async def test_every_error_has_the_fields_of_oauth_2(
    client: httpx.AsyncClient,
    alice: Person,
    path: str,
    sent: str,
    headers: dict[str, str],
    status: int,
    error: str,
    description: str,
) -> None:
    response = await client.post(path, content=sent, headers=headers)

    assert_problem(response, status, response.json()["code"])
    assert response.json()["error"] == error
    assert description in response.json()["error_description"]
    assert response.headers["cache-control"] == "no-store"
    assert alice.username not in response.text


async def test_an_unavailable_database_is_temporary(serve: Serve, settings: Settings) -> None:
    unreachable = msgspec.structs.replace(settings, database_url=settings.database_url.replace("/test_", "/no_"))
    async with open_client(await serve(create_app(unreachable))) as client:
        response = await client.post("/auth/token", data={"username": "alice", "password": "x"})

    assert_problem(response, 503, "database_unavailable")
    assert response.json()["error"] == "temporarily_unavailable"


async def test_a_bug_is_a_server_error(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(db: Database, username: str, *_: object) -> None:
        raise RuntimeError(db, username)

    monkeypatch.setattr(auth, "select_login", broken)

    response = await client.post("/auth/token", data={"username": "alice", "password": "x"})

    assert_problem(response, 500, "internal_server_error")
    assert response.json()["error"] == "server_error"


async def test_an_overloaded_service_is_temporary(serve: Serve, settings: Settings, db: asyncpg.Connection) -> None:
    async def is_waiting() -> bool:
        return bool(await db.fetchval(WAITERS))

    address = await serve(create_app(msgspec.structs.replace(settings, max_requests=1)))
    async with open_client(address) as client:
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            held = asyncio.create_task(client.get("/posts"))
            await until(is_waiting, 4)
            response = await client.post("/auth/token", data={"username": "alice", "password": "x"})
        await held

    assert_problem(response, 503, "overloaded")
    assert response.json()["error"] == "temporarily_unavailable"


@pytest.mark.parametrize(("method", "path"), [("GET", "/auth/token"), ("POST", "/auth/register"), ("POST", "/posts")])
async def test_errors_of_other_routes_lack_these_fields(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path)

    assert response.status_code >= 400
    assert "error" not in response.json()


def test_every_detail_can_be_a_description() -> None:
    """RFC 6749 allows printable ASCII without quotation marks and backslashes."""
    details = [kind.detail for kind in errors.ServiceError.__subclasses__()]

    assert len(details) > 10
    for detail in details:
        assert re.fullmatch(r"[ !#-\[\]-~]+", detail)
