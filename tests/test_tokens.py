"""Access tokens: how they are verified, and which results are cached."""

import time

import jwt
import pytest

from service.errors import InvalidToken
from service.security.tokens import ALGORITHM, ISSUER, MAX_LENGTH, Tokens

KEY = b"k" * 32


def test_a_cached_token_expires_on_time() -> None:
    tokens = Tokens(KEY, lifetime=2)
    begun = int(time.time())
    token = tokens.issue(7)
    assert tokens.read(token) == 7

    while time.time() < begun + 3:
        time.sleep(0.05)

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
