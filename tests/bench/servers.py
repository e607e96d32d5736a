"""The service and its peers: how each of them is installed and started."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import jwt
from msgspec import Struct

from service.security.keys import ACCESS_TOKEN, Keys, SecretKey
from service.security.tokens import ALGORITHM, ISSUER, AccessTokens
from service.structs.sessions import Principal
from tests.bench import processes

PEERS: Final = Path(__file__).parent / "peers"
CHECKOUT: Final = PEERS.parents[2]
# Ignored by git. The peers' packages are installed here, not into the project's own environment.
DIRECTORY: Final = CHECKOUT / ".data" / "bench"
PYTHON: Final = DIRECTORY / "python" / "bin" / "python"
FASTIFY: Final = DIRECTORY / "fastify"
# Where Debian's packages put the sources of Go libraries.
GOPATH: Final = Path("/usr/share/gocode")

UVICORN: Final = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")

# The file that a checkout has if its access tokens belong to sessions.
SESSIONS: Final = "sql/006_sessions.sql"

# One key for all servers.
SECRET_KEY: Final = secrets.token_hex(32)


class Kind(Struct, frozen=True):
    """A program under test. The bare one has only ``GET /`` and ``GET /posts/{id}``."""

    name: str
    label: str
    command: tuple[str | Path, ...]


SERVICE: Final = Kind("service", "this service", (sys.executable, "-m", "service"))
# On one core, as all servers are: Go's scheduler then has one thread that runs Go code.
GO_PGX: Final = Kind("go", "Go net/http + pgx", (DIRECTORY / "go" / "server",))
FASTIFY_PG: Final = Kind("fastify", "Fastify + node-postgres", ("node", FASTIFY / "server.js"))
STARLETTE: Final = Kind(
    "starlette", "Starlette + asyncpg", (PYTHON, "-m", "uvicorn", "tests.bench.peers.starlette_asyncpg:app", *UVICORN)
)
FASTAPI: Final = Kind(
    "fastapi", "FastAPI + SQLAlchemy", (PYTHON, "-m", "uvicorn", "tests.bench.peers.fastapi_sqlalchemy:app", *UVICORN)
)
# In the project's own environment: the cost of uvicorn and asyncpg alone.
BARE: Final = Kind("bare", "bare ASGI, one connection", (sys.executable, "-m", "tests.bench.peers.bare_asgi"))

ALL: Final = (SERVICE, GO_PGX, FASTIFY_PG, STARLETTE, FASTAPI, BARE)


class Server(Struct, frozen=True):
    kind: Kind
    pid: int
    port: int
    has_sessions: bool

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token_of(self, user_id: int) -> str:
        """An access token that the server takes: the peers, and checkouts without sessions, need only the user."""
        return token_of(user_id) if self.has_sessions else _simple_token(user_id)


def token_of(user_id: int) -> str:
    """An access token of the user's session. Both have the same id, see ``database.seed``."""
    keys = Keys((SecretKey(SECRET_KEY.encode()),), ACCESS_TOKEN)
    return AccessTokens(keys, lifetime=24 * 60 * 60).issue(Principal(user_id, user_id))


def _simple_token(user_id: int) -> str:
    now = int(time.time())
    return jwt.encode({"iss": ISSUER, "sub": str(user_id), "iat": now, "exp": now + 86_400}, SECRET_KEY, ALGORITHM)


def missing_for(kind: Kind) -> str:
    """The programs that a peer needs and that are not installed, with their Debian packages; empty if none is."""
    if kind is FASTIFY_PG and not processes.has("node", "npm"):
        return "node and npm (Debian packages nodejs and npm)"
    if kind is GO_PGX and not (processes.has("go") and (GOPATH / "src/github.com/jackc/pgx/v4").is_dir()):
        libraries = "golang-github-jackc-pgx-v4-dev and golang-github-golang-jwt-jwt-dev"
        return f"go and its libraries (Debian packages golang-go, {libraries})"
    return ""


def install(kinds: Sequence[Kind]) -> None:
    """Install the pinned versions of the peers' packages. Raises ``MissingProgram``."""
    if FASTAPI in kinds or STARLETTE in kinds:
        _install_python()
    if FASTIFY_PG in kinds:
        _install_fastify()
    if GO_PGX in kinds:
        _build_go()


def _install_python() -> None:
    environment, requirements = PYTHON.parents[1], PEERS / "requirements.txt"
    installed = environment / "installed.txt"
    if not _same(requirements, installed):
        uv = processes.find("uv")
        processes.output([uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment], seconds=300)
        processes.output([uv, "pip", "sync", "--quiet", "--python", PYTHON, requirements], seconds=600)
        shutil.copy(requirements, installed)


def _install_fastify() -> None:
    # Node looks for packages beside the program, so the program is copied to them.
    shutil.copytree(PEERS / "fastify", FASTIFY, dirs_exist_ok=True)
    lock, installed = FASTIFY / "package-lock.json", FASTIFY / "node_modules" / "installed.json"
    if not _same(lock, installed):
        processes.output([processes.find("npm"), "ci", "--loglevel=error"], seconds=600, directory=FASTIFY)
        shutil.copy(lock, installed)


def _build_go() -> None:
    # Debian's libraries are no modules: `go` finds them below GOPATH, without a download.
    command = ["go", "build", "-o", *GO_PGX.command, PEERS / "go" / "server.go"]
    processes.output(command, seconds=600, environment={"GO111MODULE": "off", "GOPATH": str(GOPATH)})


def _same(file: Path, other: Path) -> bool:
    return other.exists() and other.read_bytes() == file.read_bytes()


@contextmanager
def started(
    kind: Kind, database_url: str, *, cores: str = processes.SERVER_CORE, workers: int = 1, checkout: Path = CHECKOUT
) -> Iterator[Server]:
    """Run a server until the end of the block."""
    port = _free_port()
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        "WORKERS": str(workers),
        "PORT": str(port),
        # Read by uvicorn's command line.
        "UVICORN_PORT": str(port),
        "NODE_ENV": "production",
    }
    log = DIRECTORY / f"{kind.name}-{port}.log"
    command = processes.pinned(cores, kind.command)
    with processes.running(command, directory=checkout, environment=environment, log=log) as process:
        server = Server(kind, process.pid, port, kind.command == SERVICE.command and (checkout / SESSIONS).exists())
        _wait_until_ready(server, process, log)
        yield server


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(server: Server, process: "subprocess.Popen[str]", log: Path) -> None:
    last = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < last:
        try:
            httpx.get(server.address, trust_env=False, timeout=5)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{server.kind.label} does not answer:\n{log.read_text()}")
