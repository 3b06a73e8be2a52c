"""PostgreSQL's URL as libpq reads it: several hosts, and every parameter that a provider may put
there.

asyncpg sends parameters that it does not know to the server as settings, and the server refuses the
connection. This module honours such parameters, or drops those that do not matter here.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

IGNORED = frozenset(
    {
        "channel_binding",
        "client_encoding",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_issuer",
        "oauth_scope",
        "replication",
        "require_auth",
        "requirepeer",
        "requiressl",
        "scram_client_key",
        "scram_server_key",
        "sslcertmode",
        "sslcompression",
        "sslkeylogfile",
        "sslsni",
        "tcp_user_timeout",
    }
)
"""Parameters of libpq for which asyncpg has no counterpart. asyncpg never uses GSS encryption, and
always sends the server's name."""

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
SCHEME = re.compile(r"postgres(ql)?(\+\w+)?")
"""A driver's name (`postgresql+psycopg2`) belongs to SQLAlchemy's URLs, which people paste."""


class Place(NamedTuple):
    host: str
    port: int


class DatabaseUrl(NamedTuple):
    """A parsed URL. `dsn` is the URL for asyncpg. `places` are the hosts in their order when there
    are several, else empty. `prepared_statements` is None where the URL does not decide it."""

    dsn: str
    places: list[Place]
    session_attributes: str | None
    connect_seconds: int | None
    prepared_statements: bool | None
    application_name: str | None
    trusts_system: bool


def parse_database_url(url: str) -> DatabaseUrl:
    """Parse a URL. Raises ValueError with a text that holds none of the URL's secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("is not a URL") from None
    if not SCHEME.fullmatch(parts.scheme):
        raise ValueError("must begin with postgresql:// or postgres://")
    if "@" in parts.path or parts.fragment:
        # Else a part of the password would count, and be shown, as port or path.
        raise ValueError("is not a URL: a / or # in a password is written %2F or %23")
    try:
        given = (
            dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
            if parts.query
            else {}
        )
    except ValueError:
        raise ValueError("is not a URL: what follows ? must be name=value&name=value") from None
    query = {name: value for name, value in given.items() if name not in IGNORED and value}
    hosts, query_hosts = parts.netloc.rpartition("@")[2], query.get("host", "")
    ports = query.get("port", "")
    places = (
        _places(hosts, ports, quoted=True) if hosts else _places(query_hosts, ports, quoted=False)
    )
    if len(places) > 1:
        query.pop("host", None)
        query.pop("port", None)
    _check_choice(query, "sslmode", SSL_MODES)
    _check_choice(query, "target_session_attrs", SESSION_ATTRIBUTES)
    _check_choice(query, "prepared_statements", ("on", "off"))
    trusts_system = query.get("sslrootcert") == "system"
    if trusts_system:
        query.pop("sslrootcert")
        query.pop("sslmode", None)
    connect_timeout = query.pop("connect_timeout", "0")
    if not connect_timeout.isdecimal():
        raise ValueError("has a connect_timeout that is not a number of seconds")
    prepared = query.pop("prepared_statements", None)
    session_attributes = query.pop("target_session_attrs", None)
    application_name = query.pop("application_name", None)
    return DatabaseUrl(
        dsn=urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query), "")),
        places=places if len(places) > 1 else [],
        session_attributes=session_attributes,
        connect_seconds=int(connect_timeout) or None,
        prepared_statements=None if prepared is None else prepared == "on",
        application_name=application_name,
        trusts_system=trusts_system,
    )


def _check_choice(query: dict[str, str], name: str, choices: tuple[str, ...]) -> None:
    if query.get(name, choices[0]) not in choices:
        raise ValueError(f"has a {name} that is none of {', '.join(choices)}")


def _places(hosts: str, ports: str, *, quoted: bool) -> list[Place]:
    """Places in `a:1,b,[::1]:3`. `ports`, one for all or one each, are for hosts without one."""
    if not hosts:
        return []
    named = hosts.split(",")
    others = (ports or os.environ.get("PGPORT", "") or "5432").split(",")
    if len(others) == 1:
        others *= len(named)
    if len(others) != len(named):
        raise ValueError(f"names {len(named)} hosts but {len(others)} ports")
    return [_place(text, port, quoted=quoted) for text, port in zip(named, others, strict=True)]


def _place(text: str, default_port: str, *, quoted: bool) -> Place:
    match = re.fullmatch(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*))(?::(?P<port>\d*))?", text)
    if match is None and not quoted:
        match = re.fullmatch(
            r"(?P<v6>[0-9A-Fa-f:.]+)(?P<host>)(?P<port>)", text
        )  # host= names an IPv6 address bare
    port = match and (match["port"] or default_port)
    if not match or not port or not port.isdecimal() or int(port) > 65_535:
        raise ValueError("is not a URL: each host is name, name:port or [IPv6]:port")
    host = match["v6"] or match["host"]
    return Place(unquote(host) if quoted else host, int(port))
