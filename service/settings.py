"""The settings: read once from the environment, every fault named before anything starts."""

import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

T = TypeVar("T")

MIN_SECRET_BYTES: Final = 32  # as long as the digest of HS256 (RFC 7518, section 3.2)
_MIN_DISTINCT_CHARACTERS = 8
# Said in lower case: what people write where a secret should be, and the sample of a well-known tutorial.
_PLACEHOLDERS = ("change", "secret", "placeholder", "example", "replace", "09d25e094faa6ca2556c818166b7a956")


class SettingsError(Exception):
    """One line per faulty variable."""


class Settings(Struct, frozen=True, kw_only=True):
    """What the service runs with; README.md has a line on each."""

    database_url: str
    secret_key: bytes
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    max_requests: int = 1024
    client_timeout_seconds: float = 20
    keep_alive_seconds: float = 75
    drain_seconds: int = 0
    access_token_minutes: int = 30
    database_connections: int = 10
    database_timeout_seconds: float = 5
    password_memory_kib: int = 19 * 1024
    password_passes: int = 2
    password_lanes: int = 1
    password_threads: int = 1
    password_queue: int = 256

    def __repr__(self) -> str:
        """Without the values: two of them are secrets."""
        return "Settings(…)"


class _Reader:
    """Reads one variable after the other and collects the faults instead of stopping at the first."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.faults: list[str] = []

    def read(self, name: str, parse: Callable[[str], T], default: T) -> T:
        if not (text := self.environment.get(name, "").strip()):
            return default
        try:
            return parse(text)
        except ValueError as error:
            self.faults.append(f"{name}: {error}")
            return default

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        def parse(text: str) -> int:
            if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
                raise ValueError(f"must be a whole number from {low} to {high}")
            return int(text)

        return self.read(name, parse, default)

    def seconds(self, name: str, default: float) -> float:
        def parse(text: str) -> float:
            try:
                value = float(text)
            except ValueError:
                value = 0
            if not 0 < value <= 3600:  # noqa: PLR2004 - an hour
                raise ValueError("must be a number of seconds above 0, at most 3600")
            return value

        return self.read(name, parse, default)


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises ``SettingsError`` that names every fault."""
    reader = _Reader(environment)
    fields = Settings.__struct_defaults__
    default = dict(zip(Settings.__struct_fields__[-len(fields) :], fields, strict=True))
    database_url = reader.read("DATABASE_URL", _database_url, "")
    if not environment.get("DATABASE_URL", "").strip():
        reader.faults.append("DATABASE_URL: is not set; it names the PostgreSQL database, postgresql://user@host/name")
    try:
        secret_key = _secret_key(environment)
    except ValueError as error:
        reader.faults.append(str(error))
        secret_key = b""
    workers = reader.integer("WORKERS", default["workers"], 1, 256)
    settings = Settings(
        database_url=database_url,
        secret_key=secret_key,
        host=reader.read("HOST", str, default["host"]),
        port=reader.integer("PORT", default["port"], 0, 65535),
        workers=workers,
        max_requests=reader.integer("MAX_REQUESTS", default["max_requests"], 1, 1_000_000),
        client_timeout_seconds=reader.seconds("CLIENT_TIMEOUT_SECONDS", default["client_timeout_seconds"]),
        keep_alive_seconds=reader.seconds("KEEP_ALIVE_SECONDS", default["keep_alive_seconds"]),
        drain_seconds=reader.integer("DRAIN_SECONDS", default["drain_seconds"], 0, 3600),
        access_token_minutes=reader.integer("ACCESS_TOKEN_MINUTES", default["access_token_minutes"], 1, 60 * 24 * 365),
        database_connections=reader.integer("DATABASE_CONNECTIONS", default["database_connections"], 1, 1000),
        database_timeout_seconds=reader.seconds("DATABASE_TIMEOUT_SECONDS", default["database_timeout_seconds"]),
        password_memory_kib=reader.integer("PASSWORD_MEMORY_KIB", default["password_memory_kib"], 8, 4 * 1024 * 1024),
        password_passes=reader.integer("PASSWORD_PASSES", default["password_passes"], 1, 100),
        password_lanes=reader.integer("PASSWORD_LANES", default["password_lanes"], 1, 16),
        password_threads=reader.integer("PASSWORD_THREADS", max(1, _cores() // workers), 1, 256),
        password_queue=reader.integer("PASSWORD_QUEUE", default["password_queue"], 1, 100_000),
    )
    if settings.password_memory_kib < 8 * settings.password_lanes:
        reader.faults.append("PASSWORD_MEMORY_KIB: must be at least 8 for each of PASSWORD_LANES")
    if reader.faults:
        raise SettingsError("\n".join(reader.faults))
    return settings


def data_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a generated secret key, and the embedded database of ``just up``, are kept."""
    return Path(environment.get("DATA_DIRECTORY", "").strip() or ".data").absolute()


def _cores() -> int:
    """How many this process may use. More threads than that hash no faster, and hold up the event loop."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _database_url(text: str) -> str:
    """``text`` as asyncpg takes it; SQLAlchemy's name for the driver is accepted and dropped."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise ValueError("must begin with postgresql://")
    url = f"postgresql://{rest}"
    try:
        urlsplit(url).port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise ValueError("is not a valid URL (is a character of the password not percent-encoded?)") from error
    return url


def _secret_key(environment: Mapping[str, str]) -> bytes:
    """The key that signs access tokens: given, from a file, or generated once and kept."""
    key, file = environment.get("SECRET_KEY", "").strip(), environment.get("SECRET_KEY_FILE", "").strip()
    if key and file:
        raise ValueError("SECRET_KEY, SECRET_KEY_FILE: set one of them, not both")
    if key:
        return _checked_secret("SECRET_KEY", key)
    if file:
        return _checked_secret("SECRET_KEY_FILE", _read_secret("SECRET_KEY_FILE", Path(file)))
    path = data_directory(environment) / "secret_key"
    try:
        _generate_once(path)
    except OSError as error:
        raise ValueError(
            f"DATA_DIRECTORY: cannot keep a generated secret key in {path.parent} ({error.strerror}); "
            "set SECRET_KEY or SECRET_KEY_FILE, or name a directory that can be written to"
        ) from error
    return _checked_secret("DATA_DIRECTORY", _read_secret("DATA_DIRECTORY", path))


def _read_secret(variable: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{variable}: cannot read {path} ({reason})") from error


def _checked_secret(variable: str, key: str) -> bytes:
    if len(key.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"{variable}: must hold at least {MIN_SECRET_BYTES} bytes")
    if len(set(key)) < _MIN_DISTINCT_CHARACTERS or any(word in key.lower() for word in _PLACEHOLDERS):
        raise ValueError(f"{variable}: is a placeholder; `openssl rand -hex 32` makes a real one")
    return key.encode()


def _generate_once(path: Path) -> None:
    """Make the file with a new secret unless it is there; of several processes at once, one wins."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # with mode 0600
    with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - the descriptor is what was made
        file.write(secrets.token_hex(MIN_SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(temporary, path)  # unlike a rename it never replaces a key that signs tokens already
    Path(temporary).unlink()
