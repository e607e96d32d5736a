"""nginx in front of the service, as somebody would set it up under a path prefix."""

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.processes import free_port

CONFIGURATION = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream service {{ server {service}; }}
    server {{
        listen 127.0.0.1:{port};
        location /api/ {{ proxy_pass http://service/; }}
    }}
}}
"""


@asynccontextmanager
async def under_a_prefix(nginx: str, address: str, directory: Path) -> AsyncIterator[str]:
    """Run nginx before the service at ``address``; yields the address of the service behind it, with a prefix."""
    port = free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(directory=directory, service=urlsplit(address).netloc, port=port), encoding="utf-8"
    )
    process = await asyncio.create_subprocess_exec(nginx, "-e", "stderr", "-c", configuration)
    try:
        await _listens(process, port)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        await process.wait()


async def _listens(process: Process, port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.returncode is None, "nginx has ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
