"""The settings are read from the environment. All invalid ones are named at once, and no default is insecure."""

import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from service import settings
from service.security import secret_key
from service.settings import Settings, SettingsError
from service.structs.rules import alternatives

URL = "postgresql://app@db.example/app"
KEY = "7f3a9c1e5b8d2046f1e7a3c95d80b264"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"DATABASE_URL": URL, "SECRET_KEY": KEY, "DATA_DIRECTORY": str(tmp_path)}


def faults(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings.load(environment)
    return str(caught.value).splitlines()


def test_only_database_url_is_required(tmp_path: Path) -> None:
    loaded = settings.load({"DATABASE_URL": URL, "DATA_DIRECTORY": str(tmp_path)})

    assert loaded == Settings(
        database_url=URL,
        secret_key=loaded.secret_key,
        data_directory=str(tmp_path),
        password_threads=loaded.password_threads,
    )
    assert (loaded.host, loaded.port, loaded.workers, loaded.access_token_minutes) == ("127.0.0.1", 8000, 1, 30)
    assert (loaded.password_memory_kib, loaded.password_passes, loaded.password_lanes) == (19456, 2, 1)


def test_workers_divide_the_cores_for_password_threads(environment: dict[str, str]) -> None:
    one_worker, many_workers = settings.load(environment), settings.load(environment | {"WORKERS": "256"})

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert one_worker.password_threads == min(cores or 1, 4)
    assert many_workers.password_threads == 1


def test_every_setting_is_read_from_its_variable(environment: dict[str, str]) -> None:
    loaded = settings.load(
        environment
        | {
            "HOST": "0.0.0.0",  # noqa: S104 - as in a container
            "PORT": "9000",
            "WORKERS": "4",
            "MAX_REQUESTS": "6",
            "CLIENT_TIMEOUT_SECONDS": "1.5",
            "DRAIN_SECONDS": "8",
            "ACCESS_TOKEN_MINUTES": "5",
            "DATABASE_CONNECTIONS": "3",
            "DATABASE_TIMEOUT_SECONDS": "0.5",
            "PASSWORD_MEMORY_KIB": "1024",
            "PASSWORD_PASSES": "3",
            "PASSWORD_LANES": "2",
            "PASSWORD_THREADS": "7",
            "PASSWORD_QUEUE": "9",
            "ACCESS_LOG": "On",
            "LOG_FORMAT": "JSON",
            "LOG_LEVEL": "DEBUG",
            "METRICS_PORT": "9100",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        }
    )

    assert loaded == Settings(
        database_url=URL,
        secret_key=KEY.encode(),
        data_directory=environment["DATA_DIRECTORY"],
        host="0.0.0.0",  # noqa: S104
        port=9000,
        workers=4,
        max_requests=6,
        client_timeout_seconds=1.5,
        drain_seconds=8,
        access_token_minutes=5,
        database_connections=3,
        database_timeout_seconds=0.5,
        password_memory_kib=1024,
        password_passes=3,
        password_lanes=2,
        password_threads=7,
        password_queue=9,
        access_log="on",
        log_format="json",
        log_level="debug",
        metrics_port=9100,
        otel_exporter_otlp_endpoint="http://collector:4318",
    )


def test_words_may_be_in_upper_case(environment: dict[str, str]) -> None:
    words = {
        field.encode_name: field.default
        for field in msgspec.structs.fields(Settings)
        for kind in alternatives(msgspec.inspect.type_info(field.type))
        if isinstance(kind, msgspec.inspect.LiteralType)
    }

    assert len(words) >= 4
    for name, word in words.items():
        assert settings.load(environment | {name: word.upper()}) == settings.load(environment)


def test_an_empty_variable_is_the_same_as_none(environment: dict[str, str]) -> None:
    assert settings.load(environment | {"PORT": "", "WORKERS": " "}) == settings.load(environment)


def test_all_invalid_settings_are_named_at_once() -> None:
    found = faults(
        {
            "DATABASE_URL": "mysql://localhost/app",
            "SECRET_KEY": "short",
            "PORT": "80000",
            "WORKERS": "0",
            "ACCESS_TOKEN_MINUTES": "soon",
            "DATABASE_TIMEOUT_SECONDS": "nan",
            "PASSWORD_PASSES": "-1",
            "PASSWORD_QUEUE": "1.5",
        }
    )

    assert sorted(line.split(":")[0] for line in found) == [
        "ACCESS_TOKEN_MINUTES",
        "DATABASE_TIMEOUT_SECONDS",
        "DATABASE_URL",
        "PASSWORD_PASSES",
        "PASSWORD_QUEUE",
        "PORT",
        "SECRET_KEY",
        "WORKERS",
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("PORT", "http", "must be a whole number from 0 to 65535"),
        ("PORT", "80000", "must be a whole number from 0 to 65535"),
        ("WORKERS", "0", "must be a whole number from 1 to 256"),
        ("PASSWORD_QUEUE", "1.5", "must be a whole number from 1 to 100000"),
        ("PASSWORD_QUEUE", "+5", "must be a whole number from 1 to 100000"),
        ("CLIENT_TIMEOUT_SECONDS", "soon", "must be a number above 0 and at most 3600"),
        ("CLIENT_TIMEOUT_SECONDS", "0", "must be a number above 0 and at most 3600"),
        ("DATABASE_TIMEOUT_SECONDS", "inf", "must be a number above 0 and at most 3600"),
        ("ACCESS_LOG", "true", 'must be "off" or "on"'),
        ("LOG_LEVEL", "verbose", 'must be "debug" or "error" or "info" or "warning"'),
        ("PASSWORD_LANES", "3", None),
    ],
)
def test_an_invalid_setting_is_described_in_plain_words(
    environment: dict[str, str], name: str, text: str, words: str | None
) -> None:
    if words:
        assert faults(environment | {name: text}) == [f"{name}: {words}"]
    # Two settings that contradict each other, and a third that is invalid by itself.
    together = environment | {"PASSWORD_MEMORY_KIB": "15", "PASSWORD_LANES": "2", "WORKERS": "0"}
    assert faults(together) == [
        "WORKERS: must be a whole number from 1 to 256",
        "PASSWORD_MEMORY_KIB: must be at least 8 for each of PASSWORD_LANES",
    ]


def test_the_metrics_have_a_port_of_their_own(environment: dict[str, str]) -> None:
    assert faults(environment | {"METRICS_PORT": "8000"}) == ["METRICS_PORT: must not be PORT"]


def test_the_bounds_of_a_setting_are_those_of_its_type(environment: dict[str, str]) -> None:
    bounds = {
        field.encode_name: (kind.ge or 0, kind.le or 0)
        for field in msgspec.structs.fields(Settings)
        for kind in alternatives(msgspec.inspect.type_info(field.type))
        if isinstance(kind, msgspec.inspect.IntType)
    }

    assert len(bounds) >= 9
    for name, (low, high) in bounds.items():
        settings.load(environment | {name: str(low)})
        settings.load({"PASSWORD_MEMORY_KIB": "1024"} | environment | {name: str(high)})
        for outside in (low - 1, high + 1):
            assert faults(environment | {name: str(outside)})[0].startswith(f"{name}: must be a whole number from ")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql+asyncpg://u:p%40ss@h:5433/d?sslmode=require", "postgresql://u:p%40ss@h:5433/d?sslmode=require"),
        ("postgres://h/d", "postgresql://h/d"),
        (" postgresql://h/d ", "postgresql://h/d"),
        ("postgresql://u@/d?host=/run/postgresql", "postgresql://u@/d?host=/run/postgresql"),
    ],
)
def test_other_spellings_of_a_database_url_are_accepted(environment: dict[str, str], given: str, used: str) -> None:
    assert settings.load(environment | {"DATABASE_URL": given}).database_url == used


@pytest.mark.parametrize("url", ["", "localhost/app", "sqlite:///app.db", "postgresql://u:p@ss:w@h:port/d"])
def test_an_invalid_database_url_is_refused(environment: dict[str, str], url: str) -> None:
    [fault] = faults(environment | {"DATABASE_URL": url})

    assert fault.startswith("DATABASE_URL: ")
    assert "p@ss" not in fault


@pytest.mark.parametrize(
    "key",
    [
        "short",
        "a" * 64,
        "changemechangemechangemechangemechangeme",
        "your-secret-key-goes-here-and-is-long-enough",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    ],
)
def test_a_weak_or_well_known_key_is_refused(environment: dict[str, str], tmp_path: Path, key: str) -> None:
    [fault] = faults(environment | {"SECRET_KEY": key})
    (tmp_path / "key").write_text(key)
    [fault_of_file] = faults(environment | {"SECRET_KEY": "", "SECRET_KEY_FILE": str(tmp_path / "key")})

    assert fault.startswith("SECRET_KEY: ")
    assert fault_of_file.startswith("SECRET_KEY_FILE: ")
    assert key not in fault + fault_of_file


def test_the_key_can_be_read_from_a_file(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")

    loaded = settings.load(environment | {"SECRET_KEY": "", "SECRET_KEY_FILE": str(file)})

    assert loaded.secret_key == KEY.encode()


def test_a_missing_key_file_is_reported(environment: dict[str, str]) -> None:
    assert faults(environment | {"SECRET_KEY": "", "SECRET_KEY_FILE": "/nowhere"}) == [
        "SECRET_KEY_FILE: cannot read /nowhere (No such file or directory)"
    ]


def test_a_key_and_a_key_file_exclude_each_other(environment: dict[str, str]) -> None:
    assert faults(environment | {"SECRET_KEY_FILE": "/nowhere"}) == [
        "SECRET_KEY, SECRET_KEY_FILE: set one of them, not both"
    ]


def test_a_key_is_generated_once_and_readable_by_its_owner_only(environment: dict[str, str], tmp_path: Path) -> None:
    environment |= {"SECRET_KEY": "", "DATA_DIRECTORY": str(tmp_path / "new" / "directory")}

    first, second = settings.load(environment), settings.load(environment)

    file = tmp_path / "new" / "directory" / "secret_key"
    assert first.secret_key == second.secret_key == file.read_bytes()
    assert len(first.secret_key) >= secret_key.MIN_BYTES
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_concurrent_processes_generate_one_key(environment: dict[str, str]) -> None:
    environment |= {"SECRET_KEY": ""}
    with ThreadPoolExecutor(16) as threads:
        loaded = list(threads.map(lambda _: settings.load(environment), range(64)))

    assert len({one.secret_key for one in loaded}) == 1


def test_a_key_that_cannot_be_stored_is_reported_with_the_remedy(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    [fault] = faults(environment | {"SECRET_KEY": "", "DATA_DIRECTORY": str(tmp_path / "file" / "x")})

    assert fault.startswith("DATA_DIRECTORY: cannot keep a generated secret key")
    assert "set SECRET_KEY or SECRET_KEY_FILE" in fault


@pytest.mark.parametrize(
    ("text", "proxies"),
    [
        ("127.0.0.1", ("127.0.0.1/32",)),
        (" 10.0.0.0/8,::1 , 2001:DB8::/32,", ("10.0.0.0/8", "::1/128", "2001:db8::/32")),
        ("::ffff:10.0.0.0/104", ("10.0.0.0/8",)),
        (" , ", ()),
    ],
)
def test_trusted_proxies_are_addresses_and_networks(
    environment: dict[str, str], text: str, proxies: tuple[str, ...]
) -> None:
    assert settings.load(environment | {"TRUSTED_PROXIES": text}).trusted_proxies == proxies


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://app.example", ("https://app.example",)),
        (
            " https://App.Example:443,http://localhost:3000 , http://[::1]:8080,",
            ("https://app.example", "http://localhost:3000", "http://[::1]:8080"),
        ),
        ("https://app.example,https://app.example:443", ("https://app.example",)),
        ("capacitor://localhost", ("capacitor://localhost",)),
        ("*", ("*",)),
    ],
)
def test_origins_are_written_as_browsers_send_them(
    environment: dict[str, str], text: str, origins: tuple[str, ...]
) -> None:
    assert settings.load(environment | {"CORS_ORIGINS": text}).cors_origins == origins


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("TRUSTED_PROXIES", "nginx", "'nginx' is not an address, and not a network such as 10.0.0.0/8"),
        ("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/33", "'10.0.0.0/33' is not an address"),
        ("TRUSTED_PROXIES", "*", "'*' is not an address"),
        ("TRUSTED_PROXIES", "10.1.2.3/8", "write 10.0.0.0/8, or the address alone"),
        ("CORS_ORIGINS", "https://app.example/", "remove the slash at its end, https://app.example"),
        ("CORS_ORIGINS", "https://app.example/page", "it is a scheme and a host"),
        ("CORS_ORIGINS", "app.example", "it is a scheme and a host"),
        ("CORS_ORIGINS", "https://app.example:0", "it is a scheme and a host"),
        ("CORS_ORIGINS", "https://app.example:65536", "it is a scheme and a host"),
        ("CORS_ORIGINS", "https://user@app.example", "it is a scheme and a host"),
        ("CORS_ORIGINS", "null", "it is a scheme and a host"),
        ("CORS_ORIGINS", "https://*.example", "write out every origin; only a * by itself allows every one"),
        ("CORS_ORIGINS", "https://b\xfccher.example", "write its host as browsers send it, in ASCII"),
        ("CORS_ORIGINS", "*, https://app.example", "* stands for every origin"),
    ],
)
def test_faulty_proxies_and_origins_are_named_with_the_remedy(
    environment: dict[str, str], name: str, text: str, words: str
) -> None:
    [fault] = faults(environment | {name: text})

    assert fault.startswith(f"{name}: ")
    assert words in fault
