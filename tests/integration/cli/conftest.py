"""Commands as people run them: child processes with nothing but an environment."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from tests.conftest import SharedRabbitMQ, role_environment

SECRET = "open-sesame-4711"
USER = "a-person"


class Finished(NamedTuple):
    code: int
    out: str
    err: str


class Command(Protocol):
    async def __call__(self, *arguments: str, **settings: object) -> Finished: ...


def with_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{USER}:{SECRET}@{parts.hostname}:{parts.port}"))


@pytest.fixture
def secret_database(database: str) -> str:
    """The test's database, by a URL with a password (which the server does not check)."""
    return database.replace("@", f":{SECRET}@", 1)


@pytest.fixture
def secret_broker(broker: str, rabbitmq: SharedRabbitMQ) -> str:
    """The test's virtual host, by a URL with a password that is checked."""
    virtual_host = urlsplit(broker).path[1:]
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    with httpx.Client(base_url=rabbitmq.management_url, timeout=30) as management:
        management.put(
            f"/api/users/{USER}", json={"password": SECRET, "tags": ""}
        ).raise_for_status()
        management.put(
            f"/api/permissions/{virtual_host}/{USER}", json=everything
        ).raise_for_status()
    return with_login(broker)


@pytest.fixture
def manman_status() -> Callable[..., object]:
    """Runs a command to its end. Whatever it says, it never says the password."""

    async def run(*arguments: str, **settings: object) -> Finished:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "manman_status", *arguments),
            env=role_environment(**settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert SECRET.encode() not in out + err
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    return run
