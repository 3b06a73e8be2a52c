"""`manman-status doctor` beside healthy servers and each way in which they can be ill."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

if TYPE_CHECKING:
    from tests.conftest import SharedRabbitMQ
    from tests.integration.cli.conftest import Command, Finished

EXCHANGES = (
    "internal_service_events",
    "external_service_events",
    "manman.status.control",
    "manman.status.dead",
)
QUEUES = (
    "manman.status.heartbeats.0",
    "manman.status.lifecycle.0",
    "manman.status.dropped",
    "manman.status.dead",
)


def verdicts(finished: Finished) -> dict[str, str]:
    """Subject → "ok" or "problem", the worst one where there are several."""
    found: dict[str, str] = {}
    for line in finished.out.splitlines():
        verdict, subject = line.split()[:2]
        found[subject] = max(verdict, found.get(subject, ""))
    return found


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def ignore(_message: AbstractIncomingMessage) -> None:
    pass


@pytest.fixture
async def topology(broker: str) -> AsyncIterator[AbstractChannel]:
    """Everything that the processor declares, with a consumer."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        for name in EXCHANGES:
            await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
        for name in QUEUES:
            queue = await channel.declare_queue(name, durable=True)
            if name.endswith(".0"):
                await queue.consume(ignore)
        yield channel


async def test_all_is_well(
    manman_status: Command, secret_database: str, secret_broker: str, topology: AbstractChannel
) -> None:
    finished = await manman_status(
        "doctor", database_url=secret_database, rabbitmq_url=secret_broker
    )
    assert (finished.code, finished.err) == (0, ""), finished.out
    assert set(verdicts(finished)) == {
        "settings",
        "database",
        "schema",
        "privileges",
        "counts",
        "watched",
        "broker",
        "exchange",
        "queue",
        "rights",
        "publishing",
    }
    assert re.search(r"PostgreSQL \d+", finished.out)
    assert re.search(r"RabbitMQ \d+\.\d+", finished.out)
    assert "manman.status.heartbeats.0: 0 messages, 1 consumer" in finished.out


async def test_everything_down_is_reported_at_once(manman_status: Command) -> None:
    finished = await manman_status(
        "doctor", database_url="postgresql://127.0.0.1:1/x", rabbitmq_url="amqp://127.0.0.1:1/"
    )
    assert finished.code == 1
    assert verdicts(finished) == {"settings": "ok", "database": "problem", "broker": "problem"}
    assert finished.err == "manman-status: 2 problems\n"


async def test_missing_urls_are_problems(manman_status: Command) -> None:
    finished = await manman_status("doctor")
    assert finished.code == 1
    assert "MANMAN_STATUS_DATABASE_URL is not set" in finished.out
    assert "MANMAN_STATUS_RABBITMQ_URL is not set" in finished.out


async def test_wrong_settings_are_reported_together(manman_status: Command) -> None:
    finished = await manman_status("doctor", port="eighty", log_level="loud")
    assert finished.code == 1
    assert [line.split()[:2] for line in finished.out.splitlines()] == [["problem", "settings"]] * 2


async def test_an_old_schema_names_the_remedy(manman_status: Command, empty_database: str) -> None:
    finished = await manman_status("doctor", "--role", "api", database_url=empty_database)
    assert finished.code == 1
    assert verdicts(finished) == {"settings": "ok", "database": "ok", "schema": "problem"}
    assert "run `manman-status migrate`" in finished.out


async def test_missing_privileges_are_named_as_the_role_needs_them(
    manman_status: Command, database: str
) -> None:
    await execute(
        database,
        "CREATE ROLE reader LOGIN",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
    )
    url = database.replace("manman@", "reader@")
    try:
        api = await manman_status("doctor", role="api", database_url=url)
        processor = await manman_status("doctor", role="processor", database_url=url)
    finally:
        await execute(database, "DROP OWNED BY reader", "DROP ROLE reader")
    assert api.code == 0, api.out
    assert verdicts(processor)["privileges"] == "problem"
    assert "reader lacks" in processor.out
    for privilege in ("UPDATE on workers", "CREATE on schema public", "ownership of transitions"):
        assert privilege in processor.out


async def test_a_database_that_takes_no_writes_serves_the_api_alone(
    manman_status: Command, database: str
) -> None:
    name = database.rpartition("/")[2]
    await execute(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    api = await manman_status("doctor", role="api", database_url=database)
    processor = await manman_status("doctor", role="processor", database_url=database)
    assert api.code == 0, api.out
    assert verdicts(processor)["database"] == "problem"


async def test_database_that_may_lose_commits_is_a_problem(
    manman_status: Command, database: str
) -> None:
    name = database.rpartition("/")[2]
    await execute(database, f"ALTER DATABASE {name} SET synchronous_commit = off")
    api = await manman_status("doctor", role="api", database_url=database)
    processor = await manman_status("doctor", role="processor", database_url=database)
    assert api.code == 0, api.out
    assert verdicts(processor)["database"] == "problem"
    assert "synchronous_commit off" in processor.out


async def test_wrong_broker_login_is_reported(manman_status: Command, broker: str) -> None:
    finished = await manman_status(
        "doctor", rabbitmq_url=broker.replace("guest:guest", "guest:wrong")
    )
    assert verdicts(finished)["broker"] == "problem"
    assert "RabbitMQ refused the login of user 'guest'" in finished.out


async def test_a_missing_virtual_host_is_named(manman_status: Command, broker: str) -> None:
    finished = await manman_status("doctor", rabbitmq_url=broker, virtual_host="nowhere")
    assert verdicts(finished)["broker"] == "problem"
    assert "RabbitMQ has no virtual host 'nowhere'" in finished.out


async def test_an_empty_broker_waits_for_its_first_processor(
    manman_status: Command, broker: str
) -> None:
    finished = await manman_status("doctor", rabbitmq_url=broker)
    assert verdicts(finished)["broker"] == "ok"
    for name in {*EXCHANGES, *QUEUES}:
        assert f"{name} is not there: the processor declares it when it starts" in finished.out


async def test_what_the_user_of_the_broker_may_do_is_shown(
    manman_status: Command,
    broker: str,
    rabbitmq: SharedRabbitMQ,
    topology: AbstractChannel,
    database: str,
) -> None:
    virtual_host = urlsplit(broker).path[1:]
    url = broker.replace("guest:guest", "confined:confined")
    named = {
        "configure": r"^manman\.status\.heartbeats",
        "write": r"_events$|^manman\.status\.control$",
        "read": "^$",
    }
    worker = {"exchange": "internal_service_events", "write": r"^worker\.7\.", "read": "^$"}
    operator = {"exchange": "manman.status.control", "write": r"^alert\.", "read": "^$"}
    async with httpx.AsyncClient(base_url=rabbitmq.management_url, timeout=30) as management:
        (
            await management.put("/api/users/confined", json={"password": "confined", "tags": ""})
        ).raise_for_status()
        (
            await management.put(f"/api/permissions/{virtual_host}/confined", json=named)
        ).raise_for_status()
        for each in (worker, operator):
            (
                await management.put(f"/api/topic-permissions/{virtual_host}/confined", json=each)
            ).raise_for_status()
    before = {name: await depth(topology, name) for name in QUEUES}
    finished = await manman_status("doctor", rabbitmq_url=url, database_url=database)
    assert finished.code == 1
    rights = [
        line.split(maxsplit=2) for line in finished.out.splitlines() if line.split()[1] == "rights"
    ]
    assert [verdict for verdict, _, _ in rights] == ["ok", "ok", "problem"]
    assert "may report for no worker, or for some only" in rights[0][2]
    assert rights[1][2] == "confined may send these control messages: alert.acknowledge"
    for missing in (
        "declare the exchange manman.status.dead",
        "declare the queue manman.status.lifecycle.0",
        "bind manman.status.lifecycle.0 to manman.status.control",
        "publish to manman.status.dead",
    ):
        assert missing in rights[2][2]
    for allowed in ("queue manman.status.heartbeats.0", "publish to external"):
        assert allowed not in rights[2][2]
    guest = await manman_status("doctor", rabbitmq_url=broker, database_url=database)
    assert "guest may report for every worker" in guest.out
    assert "silence.add, silence.remove, alert.acknowledge" in guest.out
    assert "guest may run a processor" in guest.out
    assert {name: await depth(topology, name) for name in QUEUES} == before


async def depth(channel: AbstractChannel, queue: str) -> int | None:
    return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count


async def test_a_queue_without_consumer_and_dead_letters_show(
    manman_status: Command, broker: str, database: str
) -> None:
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        for name in QUEUES:
            await channel.declare_queue(name, durable=True)
            await channel.default_exchange.publish(aio_pika.Message(b"x"), name)
    finished = await manman_status("doctor", rabbitmq_url=broker, database_url=database)
    assert (
        "problem  queue       manman.status.lifecycle.0: 1 message and no consumer" in finished.out
    )
    assert (
        "ok       queue       manman.status.dead: 1 message, see `manman-status dead list`"
        in finished.out
    )


async def test_workers_without_heartbeats_are_a_problem(
    manman_status: Command, database: str
) -> None:
    await execute(
        database,
        "UPDATE observation SET observed_through = now()",
        """INSERT INTO workers (worker_id, created_date, status, status_since, reason)
        SELECT id, since, 'RUNNING', since, 'reported'
          FROM generate_series(1, 3) id, (SELECT now() - interval '1 hour' AS since) s""",
    )
    finished = await manman_status("doctor", role="api", database_url=database)
    assert (finished.code, verdicts(finished)["watched"]) == (1, "problem")
    assert "3 workers report but never sent a heartbeat" in finished.out
    assert "Run `manman-status bridge`" in finished.out


async def test_wrong_counts_are_named_and_recounted(manman_status: Command, database: str) -> None:
    await execute(
        database,
        "ALTER TABLE workers DISABLE TRIGGER USER",
        """INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since,
            reason, labels)
        VALUES (1, now(), now(), 'RUNNING', now(), 'reported', '{"group": "eu-1"}')""",
        "ALTER TABLE workers ENABLE TRIGGER USER",
    )
    finished = await manman_status("doctor", role="api", database_url=database)
    assert finished.code == 1
    assert "wrong in 1 case, first worker RUNNING in group eu-1: 0 instead of 1" in finished.out
    finished = await manman_status("migrate", "--recount", database_url=database)
    assert (finished.code, finished.err) == (0, "")
    finished = await manman_status("doctor", role="api", database_url=database)
    assert (finished.code, verdicts(finished)["counts"]) == (0, "ok")


async def test_a_bridge_that_is_behind_is_named(manman_status: Command, database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute("INSERT INTO bridges (name) VALUES ('manman'), ('it''s')")
    await connection.close()
    finished = await manman_status(
        "doctor", database_url=database, manman_database_url="postgresql://127.0.0.1:1/x"
    )
    assert finished.code == 1
    assert "bridge 'manman' is behind" in finished.out
    assert "manman-status bridge remove manman" in finished.out
    assert verdicts(finished)["manman"] == "problem"
