"""The settings. They are read once from the environment, and all faults are reported before anything starts."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, ValidationError

from service.cores import usable_cores
from service.database import address
from service.http.cors import parse_origins
from service.http.forwarded import parse_proxies
from service.security import secret_key
from service.structs.rules import alternatives, describe_fault

MOST_PASSWORD_THREADS: Final = 4  # unless PASSWORD_THREADS says otherwise

# Settings whose values are words, in upper or lower case.
_WORDS: Final = {"ACCESS_LOG", "LOG_FORMAT", "LOG_LEVEL", "PASSWORD_DENYLIST"}


class SettingsError(Exception):
    """One line per faulty variable."""


Seconds = Annotated[float, Meta(gt=0, le=3600)]
Switch = Literal["on", "off"]


class Settings(Struct, frozen=True, kw_only=True, rename="upper"):
    """The settings, under the names of the environment variables.

    ``--help``, README.md and ``.env.example`` have the descriptions; ``just format`` writes them there. ``default`` in
    ``extra`` describes a default that is no constant.
    """

    database_url: Annotated[
        str,
        Meta(
            description="the database; `postgresql+asyncpg://…` works, too",
            examples=["postgresql://user@host/name"],
            extra={"default": "required, except by `just up`"},
        ),
    ]
    secret_key: Annotated[
        bytes,
        Meta(
            description=f"signs the tokens; at least {secret_key.MIN_BYTES} bytes",
            extra={"default": "generated, and kept in `DATA_DIRECTORY`"},
        ),
    ]
    secret_key_file: Annotated[str, Meta(description="a file that contains the key, instead of `SECRET_KEY`")] = ""
    secret_key_previous: Annotated[
        bytes,
        Meta(description="another key, whose tokens are valid as well; see *Rotate `SECRET_KEY`*"),
    ] = b""
    data_directory: Annotated[str, Meta(description="the generated key, and the data of `just up`")] = ".data"
    host: Annotated[str, Meta(description="the address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="the port to listen on")] = 8000
    workers: Annotated[int, Meta(ge=1, le=256, description="processes")] = 1
    max_requests: Annotated[
        int, Meta(ge=1, le=1_000_000, description="requests in flight, per worker; the next one gets a 503")
    ] = 1024
    client_timeout_seconds: Annotated[
        Seconds, Meta(description="the time for a client to send a request, or to read some of its response")
    ] = 20
    keep_alive_seconds: Annotated[
        Seconds, Meta(description="the time that a connection may be idle; longer than the proxy's own")
    ] = 75
    drain_seconds: Annotated[
        int, Meta(ge=0, le=3600, description="the time in which requests are still served after SIGTERM")
    ] = 0
    access_token_minutes: Annotated[
        int, Meta(ge=1, le=60 * 24 * 365, description="the lifetime of an access token")
    ] = 30
    refresh_token_days: Annotated[
        float, Meta(gt=0, le=3650, description="the time without a refresh after which a session ends")
    ] = 30
    session_days: Annotated[
        float, Meta(gt=0, le=3650, description="the time after which a session ends in any case")
    ] = 90
    refresh_grace_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="the time in which a used refresh token returns the current one again"),
    ] = 30
    login_failures_per_account: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="failed logins to an account within the window; the next gets a 429; 0 sets no limit",
        ),
    ] = 10
    login_failures_per_address: Annotated[
        int,
        Meta(ge=0, le=1000, description="the same for a client's address; the /64 network of an IPv6 address is one"),
    ] = 50
    login_window_minutes: Annotated[
        float, Meta(gt=0, le=1440, description="the window in which failed logins are counted")
    ] = 15
    known_address_days: Annotated[
        float,
        Meta(
            gt=0,
            le=3650,
            description="the time after a login in which its address has a count of its own for the account",
        ),
    ] = 90
    registrations_per_hour: Annotated[
        int, Meta(ge=0, le=1000, description="registrations from an address; 0 sets no limit")
    ] = 0
    password_denylist: Annotated[
        Switch,
        Meta(description="`on` refuses common passwords and those that contain the name of the user"),
    ] = "off"  # noqa: S105 - a switch
    search_language: Annotated[
        str,
        Meta(
            max_length=127,
            pattern=r"^[A-Za-z0-9_.]+$",
            description="the language of search, one of PostgreSQL's (`english`, …); see *Operate it*, *Search*",
        ),
    ] = "simple"
    database_connections: Annotated[int, Meta(ge=1, le=1000, description="the most connections, per worker")] = 10
    database_timeout_seconds: Annotated[
        Seconds, Meta(description="the wait for a connection, and then for a statement, before a 503")
    ] = 5
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="the addresses and networks, separated by commas, whose `X-Forwarded-For` and "
            "`X-Forwarded-Proto` are believed",
            examples=["127.0.0.1,10.0.0.0/8"],
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="the origins, separated by commas, whose pages may use the API; `*` is every origin, without "
            "credentials",
            examples=["https://app.example"],
        ),
    ] = ()
    password_memory_kib: Annotated[
        int, Meta(ge=8, le=4 * 1024 * 1024, description="the memory for an Argon2id hash (OWASP's default)")
    ] = 19 * 1024
    password_passes: Annotated[int, Meta(ge=1, le=100, description="the passes of an Argon2id hash")] = 2
    password_lanes: Annotated[int, Meta(ge=1, le=16, description="the lanes of an Argon2id hash")] = 1
    password_threads: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="passwords hashed at once, per worker; each takes `PASSWORD_MEMORY_KIB`",
            extra={"default": "the cores / `WORKERS`, at most 4"},
        ),
    ] = 1
    password_queue: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="passwords waiting or being hashed, per worker; the next one gets a 503",
        ),
    ] = 256
    access_log: Annotated[
        Switch, Meta(description="`on`: a line for each request. `just up` and Compose switch it on")
    ] = "off"
    log_format: Annotated[Literal["text", "json"], Meta(description="`json`: one JSON object per record")] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="`debug`, `info`, `warning` or `error`")
    ] = "info"
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="the port of Prometheus metrics, on `HOST`; 0 switches them off")
    ] = 0
    otel_exporter_otlp_endpoint: Annotated[
        str,
        Meta(
            pattern="^https?://",
            description="the collector of OpenTelemetry traces",
            examples=["http://collector:4318"],
        ),
    ] = ""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` if settings that are valid by themselves contradict each other."""
        if self.password_memory_kib < 8 * self.password_lanes:
            raise ValueError("PASSWORD_MEMORY_KIB: must be at least 8 for each of PASSWORD_LANES")
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError("METRICS_PORT: must not be PORT")

    def __repr__(self) -> str:
        """Leave out the values: two of them are secrets."""
        return "Settings(…)"


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises ``SettingsError`` with all faults."""
    given = {name: environment.get(name, "").strip() for name in Settings.__struct_encode_fields__}
    values: dict[str, Any] = {name: text for name, text in given.items() if text}
    values |= {name: values[name].lower() for name in _WORDS & values.keys()}
    faults = []
    for name, parse in (("TRUSTED_PROXIES", parse_proxies), ("CORS_ORIGINS", parse_origins)):
        try:
            values[name] = parse(values.get(name, ""))
        except ValueError as error:
            faults.append(f"{name}: {error}")
            del values[name]
    for name, read in (
        ("DATABASE_URL", lambda: _database_url(given["DATABASE_URL"])),
        ("SECRET_KEY", lambda: secret_key.read(given, data_directory(environment))),
        ("SECRET_KEY_PREVIOUS", lambda: secret_key.read_previous(given)),
    ):
        try:
            values[name] = read()
        except ValueError as error:
            faults.append(str(error))
            values[name] = "" if name == "DATABASE_URL" else b""
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except ValidationError:
        faults += _faults(values)
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in values and not find_spec("opentelemetry"):
        faults.append(
            "OTEL_EXPORTER_OTLP_ENDPOINT: needs the packages of requirements-otel.lock, which are not installed"
        )
    if faults:
        raise SettingsError("\n".join(faults))
    if "PASSWORD_THREADS" not in values:
        # More threads than cores would hash no faster, and each takes PASSWORD_MEMORY_KIB.
        threads = min(MOST_PASSWORD_THREADS, max(1, usable_cores() // settings.workers))
        settings = msgspec.structs.replace(settings, password_threads=threads)
    return settings


def _faults(values: dict[str, Any]) -> list[str]:
    """Describe every value that is invalid by itself, else the values that contradict each other."""
    faults = {}
    for field in msgspec.structs.fields(Settings):
        name = field.encode_name
        try:
            if name in values:
                msgspec.convert(values[name], field.type, strict=False)
        except ValidationError as error:
            types = alternatives(msgspec.inspect.type_info(field.type))
            faults[name] = f"{name}: {describe_fault('', error, types, nullable=False).detail}"
    try:
        msgspec.convert({name: value for name, value in values.items() if name not in faults}, Settings, strict=False)
    except ValidationError as error:
        return [*faults.values(), str(error)]
    return [*faults.values()]


def data_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of a generated secret key, and of the embedded database of ``just up``."""
    return Path(environment.get("DATA_DIRECTORY", "").strip() or ".data").absolute()


def _database_url(text: str) -> str:
    """The URL, without the name of a driver, as SQLAlchemy needs it."""
    if not text:
        raise ValueError("DATABASE_URL: is not set; it names the PostgreSQL database, postgresql://user@host/name")
    try:
        address.parse(text)
    except ValueError as error:
        raise ValueError("\n".join(f"DATABASE_URL: {fault}" for fault in str(error).splitlines())) from error
    return f"postgresql://{text.partition('://')[2]}"
