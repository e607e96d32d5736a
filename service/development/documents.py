"""Writes the settings, as ``service/settings.py`` describes them, into ``.env.example`` and README.md."""

from pathlib import Path
from typing import Final

from service import usage

DIRECTORY: Final = Path(__file__).parents[2]

TABLE: Final = "| variable | default | |\n| --- | --- | --- |\n"

EXAMPLE: Final = """\
# Settings of this clone. `just` and Docker Compose read them from `.env`; other programs do not.
#
#   cp .env.example .env
#
# Then remove the `#` in front of what you change. An empty variable counts as not set.
{settings}
# Docker Compose only: the prefix of the names of its containers and volumes. Without it, the path of this folder.
# COMPOSE_PROJECT_NAME=

# Docker Compose only: the password of a new database.
# POSTGRES_PASSWORD=app_password

# Docker Compose only: the memory limits of the containers.
# SERVICE_MEMORY=512m
# DATABASE_MEMORY=1g
"""


def example() -> str:
    """The text of ``.env.example``."""
    settings = ""
    for variable in usage.variables():
        default = f" ({variable.default_words})" if variable.default_words else ""
        settings += f"\n# {usage.plain(variable.description + default)}\n# {variable.name}={variable.example}\n"
    return EXAMPLE.format(settings=settings)


def readme(text: str) -> str:
    """README.md with the current table of settings."""
    before, table = text.split(TABLE)
    rows = ""
    for variable in usage.variables():
        default = variable.default_words or (variable.default and f"`{variable.default}`")
        rows += f"| `{variable.name}` | {default} | {variable.description} |\n"
    return f"{before}{TABLE}{rows}\n{table.split(chr(10) * 2, 1)[1]}"


def main() -> None:
    (DIRECTORY / ".env.example").write_text(example(), encoding="utf-8")
    file = DIRECTORY / "README.md"
    file.write_text(readme(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
