"""nginx and HAProxy in front of the service."""

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from msgspec import Struct

from tests.processes import free_port, pause, wait_until_serving
from tests.serving import open_client

# A user's PATH may lack the directory in which Debian installs servers.
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
OPENSSL = shutil.which("openssl")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")

SAMPLES = Path(__file__).parent.parent / "service" / "operations"

# Operators include the sample in their http block. PREFIX_SAMPLE is for a service that shares its host with others.
NGINX_CONFIGURATION = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    # nginx started by root runs as a user who cannot write to these directories.
    client_body_buffer_size 2m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {sample}
}}
"""
PREFIX_SAMPLE = """
    upstream service {{ server {service}; }}
    server {{
        listen 127.0.0.1:{port};
        location /api/ {{ proxy_pass http://service/; }}
    }}
"""

# A shared cache with nginx's own rules, which keeps responses for a minute unless they say otherwise.
CACHE_SAMPLE = """
    proxy_cache_path {directory}/cache keys_zone=cache:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{service};
            proxy_cache cache;
            proxy_cache_valid any 1m;
            proxy_cache_revalidate on;
            add_header X-Cache-Status $upstream_cache_status;
        }}
    }}
"""


class Proxy(Struct):
    """A running proxy."""

    address: str
    pid: int

    def pause(self) -> None:
        pause(self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True)))

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)


class TLSProxy(Struct):
    """A running proxy with TLS."""

    address: str
    plain: str  # its address without TLS
    certificate: Path


RunProxy = Callable[[int, list[str]], Awaitable[Proxy]]
# Takes the ports of two instances.
StartProxy = Callable[..., Awaitable[Proxy]]
# Takes the port of an instance.
StartTLS = Callable[[int], Awaitable["TLSProxy"]]
# Takes the address of an instance, and returns its address behind the proxy.
StartPrefix = Callable[[str], Awaitable[str]]


@pytest.fixture
async def run_proxy() -> AsyncIterator[RunProxy]:
    """Runs a command that listens on a port until the end of the test."""
    started: list[Process] = []

    async def run(port: int, command: list[str]) -> Proxy:
        process = await asyncio.create_subprocess_exec(*command, start_new_session=True)
        started.append(process)
        async with open_client(f"http://127.0.0.1:{port}") as client:
            await wait_until_serving(client)
        return Proxy(f"http://127.0.0.1:{port}", process.pid)

    yield run
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@pytest.fixture
def nginx(run_proxy: RunProxy, tmp_path: Path) -> StartProxy:
    async def start(first: int, second: int, keepalive_timeout: str = "1s") -> Proxy:
        assert NGINX
        port = free_port()
        directory = tmp_path / f"nginx_{port}"
        directory.mkdir()
        sample = _sample(
            "nginx.conf",
            {
                "listen 8000;": f"listen 127.0.0.1:{port};",
                "127.0.0.1:8001": f"127.0.0.1:{first}",
                "127.0.0.1:8002": f"127.0.0.1:{second}",
                "keepalive_timeout 1s;": f"keepalive_timeout {keepalive_timeout};",
            },
        )
        file = directory / "nginx.conf"
        file.write_text(NGINX_CONFIGURATION.format(directory=directory, sample=sample))
        return await run_proxy(port, [NGINX, "-e", "stderr", "-c", str(file)])

    return start


@pytest.fixture
def nginx_cache(run_proxy: RunProxy, tmp_path: Path) -> StartPrefix:
    """Runs nginx as a shared cache."""

    async def start(address: str) -> str:
        assert NGINX
        port = free_port()
        directory = tmp_path / f"nginx_{port}"
        directory.mkdir()
        # nginx started by root runs as a user who must be able to write to the cache.
        (directory / "cache").mkdir()
        (directory / "cache").chmod(0o777)
        for parent in (directory, *tmp_path.parents[:2], tmp_path):
            parent.chmod(parent.stat().st_mode | 0o011)
        file = directory / "nginx.conf"
        sample = CACHE_SAMPLE.format(directory=directory, service=urlsplit(address).netloc, port=port)
        file.write_text(NGINX_CONFIGURATION.format(directory=directory, sample=sample))
        return (await run_proxy(port, [NGINX, "-e", "stderr", "-c", str(file)])).address

    return start


@pytest.fixture
def nginx_with_prefix(run_proxy: RunProxy, tmp_path: Path) -> StartPrefix:
    """Runs nginx with the service under /api/."""

    async def start(address: str) -> str:
        assert NGINX
        port = free_port()
        directory = tmp_path / f"nginx_{port}"
        directory.mkdir()
        file = directory / "nginx.conf"
        sample = PREFIX_SAMPLE.format(service=urlsplit(address).netloc, port=port)
        file.write_text(NGINX_CONFIGURATION.format(directory=directory, sample=sample))
        proxy = await run_proxy(port, [NGINX, "-e", "stderr", "-c", str(file)])
        return f"{proxy.address}/api"

    return start


@pytest.fixture
def nginx_tls(run_proxy: RunProxy, tmp_path: Path) -> StartTLS:
    """Runs nginx with TLS and the service under /api/."""

    async def start(port: int) -> TLSProxy:
        assert NGINX
        plain, tls = free_port(), free_port()
        key, certificate = await _self_signed(tmp_path)
        sample = _sample(
            "nginx-tls.conf",
            {
                "listen 80;": f"listen 127.0.0.1:{plain};",
                "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
                "127.0.0.1:8000": f"127.0.0.1:{port}",
                "/etc/ssl/example.com/fullchain.pem": str(certificate),
                "/etc/ssl/example.com/privkey.pem": str(key),
            },
        )
        file = tmp_path / "nginx.conf"
        file.write_text(NGINX_CONFIGURATION.format(directory=tmp_path, sample=sample))
        proxy = await run_proxy(plain, [NGINX, "-e", "stderr", "-c", str(file)])
        return TLSProxy(f"https://127.0.0.1:{tls}/api", proxy.address, certificate)

    return start


async def _self_signed(directory: Path) -> tuple[Path, Path]:
    """A new key and its certificate for 127.0.0.1."""
    assert OPENSSL
    key, certificate = directory / "privkey.pem", directory / "fullchain.pem"
    process = await asyncio.create_subprocess_exec(
        *(OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"),
        *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"),
        *("-keyout", key, "-out", certificate),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return key, certificate


@pytest.fixture
def haproxy(run_proxy: RunProxy, tmp_path: Path) -> StartProxy:
    async def start(first: int, second: int) -> Proxy:
        assert HAPROXY
        port = free_port()
        file = tmp_path / f"haproxy_{port}.cfg"
        file.write_text(
            _sample(
                "haproxy.cfg",
                {
                    "bind :8000": f"bind 127.0.0.1:{port}",
                    "127.0.0.1:8001": f"127.0.0.1:{first}",
                    "127.0.0.1:8002": f"127.0.0.1:{second}",
                },
            )
        )
        return await run_proxy(port, [HAPROXY, "-f", str(file)])

    return start


def _sample(name: str, changes: dict[str, str]) -> str:
    text = (SAMPLES / name).read_text()
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text
