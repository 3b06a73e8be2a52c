"""`manman-status publish` and `simulate`: what arrives on a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue

from manman_status.domain.events import (
    Heartbeat,
    ReportedEvent,
    ServerStarted,
    ServerStopped,
    WorkerStopped,
)
from manman_status.wire.inbound import decode
from tests.complaints import complaints

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Command


@pytest.fixture
async def inbox(broker: str) -> AsyncIterator[AbstractQueue]:
    """A queue with everything that is sent to the inbound exchange."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("internal_service_events", "topic", durable=True)
        queue = await channel.declare_queue("inbox", durable=True)
        await queue.bind(exchange, "#")
        yield queue


async def received(inbox: AbstractQueue) -> list[tuple[str, ReportedEvent]]:
    letters = []
    while letter := await inbox.get(no_ack=True, fail=False):
        letters += [(letter.routing_key or "", event) for event in decode(letter.body).events]
    return letters


async def test_each_event_arrives_where_the_contract_says(
    manman_status: Command, broker: str, inbox: AbstractQueue
) -> None:
    for arguments in (
        (
            "heartbeat 7 --interval 2 --label group:eu-1 --label a=b:c --label d:e=f --server 31:3"
            " --server 32"
        ),
        "heartbeat 7 --no-servers --incarnation 5 --seq 9",
        "started 7 --server 31 --config 3",
        "stopped 7 --server 31 --exit-code -9",
        "stopped 7",
    ):
        finished = await manman_status("publish", *arguments.split(), rabbitmq_url=broker)
        assert finished.code == 0, finished.err
        assert "internal_service_events" in finished.out
    keys, events = zip(*await received(inbox), strict=True)
    assert keys == (
        *["worker.7.heartbeat"] * 2,
        *["game_server_instance.31.lifecycle"] * 2,
        "worker.7.lifecycle",
    )
    beat, empty, started, ended, stopped = events
    assert isinstance(beat, Heartbeat)
    assert beat.servers is not None
    assert [entry.instance_id for entry in beat.servers.list_entries()] == [31, 32]
    assert (beat.interval_seconds, beat.labels, beat.incarnation) == (
        2.0,
        {"group": "eu-1", "a": "b:c", "d": "e=f"},
        None,
    )
    assert isinstance(empty, Heartbeat)
    assert (empty.incarnation, empty.seq) == (5, 9)
    assert empty.servers is not None
    assert empty.servers.list_entries() == ()
    assert isinstance(started, ServerStarted)
    assert (started.instance_id, started.worker_id, started.game_server_config_id) == (31, 7, 3)
    assert isinstance(ended, ServerStopped)
    assert ended.exit_code == -9
    assert isinstance(stopped, WorkerStopped)


async def test_an_event_that_no_queue_takes_is_a_failure(
    manman_status: Command, broker: str
) -> None:
    """First there is no exchange at all, then one without a queue."""
    first = await manman_status("publish", "heartbeat", "7", rabbitmq_url=broker)
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        await channel.declare_exchange("internal_service_events", "topic", durable=True)
    second = await manman_status("publish", "heartbeat", "7", rabbitmq_url=broker)
    for finished in (first, second):
        assert (finished.code, finished.out) == (1, "")
        assert finished.err.startswith("manman-status: No queue takes worker.7.heartbeat")
        assert finished.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("heartbeat", "0"), "0"),
        (("heartbeat", "abc"), "abc"),
        (("heartbeat", str(2**63)), str(2**63)),
        (("heartbeat", "7", "--label", "group"), "--label group"),
        (("heartbeat", "7", "--label", ":eu-1"), "--label :eu-1"),
        (("heartbeat", "7", "--server", "31:x"), "--server 31:x"),
        (("heartbeat", "7", "--server", "-1"), "-1"),
        (("stopped", "7", "--server", "0"), "0"),
    ],
)
async def test_wrong_usage_is_named_and_nothing_is_sent(
    manman_status: Command, arguments: tuple[str, ...], named: str
) -> None:
    finished = await manman_status("publish", *arguments, rabbitmq_url="amqp://127.0.0.1:1/")
    assert finished.code == 2
    assert named in finished.err
    assert finished.err.count("\n") == 1


async def test_a_simulated_fleet_is_alive_and_ends_gracefully(
    manman_status: Command, broker: str, inbox: AbstractQueue
) -> None:
    arguments = (
        "--workers 3 --first-worker 5 --servers 2 --interval 1 --churn 0 --crash 0 --seed 1"
        " --for 8s"
    )
    finished = await manman_status("simulate", *arguments.split(), rabbitmq_url=broker)
    assert (finished.code, complaints(finished.err)) == (0, [])
    events = [event for _, event in await received(inbox)]
    beats = [event for event in events if type(event) is Heartbeat]
    assert {beat.worker_id for beat in beats} == {5, 6, 7}
    assert len(beats) >= 3
    assert sum(isinstance(event, ServerStarted) for event in events) == 6
    assert sum(isinstance(event, ServerStopped) for event in events) == 6
    assert sum(isinstance(event, WorkerStopped) for event in events) == 3
