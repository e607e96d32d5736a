"""Access tokens: how they are verified, and which results are cached. Refresh tokens: what is no token."""

import string
import time
from collections.abc import Iterator

import httpx
import jwt
import pytest
from jwt.utils import base64url_decode

from service.errors import InvalidToken
from service.security import base64url
from service.security.keys import ACCESS_TOKEN, REFRESH_TOKEN, Keys, SecretKey
from service.security.refresh_tokens import PREFIX, RefreshTokens
from service.security.tokens import ALGORITHM, ISSUER, MAX_LENGTH, TYPE, AccessTokens
from service.structs.sessions import Principal, RefreshTokenContent
from tests.people import Person, assert_problem

SECRET = SecretKey(b"k" * 32)
ALICE = Principal(7, 70)


def tokens_of(secret: SecretKey = SECRET, lifetime: int = 60) -> AccessTokens:
    return AccessTokens(Keys((secret,), ACCESS_TOKEN), lifetime)


def refresh_tokens_of(secret: SecretKey = SECRET, purpose: bytes = REFRESH_TOKEN) -> RefreshTokens:
    return RefreshTokens(Keys((secret,), purpose))


def test_a_refresh_token_with_another_bit_is_not_valid() -> None:
    tokens, content = refresh_tokens_of(), RefreshTokenContent(70, 3)
    token = tokens.issue(content)
    issued = base64url.decode(token.removeprefix(PREFIX))
    assert tokens.read(token) == content

    for bit in range(8 * len(issued)):
        changed = (int.from_bytes(issued) ^ 1 << bit).to_bytes(len(issued))
        assert tokens.read(PREFIX + base64url.encode(changed)) is None


def test_a_token_of_another_key_or_purpose_is_not_valid() -> None:
    content = RefreshTokenContent(70, 3)
    other = SecretKey(b"x" * 32)

    assert refresh_tokens_of().read(refresh_tokens_of(other).issue(content)) is None
    assert refresh_tokens_of().read(refresh_tokens_of(purpose=ACCESS_TOKEN).issue(content)) is None
    for keys in (Keys((other,), ACCESS_TOKEN), Keys((SECRET,), REFRESH_TOKEN)):
        with pytest.raises(InvalidToken):
            tokens_of().read(AccessTokens(keys, 60).issue(ALICE))


def test_of_two_keys_with_the_same_id_the_first_one_is_used() -> None:
    first, second = (SecretKey(number.rjust(32, b"0")) for number in (b"10565", b"71476"))
    assert first.id == second.id

    for key, previous in ((first, second), (second, first)):
        tokens = AccessTokens(Keys((key, previous), ACCESS_TOKEN), 60)
        assert tokens.read(tokens_of(key).issue(ALICE)) == ALICE
        assert tokens_of(key).read(tokens.issue(ALICE)) == ALICE


def test_a_cached_token_expires_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tokens_of()
    token = tokens.issue(ALICE)
    expires = jwt.decode(token, SECRET.derive(ACCESS_TOKEN), [ALGORITHM], issuer=ISSUER)["exp"]

    monkeypatch.setattr(time, "time", lambda: expires - 0.001)
    assert tokens.read(token) == ALICE
    monkeypatch.setattr(time, "time", lambda: expires)
    with pytest.raises(InvalidToken):
        tokens.read(token)


def test_a_token_from_a_machine_whose_clock_is_ahead_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tokens_of()
    ahead = time.time() + 5
    with monkeypatch.context() as there:
        there.setattr(time, "time", lambda: ahead)
        token = tokens.issue(ALICE)

    assert tokens.read(token) == ALICE


def test_a_cached_result_is_valid_for_the_whole_token_only() -> None:
    tokens = tokens_of()
    token = tokens.issue(ALICE)
    head, claims, signature = token.split(".")
    assert tokens.read(token) == ALICE

    for other in (
        f"{head}.{claims}.",
        f"{head}.{claims}.{signature[::-1]}",
        f"{head}.{tokens.issue(Principal(8, 70)).split('.')[1]}.{signature}",
        tokens_of(SecretKey(b"x" * 32)).issue(ALICE),
    ):
        with pytest.raises(InvalidToken):
            tokens.read(other)


def token_with(padding: int) -> str:
    """A token with a valid signature and valid claims, and a claim of this length."""
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": "7", "sid": "70", "iat": now, "exp": now + 60, "padding": "x" * padding}
    headers = {"typ": TYPE, "kid": SECRET.id}
    return jwt.encode(claims, SECRET.derive(ACCESS_TOKEN), ALGORITHM, headers=headers)


def test_a_token_over_the_maximum_length_is_refused_though_it_is_valid() -> None:
    tokens = tokens_of()
    longest, too_long = tokens_around(MAX_LENGTH)

    assert tokens.read(longest) == ALICE
    with pytest.raises(InvalidToken):
        tokens.read(too_long)


def tokens_around(length: int) -> tuple[str, str]:
    """The longest token of up to ``length`` characters, and the next longer one: at most two characters apart."""
    made = [token_with(size) for size in range(length)]
    return max((one for one in made if len(one) <= length), key=len), next(one for one in made if len(one) > length)


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
    tokens = tokens_of()
    # Other users have other signatures; some contain the two characters that ordinary base64 does not have.
    for user_id in range(1, 20):
        token = tokens.issue(Principal(user_id, 70))
        for other in other_spellings(token):
            with pytest.raises(InvalidToken):
                tokens.read(other)

        assert tokens.read(token) == Principal(user_id, 70)


async def test_a_request_with_another_spelling_of_a_token_is_refused(client: httpx.AsyncClient, alice: Person) -> None:
    for other in other_spellings(alice.token):
        header = b"Bearer " + other.encode("latin-1")
        response = await client.get("/users/me", headers=[(b"Authorization", header)])

        assert_problem(response, 401, "invalid_token", "Could not validate credentials")
    assert (await client.get("/users/me", headers=alice.headers)).json() == alice.account
