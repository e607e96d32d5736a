"""The settings for people: their names, defaults and descriptions, and variables that look like misspelt ones."""

import argparse
import difflib
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Meta, Struct

from service.settings import Settings

COMMANDS: Final = {
    "migrate": "apply the files of sql/ that the database lacks",
    "reindex-search": "rebuild the search index in SEARCH_LANGUAGE; it blocks posts for minutes per million",
    "check": "check the settings, and that the service can serve on its database; exit with 0 or 1",
}

# How alike two names are that differ by a letter or two: DATABASE_URI has 0.92, DATABASE_USER, a common variable, 0.88.
# OpenTelemetry's own variables are more alike: OTEL_EXPORTER_OTLP_LOGS_ENDPOINT has 0.92.
_ALIKE: Final = 0.9
_ALIKE_OF_OPENTELEMETRY: Final = 0.95

# A likely mistake that differs by more.
_SINGULAR: Final = {"TRUSTED_PROXY": "TRUSTED_PROXIES"}


class Variable(Struct, frozen=True):
    """A setting. ``description`` and ``default_words`` are Markdown."""

    name: str
    description: str
    default: str  # empty if there is none
    default_words: str  # empty if the default is a constant
    example: str


def variables() -> list[Variable]:
    """All settings, in the order of the struct."""
    return [_variable(field) for field in msgspec.structs.fields(Settings)]


def _variable(field: msgspec.structs.FieldInfo) -> Variable:
    metas = [meta for meta in getattr(field.type, "__metadata__", ()) if isinstance(meta, Meta)]
    description = next((meta.description for meta in metas if meta.description), "")
    words = next((meta.extra["default"] for meta in metas if meta.extra), "")
    default = "" if words or field.default is msgspec.NODEFAULT else _text(field.default)
    example = next((str(meta.examples[0]) for meta in metas if meta.examples), default)
    return Variable(field.encode_name, description, default, words, example)


def _text(default: Any) -> str:
    if isinstance(default, bytes):
        return default.decode()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def parser() -> argparse.ArgumentParser:
    """The command line. ``--help`` describes the commands and the settings."""
    created = argparse.ArgumentParser(
        "python -m service",
        description="Serve, or run a command.",
        epilog=f"settings, which are environment variables:\n{_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = "; ".join(f"{name}: {description}" for name, description in COMMANDS.items())
    created.add_argument("command", nargs="?", choices=COMMANDS, help=commands)
    return created


def _settings() -> str:
    width = shutil.get_terminal_size().columns
    lines = []
    for variable in variables():
        default = plain(variable.default_words) or variable.default
        lines.append(f"  {variable.name}" + (f" ({default})" if default else ""))
        lines += textwrap.wrap(plain(variable.description), width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def plain(markdown: str) -> str:
    """A description without the marks of code."""
    return markdown.replace("`", "")


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """The variables that look like misspelt settings, with the settings that were probably meant."""
    known = Settings.__struct_encode_fields__
    found = {}
    for name in sorted({*names} - {*known}):
        cutoff = _ALIKE_OF_OPENTELEMETRY if name.startswith("OTEL_") else _ALIKE
        wanted = _SINGULAR.get(name.upper(), name.upper())
        if alike := difflib.get_close_matches(wanted, known, n=1, cutoff=cutoff):
            found[name] = alike[0]
    return found
