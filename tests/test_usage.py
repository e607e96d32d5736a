"""What the command line says about itself and about settings, and where the settings are described."""

import os
import re
from pathlib import Path

import pytest

from service import usage
from service.development import documents
from service.settings import Settings
from tests.processes import Start, read_output, read_until

NAMES = Settings.__struct_encode_fields__

# compose.yaml sets them itself, or they are of no use in a container.
NOT_OF_COMPOSE = {"DATABASE_URL", "SECRET_KEY_FILE", "DATA_DIRECTORY", "HOST", "PORT"}

# Variables of shells, terminals, systemd, Docker, Kubernetes, CI and of other programs.
COMMON = """
BASH_ENV COLUMNS DISPLAY EDITOR HISTFILE HOME HOST HOSTNAME HOSTTYPE LANG LC_ALL LINES LOGNAME LS_COLORS MACHTYPE MAIL
OLDPWD OSTYPE PATH PORT PORTS PORT0 PS1 PWD SHELL SHLVL SSH_AUTH_SOCK SSH_CONNECTION TERM TMPDIR TZ USER USERNAME
XDG_DATA_DIRS XDG_RUNTIME_DIR INVOCATION_ID JOURNAL_STREAM LISTEN_FDS LISTEN_PID MAINPID NOTIFY_SOCKET RUNTIME_DIRECTORY
STATE_DIRECTORY CACHE_DIRECTORY LOGS_DIRECTORY CONFIGURATION_DIRECTORY CREDENTIALS_DIRECTORY WATCHDOG_USEC
COMPOSE_PROJECT_NAME DOCKER_HOST POSTGRES_DB POSTGRES_PASSWORD POSTGRES_USER PGDATABASE PGHOST PGPASSWORD PGPORT PGUSER
DATABASE_HOST DATABASE_NAME DATABASE_PASSWORD DATABASE_PORT DATABASE_USER DATABASE_URL_FILE TEST_DATABASE_URL DB_URL
KUBERNETES_PORT KUBERNETES_PORT_443_TCP KUBERNETES_PORT_443_TCP_ADDR KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT
DATABASE_SERVICE_HOST DATABASE_SERVICE_PORT DATABASE_PORT_5432_TCP WORKERS_SERVICE_HOST WORKERS_PORT_8000_TCP_PORT
CI GITHUB_TOKEN AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY DJANGO_SECRET_KEY FLASK_SECRET_KEY ACCESS_TOKEN REFRESH_TOKEN
HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy WEB_CONCURRENCY FORWARDED_ALLOW_IPS MAX_REQUESTS_JITTER
PYTHONPATH PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTEST_CURRENT_TEST VIRTUAL_ENV UV_CACHE_DIR OTEL_SERVICE_NAME
OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_METRICS_ENDPOINT
OTEL_EXPORTER_OTLP_LOGS_ENDPOINT OTEL_EXPORTER_OTLP_HEADERS OTEL_TRACES_SAMPLER SENTRY_DSN
"""


async def test_help_lists_every_command_and_every_setting_with_its_default(start_python: Start) -> None:
    process = await start_python("service", "--help", COLUMNS="200")
    said = await read_output(process)

    assert process.returncode == 0
    for command in usage.COMMANDS:
        assert re.search(rf"\b{command}: \w", said)
    lines = said.splitlines()
    for name in NAMES:
        assert [line for line in lines if line.split()[:1] == [name]]
    for line in ("PORT (8000)", "DATA_DIRECTORY (.data)", "SECRET_KEY (generated, and kept in DATA_DIRECTORY)"):
        assert f"  {line}" in lines


def test_every_setting_has_a_description() -> None:
    assert [variable.name for variable in usage.variables() if not variable.description] == []


def test_readme_and_the_example_have_the_current_settings(repository: Path) -> None:
    """``just format`` writes them."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    example = (repository / ".env.example").read_text(encoding="utf-8")

    assert documents.readme(readme) == readme
    assert documents.example() == example
    for name in NAMES:
        assert readme.count(f"\n| `{name}` | ") == 1
        assert len(re.findall(rf"^# {name}=", example, re.MULTILINE)) == 1


def test_compose_passes_on_every_setting(repository: Path) -> None:
    lines = (repository / "compose.yaml").read_text(encoding="utf-8").splitlines()
    passed = {line.strip().split(":")[0] for line in lines if line.startswith("    ")}

    assert set(NAMES) - NOT_OF_COMPOSE - passed == set()


def test_the_example_has_the_variables_of_compose(repository: Path) -> None:
    compose = (repository / "compose.yaml").read_text(encoding="utf-8")
    variables = set(re.findall(r"\$\{(\w+)", compose)) - {"PWD"}

    assert {name for name in variables if f"\n# {name}=" not in documents.example()} == set()


def test_what_the_newcomer_creates_is_not_committed(repository: Path) -> None:
    """The file of settings, and the folders that README.md's first commands create."""
    ignored = (repository / ".gitignore").read_text(encoding="utf-8").splitlines()

    assert {".env", ".tools/", ".venv/", ".data/"} - {*ignored} == set()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABASE_URI", "DATABASE_URL"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("database_url", "DATABASE_URL"),
        ("SECRETKEY", "SECRET_KEY"),
        ("WORKER", "WORKERS"),
        ("ACCESS_TOKEN_MINUTE", "ACCESS_TOKEN_MINUTES"),
        ("PASSWORD_MEMORY_KB", "PASSWORD_MEMORY_KIB"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
        ("OTEL_EXPORTER_OLTP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_a_misspelt_setting_is_recognised(name: str, meant: str) -> None:
    assert usage.misspelt([name]) == {name: meant}


def test_common_variables_are_not_taken_for_misspelt_settings() -> None:
    assert usage.misspelt([*COMMON.split(), *NAMES, *os.environ]) == {}


@pytest.mark.parametrize(
    "command", [["service"], ["service", "migrate"], ["service", "check"], ["service.development"]]
)
async def test_a_misspelt_setting_is_a_warning_in_one_line(start: Start, database_url: str, command: list[str]) -> None:
    process = await start(*command, DATABASE_URL=database_url, WORKER="2")
    if command[-1] in usage.COMMANDS:
        said = await read_output(process)
        assert process.returncode == 0
    else:
        said = await read_until(process, "Uvicorn running on")

    [warning] = [line for line in said.splitlines() if "WORKER" in line]
    assert warning.endswith("WARNING service: WORKER is not a setting and has no effect: is WORKERS meant?")


async def test_check_accepts_settings_with_which_the_service_can_serve(start: Start, database_url: str) -> None:
    process = await start("service", "check", DATABASE_URL=database_url)

    assert await read_output(process) == "The settings are valid, and the service can serve on its database.\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({}, "the database lacks 001_users.sql, "),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/app"}, "The database cannot be reached: "),
        ({"PORT": "none"}, "PORT: must be a whole number from 0 to 65535"),
    ],
    ids=["empty database", "no database", "setting"],
)
async def test_check_reports_a_fault_in_one_line(
    start: Start, empty_database: str, variables: dict[str, str], fault: str
) -> None:
    process = await start("service", "check", **{"DATABASE_URL": empty_database} | variables)
    said = await read_output(process)

    assert process.returncode == 1
    assert said.splitlines()[-1].startswith(fault)
    assert len(said.splitlines()) == 1 + (said.splitlines()[0] == "The settings are not valid:")
