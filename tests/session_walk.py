"""A random walk over sessions: two devices of a user and a thief, checked against a small model after every step.

`python -m tests.session_walk --minutes 10` walks for longer; a failure names the seed that repeats it.
"""

import argparse
import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
import httpx
from msgspec import Struct

from service.app import create_app
from service.database import schema
from service.settings import Settings
from tests import postgres
from tests.databases import with_database
from tests.people import Tokens, refresh
from tests.serving import address_of, open_client, serving

GRACE: Final = 30
DAY: Final = 86_400
IDLE: Final = 30 * DAY
LONGEST: Final = 90 * DAY

# Seconds by which the time may pass at once. No sum of a few of them is near one of the limits above.
SHORT: Final = 12
LONG: Final = 13 * DAY

STEPS_OF_A_WALK: Final = 120


class ModelSession(Struct):
    """What the service should know of a session. Times in seconds, on the clock of the model."""

    opened_at: float
    refreshed_at: float
    rotated_at: float
    generation: int = 1
    ended: bool = False


class Copy(Struct, frozen=True):
    """Tokens as a device or the thief has received them."""

    tokens: Tokens
    session: ModelSession
    generation: int


class Walk:
    """One user with two devices, and a thief who copies what they hold."""

    def __init__(self, client: httpx.AsyncClient, db: asyncpg.Connection, seed: int) -> None:
        self._client = client
        self._db = db
        self._random = random.Random(seed)  # noqa: S311 - a walk that can be repeated
        self._clock = 0.0
        self._copies: list[Copy] = []
        self._username = ""
        self._password = ""
        self.history: list[str] = []

    async def run(self, steps: int) -> None:
        await self._register()
        actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._log_in),
            (20, self._refresh),
            (6, self._refresh_twice_at_once),
            (3, self._refresh_and_revoke_at_once),
            (3, self._revoke),
            (2, self._end_one),
            (1, self._end_all),
            (2, self._change_password),
            (1, self._delete),
            (8, lambda: self._pass(SHORT)),
            (4, lambda: self._pass(LONG)),
        ]
        weights, functions = [weight for weight, _ in actions], [function for _, function in actions]
        for _ in range(steps):
            [action] = self._random.choices(functions, weights)
            await action()
            await self._check()

    def _is_alive(self, session: ModelSession) -> bool:
        age, idle = self._clock - session.opened_at, self._clock - session.refreshed_at
        return not session.ended and idle < IDLE and age < LONGEST

    def _alive(self) -> list[Copy]:
        return [copy for copy in self._copies if self._is_alive(copy.session)]

    def _any_copy(self) -> Copy | None:
        """A token that was received at some time. The newest ones are the most likely."""
        if not self._copies:
            return None
        back = min(int(self._random.expovariate(0.5)), len(self._copies) - 1)
        return self._copies[-1 - back]

    async def _register(self) -> None:
        self._username, self._password = secrets.token_hex(8), secrets.token_hex(8)
        body = {"username": self._username, "email": f"{self._username}@example.com", "password": self._password}
        response = await self._client.post("/auth/register", json=body)
        assert response.status_code == 201, response.text

    async def _log_in(self) -> None:
        form = {"username": self._username, "password": self._password}
        tokens = Tokens.received(self._client, await self._client.post("/auth/token", data=form))
        session = ModelSession(self._clock, self._clock, self._clock)
        self._copies.append(Copy(tokens, session, 1))
        self.history.append("log in")

    def _expect_refresh(self, copy: Copy) -> bool:
        """Refresh in the model. Returns whether the service should."""
        session = copy.session
        if not self._is_alive(session):
            return False
        if copy.generation == session.generation:
            session.generation += 1
            session.refreshed_at = session.rotated_at = self._clock
            return True
        if copy.generation == session.generation - 1 and self._clock - session.rotated_at < GRACE:
            return True
        session.ended = True
        return False

    def _received(self, copy: Copy, response: httpx.Response) -> None:
        tokens = Tokens.received(self._client, response)
        known = {one.tokens.refresh: one for one in self._copies if one.session is copy.session}
        if same := known.get(tokens.refresh):
            assert same.generation == copy.session.generation, "the token of another generation"
        else:
            assert copy.session.generation not in {one.generation for one in known.values()}, (
                "two tokens of one generation"
            )
        self._copies.append(Copy(tokens, copy.session, copy.session.generation))

    async def _refresh(self) -> None:
        if not (copy := self._any_copy()):
            return
        expected = self._expect_refresh(copy)
        self.history.append(f"refresh with generation {copy.generation}: expect {expected}")
        response = await refresh(self._client, copy.tokens.refresh)
        assert response.status_code == (200 if expected else 400), response.text
        if expected:
            self._received(copy, response)

    async def _refresh_twice_at_once(self) -> None:
        if not (copy := self._any_copy()):
            return
        expected = self._expect_refresh(copy)
        self.history.append(f"refresh twice with generation {copy.generation}: expect {expected}")
        responses = await asyncio.gather(*(refresh(self._client, copy.tokens.refresh) for _ in range(2)))
        assert [response.status_code for response in responses] == [200 if expected else 400] * 2
        if expected:
            for response in responses:
                self._received(copy, response)

    async def _refresh_and_revoke_at_once(self) -> None:
        if not (copy := self._any_copy()):
            return
        could = self._expect_refresh(copy)
        self.history.append(f"refresh with generation {copy.generation} and revoke")
        revoked, refreshed = await asyncio.gather(
            self._client.post("/auth/revoke", data={"token": copy.tokens.refresh}),
            refresh(self._client, copy.tokens.refresh),
        )
        assert revoked.status_code == 200
        assert refreshed.status_code in ({200, 400} if could else {400})
        if refreshed.status_code == 200:
            self._received(copy, refreshed)
        copy.session.ended = True

    async def _revoke(self) -> None:
        if not (copy := self._any_copy()):
            return
        self.history.append("revoke")
        token = self._random.choice([copy.tokens.refresh, copy.tokens.access])
        assert (await self._client.post("/auth/revoke", data={"token": token})).status_code == 200
        copy.session.ended = True

    async def _end_one(self) -> None:
        if not (alive := self._alive()):
            return
        ending, ended = self._random.choice(alive), self._random.choice(alive)
        self.history.append("end one session from another")
        [session_id] = [one["id"] for one in await ended.tokens.sessions() if one["current"]]
        response = await self._client.delete(f"/users/me/sessions/{session_id}", headers=ending.tokens.headers)
        assert response.status_code == 204
        ended.session.ended = True

    async def _end_all(self) -> None:
        if not (alive := self._alive()):
            return
        self.history.append("end all sessions")
        response = await self._client.delete("/users/me/sessions", headers=self._random.choice(alive).tokens.headers)
        assert response.status_code == 204
        self._end_others(None)

    async def _change_password(self) -> None:
        if not (alive := self._alive()):
            return
        changing = self._random.choice(alive)
        self.history.append("change the password")
        body = {"current_password": self._password, "new_password": secrets.token_hex(8)}
        response = await self._client.post("/users/me/password", json=body, headers=changing.tokens.headers)
        assert response.status_code == 204, response.text
        self._password = body["new_password"]
        self._end_others(changing.session)

    async def _delete(self) -> None:
        if not (alive := self._alive()):
            return
        self.history.append("delete the account and register another")
        body = {"current_password": self._password}
        headers = self._random.choice(alive).tokens.headers
        assert (await self._client.post("/users/me/deletion", json=body, headers=headers)).status_code == 204
        self._end_others(None)
        await self._register()

    def _end_others(self, kept: ModelSession | None) -> None:
        for copy in self._copies:
            copy.session.ended |= copy.session is not kept

    async def _pass(self, seconds: float) -> None:
        """Let time pass: in the model forwards, and in the database everything moves into the past."""
        self.history.append(f"{seconds:,} seconds pass")
        self._clock += seconds
        await self._db.execute(
            """
            update sessions set
                created_at = created_at - make_interval(secs => $1),
                rotated_at = rotated_at - make_interval(secs => $1),
                last_used_at = last_used_at - make_interval(secs => $1),
                expires_at = expires_at - make_interval(secs => $1)
            """,
            seconds,
        )

    async def _check(self) -> None:
        """Every token that was ever received gives access exactly as long as its session is alive."""
        newest = {id(copy.session): copy for copy in self._copies}
        valid = await asyncio.gather(*(copy.tokens.are_valid() for copy in newest.values()))
        alive = [self._is_alive(copy.session) for copy in newest.values()]
        assert valid == alive, f"access {valid}, expected {alive}"
        for copy in newest.values():
            if self._is_alive(copy.session):
                assert len(await copy.tokens.sessions()) == sum(alive)
                break


async def walk(client: httpx.AsyncClient, db: asyncpg.Connection, seed: int, steps: int = STEPS_OF_A_WALK) -> int:
    """Walk, and return the number of steps. Raises ``AssertionError`` with the seed and the history."""
    walking = Walk(client, db, seed)
    try:
        await walking.run(steps)
    except AssertionError as error:
        history = "\n  ".join(walking.history)
        raise AssertionError(f"seed {seed}: {error}\n  {history}") from error
    return len(walking.history)


def settings_for(database_url: str) -> Settings:
    """Cheap hashes, no limits of failed logins, and access tokens that outlive a walk."""
    return Settings(
        database_url=database_url,
        secret_key=b"k" * 32,
        password_memory_kib=8,
        password_passes=1,
        login_failures_per_account=0,
        login_failures_per_address=0,
    )


async def main(minutes: float, seed: int) -> None:
    with postgres.started() as running:
        admin = await asyncpg.connect(running.url)
        name = f"walk_{secrets.token_hex(4)}"
        await admin.execute(f"create database {name}")
        url = with_database(running.url, name)
        await schema.migrate(url)
        db = await asyncpg.connect(url)
        last, steps, walks = time.monotonic() + minutes * 60, 0, 0
        async with serving(create_app(settings_for(url))) as served, open_client(address_of(served)) as client:
            while time.monotonic() < last:
                steps += await walk(client, db, seed + walks)
                walks += 1
        print(f"{walks} walks, {steps} steps, seeds {seed} to {seed + walks - 1}: nothing found", flush=True)  # noqa: T201
        await db.close()
        await admin.close()


def parsed() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    return parser.parse_args()


if __name__ == "__main__":
    options = parsed()
    asyncio.run(main(options.minutes, options.seed))
