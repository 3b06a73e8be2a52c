"""Refusals of RabbitMQ in one plain sentence each, and what works in spite of them."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from manman_status.dev.ports import free_port
from tests.conftest import SharedRabbitMQ
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.messaging import Publisher

OWN_QUEUES = r"^manman\.status\.(heartbeats|lifecycle)\..+"


@pytest.fixture
async def user(rabbitmq: SharedRabbitMQ, broker: str) -> AsyncIterator[Any]:
    """Makes a user of the test's virtual host with these permissions; the URL for it, and its
    name."""
    async with httpx.AsyncClient(base_url=rabbitmq.management_url, timeout=30) as management:
        names = []

        async def make(*, configure: Any, write: str = ".*", read: str = ".*") -> tuple[Any, Any]:
            name = f"user-{uuid.uuid4().hex[:8]}"
            body = {"password": "secret", "tags": ""}
            (await management.put(f"/api/users/{name}", json=body)).raise_for_status()
            names.append(name)
            permissions = {"configure": configure, "write": write, "read": read}
            place = f"/api/permissions/{urlsplit(broker).path[1:]}/{name}"
            (await management.put(place, json=permissions)).raise_for_status()
            return broker.replace("guest:guest", f"{name}:secret"), name

        yield make
        for name in names:
            await management.delete(f"/api/users/{name}")


async def says(
    start_role: Callable[..., Role],
    eventually: Eventually,
    sentence: Any,
    *,
    database: str,
    url: str,
) -> None:
    """The processor says so, waits, and ends when it gets the signal."""
    role = start_role("processor", database_url=database, rabbitmq_url=url)
    await eventually(lambda: sentence in role.log)
    await asyncio.sleep(3)
    assert role.log.count(sentence) <= 3, "one line a minute for each connection"
    assert "Traceback" not in role.log
    role.stop(within_seconds=10)


async def test_a_missing_virtual_host_is_named(
    start_role: Callable[..., Role],
    eventually: Eventually,
    database: str,
    rabbitmq: SharedRabbitMQ,
) -> None:
    await says(
        start_role,
        eventually,
        "RabbitMQ has no virtual host 'nowhere'",
        database=database,
        url=f"{rabbitmq.url}nowhere",
    )


async def test_a_refused_login_is_named(
    start_role: Callable[..., Role], eventually: Eventually, database: str, broker: str
) -> None:
    url = broker.replace("guest:guest", "guest:wrong")
    await says(
        start_role,
        eventually,
        "RabbitMQ refused the login of user 'guest'",
        database=database,
        url=url,
    )


async def test_a_virtual_host_that_a_user_may_not_use_is_named(
    start_role: Callable[..., Role],
    eventually: Eventually,
    database: str,
    rabbitmq: SharedRabbitMQ,
    user: Any,
) -> None:
    url, name = await user(configure=".*")
    url = f"{url.rpartition('/')[0]}/%2F"
    sentence = f"user '{name}' may not use the virtual host '/'"
    await says(start_role, eventually, sentence, database=database, url=url)


async def test_a_refused_permission_is_named(
    start_role: Callable[..., Role], eventually: Eventually, database: str, user: Any
) -> None:
    url, name = await user(configure="^$")
    sentence = f"user '{name}' may not configure exchange 'internal_service_events'"
    await says(start_role, eventually, sentence, database=database, url=url)


async def test_a_port_that_is_not_rabbitmq_is_named(
    start_role: Callable[..., Role], eventually: Eventually, database: str, broker: str
) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(60)

        def answer_as_http() -> None:
            for _ in range(3):
                with listener.accept()[0] as connection:
                    connection.recv(8)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = asyncio.create_task(asyncio.to_thread(answer_as_http))
        url = f"amqp://guest:guest@127.0.0.1:{port}/"
        role = start_role("processor", database_url=database, rabbitmq_url=url)
        await eventually(
            lambda: (
                f"127.0.0.1:{port} closed the connection; if it does so each time, is it RabbitMQ's"
                " port for amqp?" in role.log
            )
        )
        role.stop(within_seconds=10)
        await answering


async def test_user_with_few_rights_runs_when_all_is_declared(
    start_processor: StartRole,
    user: Any,
    publish: Publisher,
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    """It may configure only the queues of its own."""
    (await start_processor()).stop()
    url, _ = await user(configure=OWN_QUEUES)
    processor = await start_processor(rabbitmq_url=url)
    await publish(
        {"command_type": "SERVER_STARTED", "command_args": ["1", "7", "3"]},
        "game_server_instance.1.lifecycle",
    )
    await publish(b"{", "worker.7.lifecycle")
    await eventually(lambda: rows("SELECT 1 FROM server_instances"))
    await eventually(
        lambda: rows("SELECT 1 FROM observation WHERE observed_through > now() - interval '5 s'")
    )
    await eventually(dead_letters)
    assert processor.returncode is None


async def test_a_queue_with_other_arguments_is_refused_at_the_start(
    start_processor: StartRole, start_role: Callable[..., Role], database: str, broker: str
) -> None:
    (await start_processor()).stop()
    role = start_role(
        "processor", database_url=database, rabbitmq_url=broker, heartbeat_ttl_seconds=61
    )
    assert role.wait(within_seconds=60) == 1
    assert (
        "manman-status: queue 'manman.status.heartbeats.0' exists with other arguments:"
        " PRECONDITION_FAILED" in role.log
    )
