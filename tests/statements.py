"""Finds every SQL statement of the service."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from msgspec import Struct

import service.queries
from service.database import rights, schema, signing_key


class Statement(Struct, frozen=True):
    name: str
    text: str


def modules() -> list[ModuleType]:
    found = pkgutil.iter_modules(service.queries.__path__, f"{service.queries.__name__}.")
    return [importlib.import_module(module.name) for module in found]


def statements(*sources: ModuleType) -> Iterator[Statement]:
    """The text constants in capitals of the query modules, or of the given modules."""
    for module in sources or modules():
        for name, value in vars(module).items():
            if name.isupper() and name[0] != "_" and isinstance(value, str):
                yield Statement(f"{module.__name__.removeprefix('service.')}.{name}", value)


def all_statements() -> list[Statement]:
    """The statements of the query modules, of the migrations, of the check at start and of the signing key."""
    return [*statements(), *statements(rights, schema, signing_key)]
