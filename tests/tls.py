"""TLS for PostgreSQL servers that have none: a proxy with a certificate of its own."""

import asyncio
import ssl
import subprocess
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.database.address import Host


def make_certificate(openssl: str, directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for a host name, and its key. As root certificate it verifies itself."""
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = [
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([*command, *files], check=True, capture_output=True)  # noqa: S603 - the arguments are ours
    return certificate, key


@asynccontextmanager
async def tls_proxy(server: Host, certificate: Path, key: Path) -> AsyncIterator[int]:
    """Accept TLS as PostgreSQL does, and pass everything on to ``server``. Yields the port on 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(context)
            upstream_reader, upstream_writer = await _connect(server)
            await asyncio.wait(
                [
                    asyncio.create_task(_copy(reader, upstream_writer)),
                    asyncio.create_task(_copy(upstream_reader, writer)),
                ]
            )
        except (OSError, asyncio.IncompleteReadError):  # the client does not accept the certificate, or has gone
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as listener:
        yield listener.sockets[0].getsockname()[1]


async def _connect(server: Host) -> tuple[StreamReader, StreamWriter]:
    if server.name and server.name.startswith("/"):
        return await asyncio.open_unix_connection(f"{server.name}/.s.PGSQL.{server.port or 5432}")
    return await asyncio.open_connection(server.name, server.port or 5432)


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
