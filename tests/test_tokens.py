"""Access tokens: how they are verified, and which results are cached."""

import string
import time
from collections.abc import Iterator

import httpx
import jwt
import pytest
from jwt.utils import base64url_decode

from service.errors import InvalidToken
from service.security.tokens import ALGORITHM, ISSUER, MAX_LENGTH, Tokens
from tests.people import Person, assert_problem

KEY = b"k" * 32


def test_a_cached_token_expires_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(KEY, lifetime=60)
    token = tokens.issue(7)
    expires = jwt.decode(token, KEY, [ALGORITHM], issuer=ISSUER)["exp"]

    monkeypatch.setattr(time, "time", lambda: expires - 0.001)
    assert tokens.read(token) == 7
    monkeypatch.setattr(time, "time", lambda: expires)
    with pytest.raises(InvalidToken):
        tokens.read(token)


def test_a_token_from_a_machine_whose_clock_is_ahead_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(KEY, lifetime=60)
    ahead = time.time() + 5
    with monkeypatch.context() as there:
        there.setattr(time, "time", lambda: ahead)
        token = tokens.issue(7)

    assert tokens.read(token) == 7


def test_a_cached_result_is_valid_for_the_whole_token_only() -> None:
    tokens = Tokens(KEY, lifetime=60)
    token = tokens.issue(7)
    head, claims, signature = token.split(".")
    assert tokens.read(token) == 7

    for other in (
        f"{head}.{claims}.",
        f"{head}.{claims}.{signature[::-1]}",
        f"{head}.{tokens.issue(8).split('.')[1]}.{signature}",
        Tokens(b"x" * 32, lifetime=60).issue(7),
    ):
        with pytest.raises(InvalidToken):
            tokens.read(other)


def valid_token(length: int) -> str:
    """A token of exactly this length with a valid signature and valid claims, padded by one more claim."""
    now = int(time.time())
    for size in range(length):
        claims = {"iss": ISSUER, "sub": "7", "iat": now, "exp": now + 60, "padding": "x" * size}
        if len(token := jwt.encode(claims, KEY, ALGORITHM)) == length:
            return token
    raise AssertionError(f"no token has {length} characters")


def test_a_token_over_the_maximum_length_is_refused_though_it_is_valid() -> None:
    tokens = Tokens(KEY, lifetime=60)

    assert tokens.read(valid_token(MAX_LENGTH)) == 7
    with pytest.raises(InvalidToken):
        tokens.read(valid_token(MAX_LENGTH + 1))


BASE64URL = string.ascii_letters + string.digits + "-_"


def other_spellings(token: str) -> Iterator[str]:
    """Spellings of this token that a lenient decoder accepts, and similar ones."""
    head, claims, signature = token.split(".")
    signed, half = f"{head}.{claims}.", len(signature) // 2
    same = base64url_decode(signature)
    # Two bits of the last character encode nothing.
    for last in BASE64URL:
        if last != signature[-1] and base64url_decode(signature[:-1] + last) == same:
            yield signed + signature[:-1] + last
    for padding in ("=", "==", "===", "====", "=A", "=" * 100):
        yield token + padding
    # Characters outside the alphabet, which a lenient decoder skips. A header field can contain all of these.
    for other in "=!*~.,:;%$#@ \t\"'()[]{}<>?|\\^`\x80\xa0\xff":
        yield signed + signature[:half] + other + signature[half:]
        yield signed + other + signature
    yield token + "!"
    yield token + "%3D"
    # The alphabet of ordinary base64.
    if "-" in signature or "_" in signature:
        yield signed + signature.replace("-", "+").replace("_", "/")
    yield from (f"{head}=.{claims}.{signature}", f"{head}.{claims}=.{signature}", f"{token}.", f".{token}")


def test_every_token_has_one_spelling() -> None:
    tokens = Tokens(KEY, lifetime=60)
    # Other users have other signatures; some contain the two characters that ordinary base64 does not have.
    for user_id in range(1, 20):
        token = tokens.issue(user_id)
        for other in other_spellings(token):
            with pytest.raises(InvalidToken):
                tokens.read(other)

        assert tokens.read(token) == user_id


async def test_a_request_with_another_spelling_of_a_token_is_refused(client: httpx.AsyncClient, alice: Person) -> None:
    for other in other_spellings(alice.token):
        header = b"Bearer " + other.encode("latin-1")
        response = await client.get("/users/me", headers=[(b"Authorization", header)])

        assert_problem(response, 401, "invalid_token", "Could not validate credentials")
    assert (await client.get("/users/me", headers=alice.headers)).json() == alice.account
