"""One's own account, and the profiles of all users."""

import httpx
import pytest

from tests.ids import INVALID_IDS
from tests.people import Person, assert_problem


async def test_users_can_read_their_own_account(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    assert (await client.get("/users/me", headers=alice.headers)).json() == alice.account
    assert (await client.get("/users/me", headers=mallory.headers)).json() == mallory.account


async def test_a_profile_can_be_read_without_a_token(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    first = await alice.publish("1")
    await mallory.publish("2")
    third = await alice.publish("3")

    response = await client.get(f"/users/{alice.id}")

    assert (response.status_code, response.json()) == (200, alice.account | {"posts": [first, third]})
    assert "link" not in response.headers


async def test_a_profile_without_posts_has_an_empty_list(client: httpx.AsyncClient, alice: Person) -> None:
    response = await client.get(f"/users/{alice.id}")

    assert response.json() == alice.account | {"posts": []}


async def test_an_unknown_user_is_not_found(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/users/1"), 404, "user_not_found", "User not found")


@pytest.mark.usefixtures("alice")
@pytest.mark.parametrize("invalid_id", INVALID_IDS)
async def test_an_invalid_id_is_not_found(client: httpx.AsyncClient, invalid_id: str) -> None:
    assert_problem(await client.get(f"/users/{invalid_id}"), 404, "user_not_found", "User not found")
