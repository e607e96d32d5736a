"""References hold at every address of the service: with and without a trailing slash, and under a path prefix."""

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from service.http.links import relative
from tests.people import Json, login, next_page
from tests.proxies import StartPrefix
from tests.serving import open_client
from tests.tables import fill

PERSON = {"username": "bob", "email": "bob@example.com", "password": "correct horse"}


@pytest.fixture
async def prefixed(nginx_with_prefix: StartPrefix, address: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service behind nginx, under /api/."""
    async with open_client(await nginx_with_prefix(address)) as client:
        yield client


async def register(client: httpx.AsyncClient, slash: str) -> tuple[httpx.Response, dict[str, str]]:
    registered = await client.post(f"/auth/register{slash}", json=PERSON)
    token = await login(client, PERSON["username"], PERSON["password"])
    return registered, {"Authorization": f"Bearer {token}"}


async def assert_references_hold(client: httpx.AsyncClient, db: asyncpg.Connection, slash: str) -> None:
    registered, headers = await register(client, slash)
    user = await client.get(registered.url.join(registered.headers["location"]))
    assert user.json() == registered.json() | {"posts": []}

    created = await client.post(f"/posts{slash}", json={"title": "T", "content": "C"}, headers=headers)
    post = await client.get(created.url.join(created.headers["location"]))
    assert post.json() == created.json()

    await fill(db, user.json()["id"], 60)
    for path in (f"/posts{slash}?limit=50", f"/users/{user.json()['id']}{slash}"):
        first = await client.get(path)
        second = await client.get(next_page(first) or "")
        assert second.status_code == 200, second.text
        body: list[Json] = second.json()
        assert len(body) == 11


@pytest.mark.parametrize("slash", ["", "/"])
async def test_references_hold_at_the_root(client: httpx.AsyncClient, db: asyncpg.Connection, slash: str) -> None:
    await assert_references_hold(client, db, slash)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_references_hold_behind_a_proxy(prefixed: httpx.AsyncClient, db: asyncpg.Connection, slash: str) -> None:
    await assert_references_hold(prefixed, db, slash)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_page_and_its_files_load_behind_a_proxy(prefixed: httpx.AsyncClient, slash: str) -> None:
    page = await prefixed.get(f"/docs{slash}")

    assert page.status_code == 200
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) >= 5
    for reference in linked:
        file = await prefixed.get(page.url.join(reference))
        assert file.status_code == 200, file.url


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_document_leads_to_the_service_behind_a_proxy(prefixed: httpx.AsyncClient, slash: str) -> None:
    await prefixed.post("/auth/register", json=PERSON)
    response = await prefixed.get(f"/openapi.json{slash}")
    document = response.json()

    [server] = document["servers"]
    root = response.url.join(server["url"])
    token_url = root.join(document["components"]["securitySchemes"]["bearer"]["flows"]["password"]["tokenUrl"])
    answered = await prefixed.post(token_url, data={"username": PERSON["username"], "password": PERSON["password"]})

    assert answered.status_code == 200, answered.url


@pytest.mark.parametrize(
    ("path", "reference"),
    [("/posts", "posts/1"), ("/posts/", "../posts/1"), ("/a%2Fb/c", "../posts/1"), ("/a/b/c/", "../../../posts/1")],
)
def test_a_reference_has_one_parent_step_per_segment_of_the_request(path: str, reference: str) -> None:
    scope: Any = {"raw_path": path.encode()}

    assert relative(scope, "posts/1") == reference
