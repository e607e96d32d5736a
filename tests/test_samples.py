"""The samples for operators: nginx with TLS under a path prefix, and the systemd unit."""

import asyncio
import ssl
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import litestar
import msgspec

from service.app import create_app
from service.settings import Settings
from tests.conftest import Serve
from tests.people import Person, assert_problem
from tests.processes import Start, client_ports, read_until, wait_until_serving
from tests.proxies import StartProxy, StartTLS, TLSProxy

# Where the unit expects the service.
INSTALLED = "/opt/accounts-and-posts"
# systemd-analyze rates what a unit can reach from 0 to 10, here in tenths.
MAX_EXPOSURE = "15"


def client_of(proxy: TLSProxy) -> httpx.AsyncClient:
    """A client that trusts the certificate of the proxy and no other."""
    return httpx.AsyncClient(base_url=proxy.address, verify=ssl.create_default_context(cafile=proxy.certificate))


@litestar.get("/client", public=True, sync_to_thread=False)
def read_client(request: litestar.Request[Any, Any, Any]) -> dict[str, str | None]:
    return {"client": request.client.host if request.client else None, "scheme": request.url.scheme}


async def test_behind_nginx_the_service_knows_its_client_and_the_scheme(
    serve: Serve, settings: Settings, nginx_tls: StartTLS
) -> None:
    app = create_app(msgspec.structs.replace(settings, trusted_proxies=("127.0.0.1/32",)))
    app.register(read_client)
    proxy = await nginx_tls(urlsplit(await serve(app)).port or 0)

    async with client_of(proxy) as client:
        for forged in ({}, {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http"}):
            response = await client.get("/client", headers=forged)

            assert response.json() == {"client": "127.0.0.1", "scheme": "https"}
            assert response.headers.get_list("strict-transport-security") == ["max-age=31536000"]


async def assert_client_is_known(serve: Serve, settings: Settings, start_proxy: StartProxy) -> None:
    app = create_app(msgspec.structs.replace(settings, trusted_proxies=("127.0.0.1/32",)))
    app.register(read_client)
    port = urlsplit(await serve(app)).port or 0
    proxy = await start_proxy(port, port)

    async with httpx.AsyncClient(base_url=proxy.address) as client:
        forged = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
        response = await client.get("/client", headers=forged)

    assert response.json() == {"client": "127.0.0.1", "scheme": "http"}
    assert "strict-transport-security" not in response.headers


async def test_a_client_of_nginx_cannot_forge_its_address(serve: Serve, settings: Settings, nginx: StartProxy) -> None:
    await assert_client_is_known(serve, settings, nginx)


async def test_a_client_of_haproxy_cannot_forge_its_address(
    serve: Serve, settings: Settings, haproxy: StartProxy
) -> None:
    await assert_client_is_known(serve, settings, haproxy)


async def test_behind_nginx_the_whole_api_is_under_the_prefix(
    start: Start, process_client: httpx.AsyncClient, environment: dict[str, str], database_url: str, nginx_tls: StartTLS
) -> None:
    await start("service", DATABASE_URL=database_url, TRUSTED_PROXIES="127.0.0.1")
    await wait_until_serving(process_client)
    proxy = await nginx_tls(int(environment["PORT"]))

    async with client_of(proxy) as client:
        alice = await Person.register(client, "alice")
        body = {"title": "T", "content": "C"}
        created = await client.post("/posts", json=body, headers=alice.headers)
        assert (await client.get(created.url.join(created.headers["location"]))).json() == created.json()
        for path in ("/posts/1%2F", "//posts", "/%2Fposts", "/posts//1"):
            assert_problem(await client.get(f"{proxy.address}{path}"), 404, "not_found")
        large = await client.post("/posts", json={"title": "T", "content": "x" * 1_500_000}, headers=alice.headers)
        assert_problem(large, 413, "body_too_large")


async def test_nginx_redirects_to_https(
    start: Start, process_client: httpx.AsyncClient, environment: dict[str, str], database_url: str, nginx_tls: StartTLS
) -> None:
    await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)
    proxy = await nginx_tls(int(environment["PORT"]))

    async with httpx.AsyncClient() as client:
        response = await client.post(f"{proxy.plain}/api/posts?limit=1")

    assert (response.status_code, response.headers["location"]) == (308, "https://127.0.0.1/api/posts?limit=1")


async def test_nginx_keeps_its_connections(
    start: Start, process_client: httpx.AsyncClient, environment: dict[str, str], database_url: str, nginx_tls: StartTLS
) -> None:
    service = await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)
    await process_client.aclose()
    port = int(environment["PORT"])
    proxy = await nginx_tls(port)

    connections = []
    for _ in range(5):
        async with client_of(proxy) as client:  # the connections of clients do not matter
            await client.get("/posts")
        connections.append(client_ports(service, port))

    assert len(connections[0]) == 1
    assert connections == connections[:1] * 5


async def analyze(systemd_analyze: str, *arguments: str | Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(systemd_analyze, *arguments, stdout=PIPE, stderr=STDOUT)
    text, _ = await process.communicate()
    return process.returncode or 0, text.decode()


async def test_the_systemd_unit_is_valid_and_hardened(systemd_analyze: str, repository: Path, tmp_path: Path) -> None:
    sample = repository / "service" / "operations" / "accounts-and-posts.service"
    unit = tmp_path / sample.name
    (tmp_path / "installed").symlink_to(repository)
    unit.write_text(sample.read_text().replace(INSTALLED, f"{tmp_path}/installed"))

    assert await analyze(systemd_analyze, "verify", unit) == (0, "")
    code, text = await analyze(
        systemd_analyze, "--no-pager", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", unit
    )
    assert code == 0, text


async def test_the_service_works_with_the_system_calls_that_the_unit_allows(
    start: Start, process_client: httpx.AsyncClient, database_url: str, sandbox_command: list[str]
) -> None:
    service = await start(*sandbox_command, "-m", "service", DATABASE_URL=database_url, WORKERS="2")
    assert "Traceback" not in await read_until(service, "Application startup complete")
    await wait_until_serving(process_client)

    alice = await Person.register(process_client, "alice")
    post = await alice.publish()

    assert await alice.read(post["id"]) == post


async def test_every_container_has_a_bounded_log_and_bounded_memory(
    docker_compose: list[str], repository: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *docker_compose, "config", "--format=json", cwd=repository, stdout=PIPE, stderr=STDOUT
    )
    text, _ = await process.communicate()

    assert process.returncode == 0, text.decode()
    services = msgspec.json.decode(text)["services"]
    assert set(services) == {"db", "migrate", "service"}
    for service in services.values():
        assert int(service["mem_limit"]) > 0
        assert {"max-size", "max-file"} <= set(service["logging"]["options"])
