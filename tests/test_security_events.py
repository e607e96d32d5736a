"""The security events of sessions and accounts, as log records."""

import httpx
import msgspec
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import Serve
from tests.people import Json, Person, Tokens, refresh
from tests.serving import open_client

Event = tuple[str, int | None]


def events(caplog: pytest.LogCaptureFixture) -> list[Event]:
    """The events since the last call, with the id of the user."""
    records = [record for record in caplog.records if record.name == "service.security.events"]
    caplog.clear()
    for record in records:
        assert vars(record)["client"] == "127.0.0.1"
    return [(record.getMessage(), vars(record)["user_id"]) for record in records]


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "service.security.events")


async def test_the_end_of_a_session_is_recorded(
    client: httpx.AsyncClient, alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    phone, browser, tablet = [await Tokens.log_in(alice) for _ in range(3)]
    ended: list[Event] = [("authn_token_revoked", alice.id)]
    events(caplog)

    await client.post("/auth/revoke", data={"token": phone.refresh})
    assert events(caplog) == ended
    await client.post("/auth/revoke", data={"token": phone.refresh})
    assert events(caplog) == []
    [tablet_id] = [session["id"] for session in await tablet.sessions() if session["current"]]
    await client.delete(f"/users/me/sessions/{tablet_id}", headers=browser.headers)
    assert events(caplog) == ended
    await client.delete(f"/users/me/sessions/{tablet_id}", headers=browser.headers)
    assert events(caplog) == []
    await client.delete("/users/me/sessions", headers=browser.headers)
    assert events(caplog) == ended


async def test_an_old_refresh_token_is_recorded(
    client: httpx.AsyncClient, alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = await Tokens.log_in(alice)
    await (await tokens.refreshed()).refreshed()
    events(caplog)

    await refresh(client, tokens.refresh)
    await refresh(client, tokens.refresh)  # its session has ended
    await refresh(client, "rt_forged")

    assert events(caplog) == [("authn_token_reuse", alice.id)]


async def test_changes_of_the_account_are_recorded(
    client: httpx.AsyncClient, alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    async def send(method: str, path: str, **body: str) -> list[Event]:
        sent: Json = {"current_password": alice.password} | body
        await client.request(method, path, json=sent, headers=alice.headers)
        return events(caplog)

    events(caplog)
    assert await send("PATCH", "/users/me", username="maria") == [("user_updated", alice.id)]
    assert await send("PATCH", "/users/me", current_password="wrong") == [("authn_login_fail", alice.id)]
    changed = await send("POST", "/users/me/password", new_password=alice.password)
    assert changed == [("authn_password_change", alice.id)]
    assert await send("POST", "/users/me/deletion") == [("user_deleted", alice.id)]


async def test_failed_and_refused_logins_are_recorded(
    serve: Serve, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    limited = msgspec.structs.replace(settings, login_failures_per_account=1, registrations_per_hour=1)
    async with open_client(await serve(create_app(limited))) as client:
        alice = await Person.register(client, "alice")
        events(caplog)
        for username in ("alice", "alice", "nobody", "nobody"):
            await client.post("/auth/token", data={"username": username, "password": "wrong"})
        own = {"current_password": alice.password}
        await client.post("/users/me/deletion", json=own, headers=alice.headers)
        body = {"username": "bob", "email": "bob@example.com", "password": "the password of bob"}
        await client.post("/auth/register", json=body)

    assert events(caplog) == [
        ("authn_login_fail", alice.id),
        ("authn_login_fail_max", None),
        ("authn_login_fail", None),
        ("authn_login_fail_max", None),
        ("authn_login_fail_max", alice.id),
        ("excess_rate_limit_exceeded", None),
    ]
