"""ManMan's own variables for its servers, read where ours name no such server.

A server is described by one family of variables, and families are never mixed: a database or a
broker that our settings name is used as they name it, whatever else the environment holds. Of the
families below the first that names the server counts, and it alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

DATABASE_VARIABLES = ("MANMAN_POSTGRES_URL", "POSTGRES_URL")
BROKER_PREFIXES = ("MANMAN_RABBITMQ_", "RABBITMQ_")
"""A family of the broker counts when it gives its HOST."""
ENVIRONMENT = "APP_ENV"
"""The first family's virtual host is `manman-<APP_ENV>`, the second names it in RABBITMQ_VHOST."""

SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
SERVICE_LINK_NAME = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


class Found(NamedTuple):
    """A server's URL, and the names of the variables that gave it."""

    url: str
    names: tuple[str, ...]


def is_service_link(name: str, value: str) -> bool:
    """True for a variable that Kubernetes sets for each Service of the namespace. One of a Service
    `manman-status` is called like a setting: MANMAN_STATUS_PORT."""
    is_port = name.endswith("_PORT") and SERVICE_LINK_VALUE.match(value)
    return bool(is_port or SERVICE_LINK_NAME.fullmatch(name))


def find_database(environ: Mapping[str, str]) -> Found | None:
    for name in DATABASE_VARIABLES:
        if url := environ.get(name, "").strip():
            return Found(url, (name,))
    return None


def find_broker(environ: Mapping[str, str]) -> Found | None:
    """Raises ValueError with the name of a variable and what is wrong with it."""
    for prefix in BROKER_PREFIXES:
        if environ.get(f"{prefix}HOST", "").strip():
            return _broker_of(prefix, environ)
    return None


def _broker_of(prefix: str, environ: Mapping[str, str]) -> Found:
    names: list[str] = []

    def given(name: str) -> str:
        value = environ.get(name, "").strip()
        if not value or is_service_link(name, value):
            return ""
        names.append(name)
        return value

    host = given(f"{prefix}HOST")
    if re.search(r"[/@?#\s]", host):
        raise ValueError(f"{prefix}HOST must be the name of a host")
    port = given(f"{prefix}PORT")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) <= 65_535):
        raise ValueError(f"{prefix}PORT must be 1 to 65535, not {port[:40]!r}")
    user, password = given(f"{prefix}USER") or "guest", given(f"{prefix}PASSWORD") or "guest"
    uses_tls = _is_true(f"{prefix}ENABLE_SSL", given(f"{prefix}ENABLE_SSL"))
    hostname = given(f"{prefix}SSL_HOSTNAME") if uses_tls else ""
    if prefix == BROKER_PREFIXES[0]:
        environment = given(ENVIRONMENT)
        virtual_host = f"manman-{environment}" if environment else "/"
    else:
        virtual_host = given(f"{prefix}VHOST") or "/"
    url = f"{'amqps' if uses_tls else 'amqp'}://{quote(user, safe='')}:{quote(password, safe='')}"
    url += f"@{f'[{host}]' if host.count(':') > 1 else host}{port and f':{port}'}"
    url += f"/{quote(virtual_host, safe='')}"
    url += f"?server_hostname={quote(hostname, safe='')}" if hostname else ""
    return Found(url, tuple(names))


def _is_true(name: str, text: str) -> bool:
    """A switch as ManMan's command line reads it."""
    if text.lower() in {"", "0", "f", "false", "n", "no", "off"}:
        return False
    if text.lower() in {"1", "t", "true", "y", "yes", "on"}:
        return True
    raise ValueError(f"{name} must be true or false, not {text[:40]!r}")
