"""Heartbeats spread over several queues, each read by one processor at a time: nobody is lost for
it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import ChannelNotFoundEntity

from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from manman_status.wire.topology import HEARTBEAT_MAX_BYTES, Topology
from tests.conftest import SharedRabbitMQ
from tests.faults.liveness import Observed
from tests.faults.test_liveness_outages import all_healthy, cut_connections, stays_so_for_a_timeout
from tests.fleet import Fleet
from tests.kinds import Eventually, Role, StartRole
from tests.messaging import Publisher

WORKERS = 20
FOUR = {"partitions": 4}
READS = "SELECT statistics -> 'reads' FROM processors WHERE last_seen > now() - interval '2 s'"


def queues(partitions: Any) -> set[Any]:
    return set(Topology().queues(partitions))


async def read_by_each(observed: Observed) -> list[Any]:
    """Heartbeat queues, of each processor that reports."""
    found = [json.loads(reads or "[]") for (reads,) in await observed.rows(READS)]
    return [{queue for queue in reads if "heartbeats" in queue} for reads in found]


async def is_spread(observed: Observed, processors: Any) -> Any:
    reads = await read_by_each(observed)
    return (
        len(reads) == processors
        and set.union(*reads) == queues(4) - queues(0)
        and sum(map(len, reads)) == 4
    )


async def is_even(observed: Observed) -> Any:
    return await is_spread(observed, 2) and all(
        len(reads) == 2 for reads in await read_by_each(observed)
    )


@pytest.fixture
async def two_of_four(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> Any:
    """Two processors that read two of four heartbeat queues each, and a healthy fleet."""
    processors = [await start_quick(**FOUR), await start_quick(**FOUR)]
    fleet.recruit(WORKERS)
    await eventually(lambda: all_healthy(fleet, observed))
    await eventually(lambda: is_even(observed))
    return processors


async def test_queues_are_shared_anew_when_processors_come_and_go(
    two_of_four: Any, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    """Partitions go to a processor that starts and leave one that stops."""
    await stays_so_for_a_timeout(fleet, observed, eventually)
    [goes, stays] = two_of_four
    await asyncio.to_thread(goes.stop)
    await eventually(lambda: is_spread(observed, 1))
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)
    assert stays.returncode is None


@pytest.mark.parametrize(
    "fault", ["killed", "cut off", pytest.param("frozen", marks=pytest.mark.slow)]
)
async def test_fault_of_one_reader_loses_nobody_and_hides_no_death(
    fault: Any,
    two_of_four: Any,
    fleet: Fleet,
    observed: Observed,
    rabbitmq: SharedRabbitMQ,
    broker: str,
    eventually: Eventually,
) -> None:
    """The reader is killed, cut off or frozen."""
    [broken, _] = two_of_four
    if fault == "killed":
        broken.kill()
    elif fault == "frozen":
        os.kill(broken.pid, signal.SIGSTOP)
        slowest = "SELECT queue FROM watermarks ORDER BY observed_through LIMIT 1"
        lag = "SELECT count(*) FROM watermarks WHERE observed_through < now() - interval '5 s'"
        await eventually(lambda: observed.value(lag))
        assert await observed.value(slowest) in queues(4)
        assert await observed.value(lag) < 5  # what the other reads goes on
    else:
        await cut_connections(rabbitmq, broker, eventually)
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)
    if fault == "frozen":
        os.kill(broken.pid, signal.SIGCONT)
        await stays_so_for_a_timeout(fleet, observed, eventually)
    fleet.workers[1].beating = False
    await eventually(observed.lost)
    assert {worker for entity, worker in await observed.lost() if entity == "worker"} == {1}


async def is_there(broker: str, queue: str) -> bool:
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        try:
            await channel.declare_queue(queue, passive=True)
        except ChannelNotFoundEntity:
            return False
    return True


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3), (3, 2)])
async def test_another_number_of_partitions_loses_nobody(
    before: Any,
    after: Any,
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    broker: str,
    eventually: Eventually,
) -> None:
    """The processor that starts last decides, and the other follows."""
    first = await start_quick(partitions=before)
    fleet.recruit(WORKERS)
    await eventually(lambda: all_healthy(fleet, observed))
    await start_quick(partitions=after)

    async def is_changed() -> bool:
        found = {tuple(row) for row in await observed.rows("SELECT queue, state FROM watermarks")}
        return found == {(queue, "active") for queue in queues(after)}

    await eventually(is_changed)
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)
    for queue in queues(before) - queues(after):
        assert not await is_there(broker, queue)
    first.kill()
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)


async def test_queues_of_the_version_before_are_drained_and_deleted(
    start_quick: StartRole, fleet: Fleet, observed: Observed, broker: str, eventually: Eventually
) -> None:
    topology = Topology()
    old: dict[str, dict[str, Any]] = {
        topology.heartbeat_queue: {
            "x-max-length-bytes": HEARTBEAT_MAX_BYTES,
            "x-message-ttl": 60_000,
        },
        topology.lifecycle_queue: {"x-queue-type": "quorum", "x-delivery-limit": 100},
    }
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(topology.inbound_exchange, "topic", durable=True)
        for name, arguments in old.items():
            queue = await channel.declare_queue(name, durable=True, arguments=arguments)
            await queue.bind(
                exchange, "worker.*.heartbeat" if "heartbeat" in name else "worker.*.lifecycle"
            )
        for instance in range(100):
            body = json.dumps(
                {"command_type": "SERVER_STARTED", "command_args": [str(instance + 1), "700"]}
            ).encode()
            await exchange.publish(aio_pika.Message(body, delivery_mode=2), "worker.700.lifecycle")
    await observed.rows(
        "INSERT INTO watermarks (queue, state) SELECT unnest($1::text[]), 'retired'", [*old]
    )
    fleet.recruit(WORKERS)
    await start_quick()
    await eventually(
        lambda: observed.value("SELECT count(*) = 100 FROM server_instances WHERE worker_id = 700")
    )
    await eventually(lambda: observed.value("SELECT count(*) = 2 FROM watermarks"))
    for name in old:
        assert not await is_there(broker, name)
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)


async def test_beats_that_the_broker_drops_make_no_silence(
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    publisher_at: Callable[[str], Awaitable[Publisher]],
    broker: str,
    eventually: Eventually,
) -> None:
    """A full queue drops its oldest beats within a moment, so the watermark never stands still.
    One that goes silent beside it is marked LOST after a grace, for his beats may have been among
    them."""
    grace_seconds = 6
    settings = {"heartbeat_max_length": 1_000, "prefetch": 10, "minimum_timeout_seconds": 3}
    processor = await start_quick(
        **settings, canary_interval_seconds=1, recovery_grace_seconds=grace_seconds
    )
    fleet.recruit(WORKERS)
    await eventually(lambda: all_healthy(fleet, observed))
    began = await observed.through()
    await eventually(lambda: observed.has_passed(began + timedelta(seconds=grace_seconds)))
    fleet.workers[1].beating = False
    flood = json.dumps({"command_type": "HEARTBEAT", "command_args": ["999"]}).encode()
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel(publisher_confirms=False)
        exchange = await channel.get_exchange(Topology().inbound_exchange, ensure=False)
        for _ in range(20):
            await asyncio.gather(
                *(
                    exchange.publish(aio_pika.Message(flood), "worker.999.heartbeat")
                    for _ in range(1_000)
                )
            )
    dropped_at = await eventually(lambda: observed.value("SELECT dropped_at FROM observation"))
    await eventually(observed.lost)
    lost = await observed.rows(
        "SELECT entity_id, at FROM transitions WHERE entity = 'worker' AND new_status = 'LOST'"
    )
    assert 1 in {worker for worker, _ in lost}
    assert {worker for worker, _ in lost} <= {1, 999}
    assert min(at for _, at in lost) > dropped_at + timedelta(seconds=grace_seconds - 1)
    assert "heartbeats_dropped" in processor.log


@pytest.mark.slow
async def test_without_the_plugin_a_processor_says_what_to_do(
    start_role: Callable[..., Role], database: str, tmp_path: Path, eventually: Eventually
) -> None:
    node = EmbeddedRabbitMQ(tmp_path, plugins=["rabbitmq_management"])
    await asyncio.to_thread(node.start)
    try:
        role = start_role("processor", database_url=database, rabbitmq_url=node.url, partitions=2)
        await eventually(lambda: role.returncode is not None)
        assert role.returncode == 1
        assert (
            "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange" in role.log.splitlines()[-1]
        )
        assert "Traceback" not in role.log
    finally:
        await asyncio.to_thread(node.kill)
