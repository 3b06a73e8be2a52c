"""`manman-status simulate` as a command: usage, ends, and what it says when nobody listens or
answers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from tests.complaints import complaints

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Command

SMALL = "--workers 3 --servers 1 --interval 1 --churn 0 --crash 0"


@pytest.fixture
async def channel(broker: str) -> AsyncIterator[AbstractChannel]:
    """A channel with the inbound exchange, and a queue that takes everything."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("internal_service_events", "topic", durable=True)
        queue = await channel.declare_queue("inbox", durable=True)
        await queue.bind(exchange, "#")
        yield channel


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--kill 3", "--kill: 3: it must be COUNT@TIME"),
        ("--kill 3@5s --kill x@5s", "--kill: x@5s: 'x' is no number of workers"),
        ("--kill-group eu-9@40%@60s", "--kill-group: eu-9@40%@60s: there is no group 'eu-9'"),
        ("--pause 5@30s", "--pause: 5@30s: it must be COUNT@TIME:DURATION"),
        ("--clock-skew far", "--clock-skew: far: 'far' is no time"),
        ("--crash 2", "--crash"),
        ("--for long", "--for"),
        ("--verify nowhere", "MANMAN_STATUS_URL must begin with http:// or https://"),
    ],
)
async def test_wrong_usage_is_named_in_one_line(
    manman_status: Command, arguments: str, named: str
) -> None:
    finished = await manman_status(
        "simulate", *arguments.split(), rabbitmq_url="amqp://127.0.0.1:1/"
    )
    assert finished.code == 2
    assert named in finished.err
    assert finished.err.count("\n") == 1


async def test_faults_may_be_ordered_several_times(
    manman_status: Command, broker: str, channel: AbstractChannel
) -> None:
    arguments = f"{SMALL} --seed 1 --kill 1@1.2s --kill 1@1.6s --duplicate --reorder --for 6s"
    finished = await manman_status("simulate", *arguments.split(), rabbitmq_url=broker)
    assert (finished.code, complaints(finished.err)) == (0, [])
    assert "2 were killed, 0 paused" in finished.out


async def test_unread_messages_are_named_once(
    manman_status: Command, broker: str, channel: AbstractChannel
) -> None:
    await channel.declare_queue("manman.status.lifecycle.0", durable=True)
    finished = await manman_status("simulate", *f"{SMALL} --for 2s".split(), rabbitmq_url=broker)
    assert finished.code == 0
    assert complaints(finished.err) == [
        "nobody reads manman.status.lifecycle.0: is a processor running?"
    ]


@pytest.mark.parametrize("bare", [True, False])
async def test_silent_api_is_named_and_verifies_nothing(
    manman_status: Command, broker: str, channel: AbstractChannel, bare: bool
) -> None:
    nowhere = "http://a-person:open-sesame-4711@127.0.0.1:1"
    arguments = [*f"{SMALL} --for 2s --verify".split(), *([] if bare else [nowhere])]
    settings = {"url": nowhere} if bare else {}
    finished = await manman_status("simulate", *arguments, rabbitmq_url=broker, **settings)
    assert finished.code == 1
    assert "nothing was verified: http://a-person:***@127.0.0.1:1 never answered" in finished.err
    assert finished.err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_all_workers_in_order(
    broker: str, channel: AbstractChannel, number: signal.Signals
) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MANMAN_STATUS_")
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "manman_status", "simulate", *SMALL.split()),
        env=environment | {"MANMAN_STATUS_RABBITMQ_URL": broker},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    inbox = await channel.get_queue("inbox")
    async with asyncio.timeout(120), inbox.iterator(no_ack=True) as letters:
        stopped = 0
        async for letter in letters:
            if b"HEARTBEAT" in letter.body and not stopped:
                process.send_signal(number)
            stopped += b"WORKER_STOPPED" in letter.body
            if process.returncode is not None or stopped:
                break
        out, err = await process.communicate()
    assert (process.returncode, complaints(err.decode())) == (0, [])
    assert b"heartbeats" in out
    assert stopped
