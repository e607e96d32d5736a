"""The parameters of libpq's connection URIs, and what this service does with each of them."""

from typing import Final

from msgspec import Struct

# Other spellings, which libpq (the first) or SQLAlchemy accept.
ALTERNATIVE_NAMES: Final = {
    ("ssl", "true"): ("sslmode", "require"),
    **{
        ("ssl", mode): ("sslmode", mode)
        for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
    },
}

# Passed to asyncpg, by the names of its arguments.
ARGUMENTS: Final = {
    "user": "user",
    "password": "password",
    "dbname": "database",
    "database": "database",
    "passfile": "passfile",
    "sslmode": "ssl",
    "target_session_attrs": "target_session_attrs",
    "krbsrvname": "krbsrvname",
    "gsslib": "gsslib",
}

# Passed to asyncpg in a URL, because it has no argument for them.
TLS: Final = (
    "sslnegotiation",
    "sslrootcert",
    "sslcrl",
    "sslcert",
    "sslkey",
    "sslpassword",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)

# sslrootcert=system makes asyncpg ignore these.
WITHOUT_SYSTEM: Final = tuple(name for name in TLS if name not in {"sslrootcert", "sslnegotiation"})

# Sent to PostgreSQL.
SESSION: Final = ("application_name", "options")

# `host` and `port` are the hosts; `connect_timeout` is the time for each of them, within DATABASE_TIMEOUT_SECONDS.

VALUES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "read-write"),  # the service writes
    "gsslib": ("gssapi",),
}

_TCP: Final = "the service sets the options of TCP itself"

# Without an effect, whatever the value.
DROPPED: Final = {
    "client_encoding": "the service always uses UTF-8",
    "fallback_application_name": "the service has a name of its own, and application_name replaces it",
    "keepalives": _TCP,
    "keepalives_idle": _TCP,
    "keepalives_interval": _TCP,
    "keepalives_count": _TCP,
    "tcp_user_timeout": _TCP,
    "load_balance_hosts": "all connections go to the primary",
    "sslcompression": "TLS compression is insecure and is never used",
    "sslkeylogfile": "the environment variable SSLKEYLOGFILE has this effect",
}


class Refused(Struct, frozen=True):
    """A parameter whose demand asyncpg cannot meet. Those that protect the connection must not be dropped silently."""

    reason: str
    harmless: tuple[str, ...] = ()  # the values that demand nothing


_SERVICE: Final = Refused("asyncpg ignores a service that it does not find; write its parameters into DATABASE_URL")
_OAUTH: Final = Refused("asyncpg does not log in with OAuth; use a password or a certificate")

REFUSED: Final = {
    "channel_binding": Refused(
        "asyncpg has no channel binding; remove it, and let sslmode=verify-full&sslrootcert=system verify the server",
        ("disable", "prefer"),
    ),
    "gssencmode": Refused("asyncpg does not encrypt with GSSAPI; use sslmode=require or more", ("disable", "prefer")),
    "gssdelegation": Refused("asyncpg does not delegate GSSAPI credentials", ("0",)),
    "hostaddr": Refused("asyncpg looks up the host itself; write the address in place of the host name"),
    "max_protocol_version": Refused("asyncpg speaks version 3.0 of the protocol", ("3.0", "3.2", "latest")),
    "min_protocol_version": Refused("asyncpg speaks version 3.0 of the protocol", ("3.0",)),
    "replication": Refused("the service needs an ordinary connection", ("false", "off", "no", "0")),
    "require_auth": Refused(
        "asyncpg uses the method that the server asks for; remove it, and let sslmode=verify-full verify the server"
    ),
    "requirepeer": Refused(
        "asyncpg does not check who owns a Unix socket; use a directory that only that user can write"
    ),
    "scram_client_key": Refused("asyncpg needs the password"),
    "scram_server_key": Refused("asyncpg needs the password"),
    "service": _SERVICE,
    "servicefile": _SERVICE,
    "sslcertmode": Refused("asyncpg sends a client certificate if there is one and the server asks for it", ("allow",)),
    "sslcrldir": Refused("asyncpg reads revoked certificates from a file only; use sslcrl"),
    "sslsni": Refused("asyncpg always sends the host name", ("1",)),
    "oauth_issuer": _OAUTH,
    "oauth_client_id": _OAUTH,
    "oauth_client_secret": _OAUTH,
    "oauth_scope": _OAUTH,
}
