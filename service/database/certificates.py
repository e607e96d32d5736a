"""The files of certificates and keys. asyncpg reads them for each connection, and its errors do not name the file."""

import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final

from service.database.address import Address

# By the parameter: the variable of the environment, and the file in ~/.postgresql that is read if it exists.
_SOURCES: Final = {
    "sslrootcert": ("PGSSLROOTCERT", "root.crt"),
    "sslcrl": ("PGSSLCRL", "root.crl"),
    "sslcert": ("PGSSLCERT", "postgresql.crt"),
    "sslkey": ("PGSSLKEY", "postgresql.key"),
}
_VERIFYING: Final = ("require", "verify-ca", "verify-full")  # the modes in which a root certificate is read


def unusable_files(address: Address) -> list[str]:
    """One line for each file that cannot be read, or that does not contain what it should."""
    mode = address.arguments.get("ssl") or os.environ.get("PGSSLMODE") or "prefer"
    if mode in {"disable", True}:  # no TLS, or the system's certificates only
        return []
    names = [name for name in _SOURCES if mode in _VERIFYING or name in {"sslcert", "sslkey"}]
    files = {name: found for name in names if (found := _file(name, address.tls.get(name)))}
    faults = []
    for source, path in files.values():
        try:
            path.open("rb").close()
        except OSError as error:
            faults.append(f"{source}: {path} cannot be read: {error.strerror}")
    return faults or _load(files, address.tls.get("sslpassword", ""))


def _load(files: dict[str, tuple[str, Path]], password: str) -> list[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    faults = []
    for name, (source, path) in files.items():
        try:
            if name == "sslcert":
                key = files["sslkey"][1] if "sslkey" in files else None
                context.load_cert_chain(path, key, lambda: password)
            elif name != "sslkey":
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            faults.append(f"{source}: {path} cannot be used: {error}")
    return faults


def _file(name: str, given: str | None) -> tuple[str, Path] | None:
    """What names the file, and the file."""
    variable, default = _SOURCES[name]
    if given:
        return f"DATABASE_URL: {name}", Path(given)
    if given := os.environ.get(variable):
        return variable, Path(given)
    with suppress(RuntimeError, OSError):  # no home directory, or not ours
        if (path := Path.home() / ".postgresql" / default).exists():
            return name, path
    return None
