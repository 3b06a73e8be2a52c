"""`manman-status dead` with letters from the processor's hand and from the broker's own."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractQueue
from pamqp.common import FieldTable

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Command
    from tests.kinds import Eventually

DEAD = "manman.status.dead"


@pytest.fixture
async def channel(broker: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(broker) as connection:
        yield await connection.channel()


@pytest.fixture
async def dead_queue(channel: AbstractChannel) -> AbstractQueue:
    exchange = await channel.declare_exchange(DEAD, aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(DEAD, durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(exchange, "#")
    return queue


@pytest.fixture
async def arrivals(channel: AbstractChannel) -> AbstractQueue:
    """Takes what workers send to their lifecycle keys, as a processor would."""
    exchange = await channel.declare_exchange(
        "internal_service_events", aio_pika.ExchangeType.TOPIC, durable=True
    )
    queue = await channel.declare_queue("arrivals", durable=True)
    await queue.bind(exchange, "worker.*.lifecycle")
    return queue


async def bury(
    channel: AbstractChannel,
    body: bytes,
    *,
    key: str = "worker.7.lifecycle",
    came_by: str = "internal_service_events",
) -> str:
    """Bury a letter as the processor does; returns its id."""
    letter_id = str(uuid.uuid4())
    headers: dict[str, Any] = {
        "x-manman-error": "command_type: unknown value 'DANCE'",
        "x-manman-queue": "manman.status.lifecycle.0",
        "x-manman-exchange": came_by,
        "x-manman-routing-key": key,
        "tenant": "kept",
    }
    message = aio_pika.Message(
        body, headers=headers, message_id=letter_id, content_type="application/json"
    )
    exchange = await channel.get_exchange(DEAD)
    await exchange.publish(message, key)
    return letter_id


async def listed(manman_status: Command, broker: str) -> list[dict[str, Any]]:
    finished = await manman_status("dead", "list", "--json", rabbitmq_url=broker)
    assert finished.code == 0, finished.err
    letters: list[dict[str, Any]] = json.loads(finished.out)
    return letters


async def test_looking_neither_takes_nor_reorders(
    manman_status: Command, secret_broker: str, channel: AbstractChannel, dead_queue: AbstractQueue
) -> None:
    ids = [await bury(channel, b"%d" % number) for number in range(50)]
    for _ in range(3):
        assert [letter["id"] for letter in await listed(manman_status, secret_broker)] == ids
        assert (
            await manman_status("dead", "list", "--limit", "3", rabbitmq_url=secret_broker)
        ).code == 0
        assert (await manman_status("dead", "show", ids[20], rabbitmq_url=secret_broker)).code == 0


async def test_a_letter_says_why_it_died_and_where_it_came_from(
    manman_status: Command, secret_broker: str, channel: AbstractChannel, dead_queue: AbstractQueue
) -> None:
    letter_id = await bury(channel, b'{"command_type": "DANCE"}')
    [letter] = await listed(manman_status, secret_broker)
    assert letter == {
        "id": letter_id,
        "at": None,
        "error": "command_type: unknown value 'DANCE'",
        "queue": "manman.status.lifecycle.0",
        "exchange": "internal_service_events",
        "routing_key": "worker.7.lifecycle",
        "bytes": 25,
    }
    table = await manman_status("dead", "list", rabbitmq_url=secret_broker)
    assert letter_id in table.out
    assert "1 of 1" in table.out
    shown = await manman_status("dead", "show", letter_id, rabbitmq_url=secret_broker)
    assert "error: command_type: unknown value 'DANCE'" in shown.out
    assert '{"command_type": "DANCE"}' in shown.out


async def test_replayed_letter_arrives_as_it_was_sent(
    manman_status: Command,
    secret_broker: str,
    channel: AbstractChannel,
    dead_queue: AbstractQueue,
    arrivals: AbstractQueue,
) -> None:
    ids = [await bury(channel, b"%d" % number) for number in range(3)]
    finished = await manman_status("dead", "replay", ids[1], rabbitmq_url=secret_broker)
    assert (finished.code, finished.out) == (0, "1 sent\n")
    arrived = await arrivals.get(timeout=5)
    assert (arrived.body, arrived.routing_key, arrived.message_id) == (
        b"1",
        "worker.7.lifecycle",
        ids[1],
    )
    assert arrived.headers == {"tenant": "kept"}
    assert arrived.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert [letter["id"] for letter in await listed(manman_status, secret_broker)] == [
        ids[0],
        ids[2],
    ]


async def test_all_are_replayed_in_their_order(
    manman_status: Command,
    secret_broker: str,
    channel: AbstractChannel,
    dead_queue: AbstractQueue,
    arrivals: AbstractQueue,
) -> None:
    for number in range(20):
        await bury(channel, b"%d" % number)
    finished = await manman_status("dead", "replay", "--all", rabbitmq_url=secret_broker)
    assert (finished.code, finished.out) == (0, "20 sent\n")
    assert [int((await arrivals.get(timeout=5)).body) for _ in range(20)] == list(range(20))
    assert await listed(manman_status, secret_broker) == []


@pytest.mark.parametrize(
    ("key", "came_by", "why"),
    [
        ("nobody.listens", "internal_service_events", "NO_ROUTE"),
        ("any", "no_such_exchange", "NOT_FOUND"),
    ],
)
async def test_unroutable_letter_stays_and_stops_no_other(
    key: str,
    came_by: str,
    why: str,
    manman_status: Command,
    secret_broker: str,
    channel: AbstractChannel,
    dead_queue: AbstractQueue,
    arrivals: AbstractQueue,
) -> None:
    """A letter that no queue accepts stays in the dead-letter queue."""
    stays = await bury(channel, b"x", key=key, came_by=came_by)
    await bury(channel, b"y")
    finished = await manman_status("dead", "replay", "--all", rabbitmq_url=secret_broker)
    assert finished.code == 1
    assert "1 sent, 1 stay" in finished.err
    assert why in finished.err
    assert [letter["id"] for letter in await listed(manman_status, secret_broker)] == [stays]


async def test_dead_letter_of_the_broker_is_replayed(
    manman_status: Command,
    secret_broker: str,
    channel: AbstractChannel,
    dead_queue: AbstractQueue,
) -> None:
    """The letter exceeded the delivery limit: it carries x-death, and here no message_id."""
    exchange = await channel.declare_exchange(
        "internal_service_events", aio_pika.ExchangeType.TOPIC, durable=True
    )
    arguments: FieldTable = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": DEAD,
        "x-delivery-limit": 1,
    }
    source = await channel.declare_queue("source", durable=True, arguments=arguments)
    await source.bind(exchange, "worker.*.lifecycle")
    await exchange.publish(aio_pika.Message(b"heavy"), "worker.8.lifecycle")
    for _ in range(2):
        await (await source.get(timeout=5)).nack()
    [letter] = await listed(manman_status, secret_broker)
    assert letter.pop("at").endswith("Z")
    letter_id = letter.pop("id")
    assert letter == {
        "error": "delivery_limit",
        "queue": "source",
        "exchange": "internal_service_events",
        "routing_key": "worker.8.lifecycle",
        "bytes": 5,
    }
    assert (await manman_status("dead", "replay", letter_id, rabbitmq_url=secret_broker)).code == 0
    again = await source.get(timeout=5)
    assert (again.body, again.routing_key) == (b"heavy", "worker.8.lifecycle")
    assert "x-death" not in again.headers


async def test_replayed_letter_may_die_again(
    manman_status: Command,
    broker: str,
    processor: object,
    channel: AbstractChannel,
    eventually: Eventually,
) -> None:
    """`dead list` finds it, and one that is still not understood dies again."""

    async def buried() -> list[dict[str, Any]]:
        return await listed(manman_status, broker)

    exchange = await channel.get_exchange("internal_service_events")
    await exchange.publish(aio_pika.Message(b'{"command_type": "DANCE"}'), "worker.7.lifecycle")
    [letter] = await eventually(buried)
    assert (letter["queue"], letter["exchange"], letter["routing_key"], letter["bytes"]) == (
        "manman.status.lifecycle.0",
        "internal_service_events",
        "worker.7.lifecycle",
        25,
    )
    assert "DANCE" in letter["error"]
    assert (await manman_status("dead", "replay", letter["id"], rabbitmq_url=broker)).code == 0
    [again] = await eventually(buried)
    assert again["id"] != letter["id"]
    assert {**again, "id": None, "at": None} == {**letter, "id": None, "at": None}


async def test_what_a_letter_says_cannot_drive_the_terminal(
    manman_status: Command, secret_broker: str, channel: AbstractChannel, dead_queue: AbstractQueue
) -> None:
    letter_id = await bury(channel, b"\x1b[2J\xff[red]", key="worker.\x1b[31m.lifecycle")
    shown = await manman_status("dead", "show", letter_id, rabbitmq_url=secret_broker)
    table = await manman_status("dead", "list", rabbitmq_url=secret_broker)
    assert "\x1b" not in shown.out + table.out
    assert r"\xff[red]" in shown.out


@pytest.mark.parametrize("verb", ["show", "replay"])
async def test_an_unknown_letter_fails_in_one_line(
    verb: str, manman_status: Command, secret_broker: str, dead_queue: AbstractQueue
) -> None:
    finished = await manman_status("dead", verb, "nobody", rabbitmq_url=secret_broker)
    assert (finished.code, finished.out) == (1, "")
    assert finished.err == "manman-status: no dead letter has the ID nobody\n"


async def test_without_the_queue_it_says_who_makes_it(
    manman_status: Command, secret_broker: str
) -> None:
    finished = await manman_status("dead", "list", rabbitmq_url=secret_broker)
    assert finished.code == 1
    assert "there is no queue manman.status.dead" in finished.err


@pytest.mark.parametrize("arguments", [(), ("an-id", "--all")])
async def test_replay_wants_one_id_or_all(
    arguments: tuple[str, ...], manman_status: Command
) -> None:
    finished = await manman_status("dead", "replay", *arguments, rabbitmq_url="amqp://127.0.0.1:1/")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err == "manman-status: dead replay wants one ID, or --all\n"
