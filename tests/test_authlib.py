"""Authlib, an OAuth 2 client that knows nothing of this service: it logs in, refreshes, revokes and reads refusals."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import Serve
from tests.people import Person


class Client:
    """Authlib's client, which blocks, in a thread of its own."""

    def __init__(self, address: str) -> None:
        from authlib.integrations.requests_client import OAuth2Session  # noqa: PLC0415 - a slow import

        self.address = address
        self.refreshed: list[dict[str, Any]] = []
        self._session = OAuth2Session(
            token_endpoint=f"{address}/auth/token",
            token_endpoint_auth_method="none",
            revocation_endpoint_auth_method="none",
            update_token=lambda token, **_: self.refreshed.append(dict(token)),
        )

        self._session.headers["Connection"] = "close"  # no connection remains at the end of the test

    @property
    def token(self) -> dict[str, Any]:
        return dict(self._session.token)

    async def log_in(self, username: str, password: str) -> None:
        await self._run(self._session.fetch_token, f"{self.address}/auth/token", username=username, password=password)

    async def get(self, path: str) -> Any:
        return await self._run(self._session.get, f"{self.address}{path}")

    async def refresh(self, refresh_token: str) -> None:
        await self._run(self._session.refresh_token, f"{self.address}/auth/token", refresh_token=refresh_token)

    async def revoke(self, token: str) -> int:
        revoked = await self._run(self._session.revoke_token, f"{self.address}/auth/revoke", token=token)
        status: int = revoked.status_code
        return status

    def expire(self) -> None:
        """Let the client believe that the lifetime of its access token has passed."""
        self._session.token["expires_at"] = int(time.time()) - 1

    async def _run(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await asyncio.to_thread(call, *arguments, **named)

    def close(self) -> None:
        self._session.close()


@pytest.fixture
async def authlib(address: str) -> AsyncIterator[Client]:
    client = Client(address)
    yield client
    client.close()


def refused(match: str) -> pytest.RaisesExc[Exception]:
    """Expect Authlib's error for a response that refuses a token."""
    from authlib.integrations.base_client import OAuthError  # noqa: PLC0415 - a slow import

    return pytest.raises(OAuthError, match=match)


async def test_it_logs_in_and_refreshes_by_itself(authlib: Client, alice: Person) -> None:
    await authlib.log_in(alice.username, alice.password)
    first = authlib.token
    assert (await authlib.get("/users/me")).json() == alice.account
    assert authlib.refreshed == []

    for _ in range(3):
        authlib.expire()
        assert (await authlib.get("/users/me")).json() == alice.account

    assert len(authlib.refreshed) == 3
    assert len({token["refresh_token"] for token in (first, *authlib.refreshed)}) == 4
    assert 0 < authlib.token["expires_at"] - time.time() <= first["expires_in"] == 1800


async def test_it_revokes_its_session(authlib: Client, alice: Person) -> None:
    await authlib.log_in(alice.username, alice.password)

    assert await authlib.revoke(authlib.token["refresh_token"]) == 200

    assert (await authlib.get("/users/me")).status_code == 401
    authlib.expire()
    with refused("invalid_grant: The refresh token is not valid"):
        await authlib.get("/users/me")


async def test_it_understands_a_wrong_password_and_an_old_refresh_token(authlib: Client, alice: Person) -> None:
    with refused("invalid_grant: Incorrect username or password"):
        await authlib.log_in(alice.username, "wrong password")
    with refused("invalid_request: username must not contain"):
        await authlib.log_in("a\0", "wrong password")

    await authlib.log_in(alice.username, alice.password)
    oldest = authlib.token["refresh_token"]
    await authlib.refresh(oldest)
    await authlib.refresh(authlib.token["refresh_token"])
    with refused("invalid_grant: The refresh token is not valid"):
        await authlib.refresh(oldest)


@pytest.mark.usefixtures("alice")
async def test_it_understands_that_there_were_too_many_attempts(serve: Serve, settings: Settings) -> None:
    limited = Client(await serve(create_app(msgspec.structs.replace(settings, login_failures_per_address=1))))
    with refused("invalid_grant"):
        await limited.log_in("nobody", "wrong password")

    with refused("temporarily_unavailable: Too many attempts"):
        await limited.log_in("nobody", "wrong password")
    limited.close()


async def test_it_understands_that_the_database_is_away(serve: Serve, settings: Settings) -> None:
    unreachable = msgspec.structs.replace(settings, database_url=settings.database_url.replace("/test_", "/no_"))
    away = Client(await serve(create_app(unreachable)))

    from requests import HTTPError  # noqa: PLC0415 - a slow import

    with pytest.raises(HTTPError) as caught:
        await away.log_in("alice", "x")

    assert caught.value.response is not None
    assert caught.value.response.status_code == 503
    assert caught.value.response.headers["retry-after"]
    away.close()
