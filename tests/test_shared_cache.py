"""A shared cache with default rules in front of the service never serves what has changed."""

import httpx
import pytest

from tests.people import Person
from tests.proxies import StartPrefix
from tests.serving import open_client


async def test_a_shared_cache_shows_every_write_at_once(
    client: httpx.AsyncClient, address: str, alice: Person, nginx_cache: StartPrefix
) -> None:
    post = await alice.publish()
    path = f"/posts/{post['id']}"
    async with open_client(await nginx_cache(address)) as cache:
        style = [await cache.get("/docs/swagger-ui.css") for _ in range(2)]
        assert [response.headers["x-cache-status"] for response in style] == ["MISS", "HIT"]

        for number in range(5):
            before = [await cache.get(url) for url in (path, path, "/posts", f"/users/{alice.id}")]
            writer = (client, cache)[number % 2]
            changed = await writer.patch(path, json={"title": str(number)}, headers=alice.headers)
            assert changed.status_code == 200

            read = await cache.get(path)
            conditional = await cache.get(path, headers={"If-None-Match": before[0].headers["etag"]})
            listed = await cache.get("/posts", headers={"If-None-Match": before[2].headers["etag"]})
            profile = await cache.get(f"/users/{alice.id}")

            assert read.json() == conditional.json() == changed.json()
            assert read.headers["etag"] == changed.headers["etag"]
            assert listed.json() == profile.json()["posts"] == [changed.json()]
        await client.delete(path, headers=alice.headers)
        assert (await cache.get(path)).status_code == 404


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
async def test_preconditions_of_writes_pass_through_a_shared_cache(
    address: str, alice: Person, nginx_cache: StartPrefix, name: str
) -> None:
    post = await alice.publish()
    path = f"/posts/{post['id']}"
    async with open_client(await nginx_cache(address)) as cache:
        tag = (await cache.get(path)).headers["etag"]
        value = '"x"' if name == "If-Match" else tag

        refused = await cache.patch(path, json={"title": "New"}, headers={**alice.headers, name: value})

        assert refused.status_code == 412
        assert (await cache.get(path)).json() == post


async def test_a_conditional_read_passes_through_a_proxy(
    address: str, alice: Person, nginx_with_prefix: StartPrefix
) -> None:
    post = await alice.publish()
    async with open_client(await nginx_with_prefix(address)) as proxy:
        for path in (f"/posts/{post['id']}", "/posts"):
            read = await proxy.get(path)

            again = await proxy.get(path, headers={"If-None-Match": read.headers["etag"]})

            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == read.headers["etag"]
            assert again.headers["cache-control"] == "no-cache"
