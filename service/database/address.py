"""The address of the database: ``DATABASE_URL`` in libpq's form, and what ``asyncpg.connect`` takes instead.

The form is that of PostgreSQL's manual, section *Connection URIs*. asyncpg reads URLs, too, but sends each parameter
that it does not know to PostgreSQL as a setting of the session, and PostgreSQL refuses most of them. Whatever the URL
lacks, asyncpg takes from the environment: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGPASSFILE, PGDATABASE, PGSSLMODE,
PGSSLNEGOTIATION, PGSSLROOTCERT, PGSSLCRL, PGSSLCERT, PGSSLKEY, PGSSLMINPROTOCOLVERSION, PGSSLMAXPROTOCOLVERSION,
PGKRBSRVNAME and PGGSSLIB. It does not know libpq's others, such as PGOPTIONS and PGSERVICE.
"""

import re
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct

from service.database.parameters import (
    ALTERNATIVE_NAMES,
    ARGUMENTS,
    DROPPED,
    REFUSED,
    SESSION,
    TLS,
    VALUES,
    WITHOUT_SYSTEM,
)

SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")

_URL: Final = re.compile(
    r"(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?(?P<hosts>[^/?]*)(?:/(?P<dbname>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>\d*))?")

_NOT_A_URL: Final = "is not a valid URL (is a character of the password not percent-encoded?)"


class Host(Struct, frozen=True):
    """A server. Without a name it is PGHOST, else a Unix socket in one of the usual directories, else localhost."""

    name: str | None = None  # a host name, an IP address, or the directory of a Unix socket
    port: int | None = None

    def __str__(self) -> str:
        return f"{self.name or 'the default host'}{f', port {self.port}' if self.port else ''}"


class Address(Struct, frozen=True):
    """The servers of one database, in the order in which they are tried, and how to connect to any of them."""

    hosts: list[Host]
    arguments: dict[str, Any]  # of asyncpg.connect, beside host and port
    tls: dict[str, str]  # parameters that asyncpg takes only in a URL
    session: dict[str, str]  # settings of PostgreSQL
    host_timeout: float | None  # in seconds, for one host
    dropped: list[str]  # one sentence for each parameter without an effect

    def __repr__(self) -> str:
        """Leave out the values: one of them is a password."""
        return "Address(…)"


def parse(url: str) -> Address:
    """Read a connection URI. Raises ``ValueError`` with one line per fault, none of which shows the password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError("must begin with postgresql://")
    parts = _URL.fullmatch(rest)
    if parts is None or "\0" in unquote(rest):
        raise ValueError(_NOT_A_URL)
    given = _parameters(parts["query"] or "")
    for name in ("user", "password", "dbname"):
        if parts[name]:
            given.setdefault(name, _decode(parts[name]))
    if faults := [*_faults(given)]:
        raise ValueError("\n".join(faults))
    arguments: dict[str, Any] = {ARGUMENTS[name]: value for name, value in given.items() if name in ARGUMENTS}
    tls = {name: value for name, value in given.items() if name in TLS}
    if tls.get("sslrootcert") == "system":
        del tls["sslrootcert"]
        arguments["ssl"] = True  # asyncpg's name for: verify-full, with the system's certificates
    return Address(
        hosts=_hosts(parts["hosts"], given.get("host"), given.get("port")),
        arguments=arguments,
        tls=tls,
        session={name: value for name, value in given.items() if name in SESSION},
        host_timeout=_seconds(given.get("connect_timeout", "0")),
        dropped=[f"{name} has no effect: {DROPPED[name]}" for name in given if name in DROPPED],
    )


def _parameters(query: str) -> dict[str, str]:
    """The parameters by their names in libpq. Of a repeated one the last counts; an empty one counts as not given."""
    given = {}
    for parameter in filter(None, query.split("&")):
        name, separator, value = parameter.partition("=")
        if not separator:
            raise ValueError(f"the parameter {name} has no value")
        name, value = ALTERNATIVE_NAMES.get((name, value), (name, value))
        if value:
            given[_decode(name)] = _decode(value)
    return given


def _faults(given: dict[str, str]) -> list[str]:
    known = {"host", "port", "connect_timeout", *ARGUMENTS, *TLS, *SESSION, *DROPPED, *REFUSED}
    faults = [
        f"{name} is not a parameter of libpq; PostgreSQL's settings are set with options=-c%20name%3Dvalue"
        for name in given
        if name not in known
    ]
    for name, value in given.items():
        if name in VALUES and value not in VALUES[name]:
            faults.append(f"{name} must be one of {', '.join(VALUES[name])}")
        elif name in REFUSED and value not in REFUSED[name].harmless:
            faults.append(f"{name} is not possible: {REFUSED[name].reason}")
    if given.get("sslrootcert") == "system":
        if given.get("sslmode", "verify-full") != "verify-full":
            faults.append("sslrootcert=system is possible only with sslmode=verify-full")
        faults += [f"{name} is not possible with sslrootcert=system" for name in WITHOUT_SYSTEM if name in given]
    return faults


def _hosts(text: str, names: str | None, ports: str | None) -> list[Host]:
    """The hosts of the URL, or those of the parameters ``host`` and ``port``, which take precedence as in libpq."""
    hosts = [_host(item) for item in text.split(",")]
    if names:
        hosts = [Host(name.strip("[]") or None) for name in names.split(",")]
    if ports:
        numbers = [_port(port) for port in ports.split(",")]
        if len(numbers) == 1:
            numbers *= len(hosts)
        if len(numbers) != len(hosts):
            raise ValueError(f"port has {len(numbers)} values for {len(hosts)} hosts")
        hosts = [Host(host.name, port) for host, port in zip(hosts, numbers, strict=True)]
    return hosts


def _host(text: str) -> Host:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(_NOT_A_URL)
    return Host(_decode(match["ipv6"] or match["name"]) or None, _port(match["port"] or ""))


def _port(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise ValueError("port must be a whole number from 1 to 65535")
    return int(text)


def _seconds(text: str) -> float | None:
    """``connect_timeout``: as in libpq, zero and negative values set no limit."""
    try:
        return max(0, int(text)) or None
    except ValueError:
        raise ValueError("connect_timeout must be a whole number of seconds") from None


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 when it is percent-decoded") from None
