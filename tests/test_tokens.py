"""What is remembered of a token, and what is not."""

import time

import pytest

from service.errors import InvalidToken
from service.security.tokens import MAX_LENGTH, Tokens

KEY = b"k" * 32


def test_a_remembered_token_ends_when_it_says() -> None:
    tokens = Tokens(KEY, lifetime=2)
    begun = int(time.time())
    token = tokens.issue(7)
    assert tokens.read(token) == 7

    while time.time() < begun + 3:
        time.sleep(0.05)

    with pytest.raises(InvalidToken):
        tokens.read(token)


def test_a_token_from_a_machine_whose_clock_is_ahead_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(KEY, lifetime=60)
    ahead = time.time() + 5
    with monkeypatch.context() as there:
        there.setattr(time, "time", lambda: ahead)
        token = tokens.issue(7)

    assert tokens.read(token) == 7


def test_a_verdict_holds_for_the_whole_token_alone() -> None:
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


def test_what_is_longer_than_any_token_of_ours_is_not_looked_at() -> None:
    tokens = Tokens(KEY, lifetime=60)

    with pytest.raises(InvalidToken):
        tokens.read(tokens.issue(7) + "=" * MAX_LENGTH)
