"""``DATABASE_URL`` is read as libpq reads it."""

from typing import Any

import pytest

from service.database.address import Host, parse
from service.database.parameters import ARGUMENTS, DROPPED, REFUSED, SESSION, TLS, VALUES
from tests import libpq

HOSTS = [
    ("postgresql://h/d", [("h", None)]),
    ("postgresql://h:5433/d", [("h", 5433)]),
    ("postgres://u:p@h:5433", [("h", 5433)]),
    ("postgresql+asyncpg://u@h/d", [("h", None)]),
    ("postgresql://u@h1:5432,h2:5433/db?target_session_attrs=primary", [("h1", 5432), ("h2", 5433)]),
    ("postgresql://u@h1,h2/db", [("h1", None), ("h2", None)]),
    ("postgresql://u@h1,h2/db?port=6432", [("h1", 6432), ("h2", 6432)]),
    ("postgresql:///d?host=h1,h2&port=1,2", [("h1", 1), ("h2", 2)]),
    ("postgresql://u@[::1]:5433,[fe80::1%25eth0]/d", [("::1", 5433), ("fe80::1%eth0", None)]),
    ("postgresql:///d?host=::1", [("::1", None)]),
    ("postgresql://u@/d?host=/var/run/postgresql", [("/var/run/postgresql", None)]),
    ("postgresql://u@%2Fvar%2Frun%2Fpostgresql:5433/d", [("/var/run/postgresql", 5433)]),
    ("postgresql://u@h/d?host=/run/postgresql", [("/run/postgresql", None)]),
    ("postgresql:///d", [(None, None)]),
    ("postgresql://u@:5433/d", [(None, 5433)]),
    ("postgresql://u@h1,,h3/d", [("h1", None), (None, None), ("h3", None)]),
    ("postgresql://", [(None, None)]),
]

ARGUMENTS_OF_ASYNCPG: list[tuple[str, dict[str, Any]]] = [
    ("postgresql://h", {}),
    ("postgresql://u@h", {"user": "u"}),
    ("postgresql://u:@h/d", {"user": "u", "database": "d"}),
    ("postgresql://u:p%40s%2Fs%3Aw%20%23@h/d", {"user": "u", "password": "p@s/s:w #", "database": "d"}),
    ("postgresql://u:p#?+ss@h/d", {"user": "u", "password": "p#?+ss", "database": "d"}),
    ("postgresql://%C3%BC@h/my%20d", {"user": "ü", "database": "my d"}),
    ("postgresql://h?user=u&password=a+b&dbname=d", {"user": "u", "password": "a+b", "database": "d"}),
    ("postgresql://u:p@h/d?user=v&dbname=e", {"user": "v", "password": "p", "database": "e"}),
    ("postgresql://h?sslmode=disable&sslmode=require", {"ssl": "require"}),
    ("postgresql://h?ssl=true", {"ssl": "require"}),
    ("postgresql+asyncpg://h?ssl=verify-full", {"ssl": "verify-full"}),
    ("postgresql://h?sslrootcert=system", {"ssl": True}),
    ("postgresql://h?sslmode=verify-full&sslrootcert=system", {"ssl": True}),
    ("postgresql://h?target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
    ("postgresql://h?options=&passfile=/p", {"passfile": "/p"}),
]


@pytest.mark.parametrize(("url", "hosts"), HOSTS)
def test_hosts_are_read_in_every_form(url: str, hosts: list[tuple[str | None, int | None]]) -> None:
    assert parse(url).hosts == [Host(*host) for host in hosts]


@pytest.mark.parametrize(("url", "arguments"), ARGUMENTS_OF_ASYNCPG)
def test_parameters_become_arguments_of_asyncpg(url: str, arguments: dict[str, Any]) -> None:
    assert parse(url).arguments == arguments


# The others have a form that only SQLAlchemy knows.
@pytest.mark.parametrize("url", [url for url, _ in HOSTS + ARGUMENTS_OF_ASYNCPG if "+asyncpg" not in url])
def test_libpq_reads_the_same(url: str) -> None:
    address, theirs = parse(url), libpq.parse(url)

    assert address.arguments.get("user") == theirs.get("user")
    assert address.arguments.get("password") == theirs.get("password")
    assert address.arguments.get("database") == theirs.get("dbname")
    names, ports = theirs.get("host", "").split(","), theirs.get("port", "").split(",")
    assert [host.name or "" for host in address.hosts] == names
    assert [str(host.port or "") for host in address.hosts] == (ports * len(names) if len(ports) == 1 else ports)
    assert address.arguments.get("ssl") in {theirs.get("sslmode"), True}


def test_files_of_certificates_are_passed_as_they_are() -> None:
    address = parse("postgresql://h/d?sslmode=verify-ca&sslrootcert=/a%20b/c.crt&sslcert=c&sslkey=k&sslpassword=a%26b")

    assert address.tls == {"sslrootcert": "/a b/c.crt", "sslcert": "c", "sslkey": "k", "sslpassword": "a&b"}


def test_settings_of_the_session_are_sent_to_postgresql() -> None:
    address = parse("postgresql://h?application_name=mine&options=-c%20search_path%3Dapp")

    assert address.session == {"application_name": "mine", "options": "-c search_path=app"}


@pytest.mark.parametrize(("text", "seconds"), [("3", 3), ("0", None), ("-1", None)])
def test_connect_timeout_is_the_time_for_one_host(text: str, seconds: float | None) -> None:
    assert parse(f"postgresql://h?connect_timeout={text}").host_timeout == seconds


def test_every_parameter_of_libpq_is_passed_or_dropped_or_refused() -> None:
    treated = ["host", "port", "connect_timeout", *ARGUMENTS, *TLS, *SESSION, *DROPPED, *REFUSED]

    assert set(libpq.parameters()) <= set(treated)
    assert len(treated) == len(set(treated))


@pytest.mark.parametrize("name", DROPPED)
def test_a_parameter_without_an_effect_is_named_with_the_reason(name: str) -> None:
    assert parse(f"postgresql://h?{name}=x").dropped == [f"{name} has no effect: {DROPPED[name]}"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_parameter_whose_demand_asyncpg_cannot_meet_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is not possible: \w+"):
        parse(f"postgresql://h?{name}=demand")
    for value in REFUSED[name].harmless:
        assert parse(f"postgresql://h?{name}={value}").arguments == {}


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        *((f"{name}=wrong", f"{name} must be one of {', '.join(values)}") for name, values in VALUES.items()),
        ("target_session_attrs=standby", "target_session_attrs must be one of any, primary, read-write"),
        ("schema=public", "schema is not a parameter of libpq; PostgreSQL's settings are set with options=-c"),
        ("sslmode", "the parameter sslmode has no value"),
        ("connect_timeout=soon", "connect_timeout must be a whole number of seconds"),
        ("port=1,2", "port has 2 values for 1 hosts"),
        ("port=70000", "port must be a whole number from 1 to 65535"),
        ("sslrootcert=system&sslmode=require", "sslrootcert=system is possible only with sslmode=verify-full"),
        ("sslrootcert=system&sslcert=c", "sslcert is not possible with sslrootcert=system"),
        ("user=%FF", "is not UTF-8 when it is percent-decoded"),
    ],
)
def test_an_invalid_parameter_is_reported(query: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        parse(f"postgresql://user:hidden@h/d?{query}")
    assert "hidden" not in str(caught.value)


def test_all_invalid_parameters_are_reported_at_once() -> None:
    with pytest.raises(ValueError, match="sslmode") as caught:
        parse("postgresql://h?sslmode=never&channel_binding=require&schema=public")

    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "schema",
        "sslmode",
        "channel_binding",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hid@den:x@h/d",
        "postgresql://u:hid/den@h/d",
        "postgresql://u:hidden@[::1/d",
        "postgresql://u:hidden@::1/d",
        "postgresql://u:hidden%00@h/d",
        "postgresql://u:hidden@h:port/d",
        "mysql://u:hidden@h/d",
    ],
)
def test_no_message_shows_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"must begin|is not a valid URL|port must be") as caught:
        parse(url)
    assert "hid" not in str(caught.value)
    assert "den" not in str(caught.value)


def test_an_address_does_not_show_its_password() -> None:
    assert "hidden" not in repr(parse("postgresql://u:hidden@h/d"))
