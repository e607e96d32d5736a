"""The server that the tests run on."""

import asyncio
import json
from pathlib import Path

from tests.postgres import IMAGE
from tests.processes import Start, read_output

# What a Docker engine without any image but PostgreSQL's responds; to every other request it responds 404.
ENGINE = {
    "/version": {"ApiVersion": "1.41", "MinAPIVersion": "1.24"},
    f"/v1.41/images/{IMAGE}/json": {"Id": "sha256:1"},
    "/v1.41/images/sha256:1/json": {"Id": "sha256:1"},
    "/v1.41/_ping": "OK",
    "/v1.41/networks": [],
}


async def serve_engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    target = head.split()[1].decode().partition("?")[0]
    body = json.dumps(ENGINE.get(target, {"message": f"{target} not found"})).encode()
    status = "200 OK" if target in ENGINE else "404 Not Found"
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()


async def test_the_embedded_server_is_used_if_docker_lacks_an_image(start_python: Start, tmp_path: Path) -> None:
    async with await asyncio.start_unix_server(serve_engine, tmp_path / "docker.sock"):
        process = await start_python(
            "pytest",
            "tests/test_tokens.py",
            DOCKER_HOST=f"unix://{tmp_path}/docker.sock",
            # pytest makes its directory private, which would disturb an initdb of another test that runs as root.
            PYTEST_DEBUG_TEMPROOT=str(tmp_path),
        )
        report = await read_output(process)

    assert process.returncode == 0, report
    [header] = [line for line in report.splitlines() if line.startswith("PostgreSQL: ")]
    assert header.startswith(f"PostgreSQL: embedded, because Docker cannot run {IMAGE} (")
    assert "testcontainers/ryuk" in header
