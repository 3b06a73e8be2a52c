"""Connections that break as networks break them: whatever happens to one, the fleet is observed
again by itself."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from tests.faults.liveness import Observed
from tests.fleet import TIMEOUT_SECONDS, Fleet
from tests.kinds import Eventually, FetchRows, ProcessTree, Role, StartRole
from tests.messaging import Publisher

WITHIN_SECONDS = 45
OBSERVED_WITHIN_SECONDS = 3


async def is_observed(observed: Observed) -> Any:
    lag = await observed.lag()
    return lag is not None and lag < OBSERVED_WITHIN_SECONDS


@pytest.fixture
async def proxied(
    proxy: Any,
    broker: str,
    database: str,
    start_quick: StartRole,
    observed: Observed,
    eventually: Eventually,
) -> tuple[Any, Any, Any]:
    """A processor that reaches both servers through proxies; with it that of the broker, and that
    of the database."""
    to_broker, to_database = await proxy(broker), await proxy(database)
    processor = await start_quick(rabbitmq_url=to_broker.url, database_url=to_database.url)
    await eventually(lambda: is_observed(observed))
    return processor, to_broker, to_database


async def cut(kind: Any, to: Any, seconds: float) -> None:
    """One fault of this kind on all connections that are open now; it is over after these
    seconds."""
    match kind:
        case "reset":
            to.reset()
        case "half-open":
            to.swallow()
        case "refuse":
            await to.refuse()
            await asyncio.sleep(seconds)
            await to.start()
        case "mute":
            to.mute()
            await asyncio.sleep(seconds)
            to.speak()


async def observed_again_after_each(
    cuts: Any, proxied: Any, observed: Observed, eventually: Eventually
) -> None:
    processor, *proxies = proxied
    for server, kind, seconds in cuts:
        await cut(kind, proxies[server], seconds)
        over = time.monotonic()
        cut_at = await observed.value("SELECT now()")
        await eventually(lambda: observed.has_passed(cut_at), within_seconds=WITHIN_SECONDS)
        await eventually(
            lambda: is_observed(observed), within_seconds=WITHIN_SECONDS - time.monotonic() + over
        )
        assert processor.returncode is None, (server, kind)


async def test_after_each_kind_of_cut_the_fleet_is_observed_again(
    proxied: Any, observed: Observed, eventually: Eventually
) -> None:
    """Connections to the broker and to the database are cut."""
    cuts = [
        (0, "half-open", 0),
        (1, "half-open", 0),
        (0, "mute", 3),
        (1, "mute", 3),
        (0, "refuse", 1),
        (1, "reset", 0),
    ]
    await observed_again_after_each(cuts, proxied, observed, eventually)
    assert proxied[0].stop(within_seconds=10) == 0
    assert await observed.lost() == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
async def test_monitoring_resumes_after_random_cuts_and_freezes(
    seed: int,
    proxied: Any,
    observed: Observed,
    eventually: Eventually,
    fleet: Fleet,
    process_tree: ProcessTree,
    rabbitmq: EmbeddedRabbitMQ,
    postgres: EmbeddedPostgres,
) -> None:
    """Ten of each seed, and of a fleet that lives all the time nobody is lost."""
    rng = random.Random(seed)
    fleet.recruit(5)
    kinds = ["reset", "half-open", "refuse", "mute", "freeze"]
    for _ in range(10):
        server, kind = rng.randrange(2), rng.choice(kinds)
        if kind == "freeze":
            pids = [*process_tree((rabbitmq, postgres)[server].pid)]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(0.2, 8))
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        await observed_again_after_each(
            [(server, kind, rng.uniform(0, 5))], proxied, observed, eventually
        )
    assert proxied[0].stop(within_seconds=10) == 0
    assert await observed.lost() == []


@pytest.mark.parametrize("role_waits", ["at start", "later"])
async def test_a_broker_that_accepts_and_never_speaks_hangs_nothing(
    role_waits: Any,
    proxy: Any,
    broker: str,
    database: str,
    start_role: Callable[..., Role],
    start_quick: StartRole,
    observed: Observed,
    eventually: Eventually,
) -> None:
    to_broker = await proxy(broker)
    if role_waits == "at start":
        to_broker.mute()
        processor = start_role("processor", database_url=database, rabbitmq_url=to_broker.url)
    else:
        processor = await start_quick(rabbitmq_url=to_broker.url)
        to_broker.mute()

    async def has_waited() -> Any:
        """The log has it at a start only: a failure that goes on is worth a line a minute."""
        problem = "SELECT count(*) FROM processors WHERE statistics ->> 'broker_problems' LIKE $1"
        answer = "no answer within 10 s"
        return answer in processor.log or await observed.value(problem, f"%{answer}%")

    await eventually(has_waited)
    to_broker.speak()
    await eventually(lambda: is_observed(observed), within_seconds=WITHIN_SECONDS)
    to_broker.mute()
    await eventually(lambda: to_broker.connections)
    processor.stop(within_seconds=8)


async def test_half_open_connections_keep_no_processor_from_ending(
    proxied: Any, publish: Publisher
) -> None:
    processor, to_broker, to_database = proxied
    to_database.swallow()
    to_broker.swallow()
    await publish(started(1), key(1))
    processor.stop(within_seconds=20)
    assert "stopped_with_tasks_left" not in processor.log


async def test_unavailable_queue_keeps_no_other_from_being_read(
    start_role: Callable[..., Role],
    database: str,
    broker: str,
    publish_when_there: Any,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    """Here somebody else has it for himself, which is refused as one is whose node is down."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        await channel.declare_queue("manman.status.heartbeats.0", exclusive=True)
        processor = start_role("processor", database_url=database, rabbitmq_url=broker)

        async def stored() -> Any:
            await publish(started(1), key(1))
            return await rows("SELECT 1 FROM server_instances WHERE instance_id = 1")

        publish = await publish_when_there()
        await eventually(stored)
        await eventually(
            lambda: "queue_not_read" in processor.log and "RESOURCE_LOCKED" in processor.log
        )
        problems = (
            "SELECT 1 FROM processors WHERE statistics -> 'broker_problems' ?"
            " 'manman.status.heartbeats.0'"
        )
        await eventually(lambda: rows(problems))

    async def beats() -> Any:
        await publish({"command_type": "HEARTBEAT", "command_args": ["8"]}, "worker.8.heartbeat")
        return await rows("SELECT 1 FROM workers WHERE worker_id = 8")

    await eventually(beats)
    await eventually(
        lambda: rows("SELECT 1 FROM processors WHERE statistics ->> 'broker_problems' = '{}'")
    )
    assert processor.log.count("queue_not_read") == 1


async def test_a_queue_that_is_deleted_later_is_declared_again(
    processor: Role,
    broker: str,
    publish: Publisher,
    rows: FetchRows,
    eventually: Eventually,
    depth: Callable[..., Awaitable[int]],
) -> None:
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        await channel.queue_delete("manman.status.lifecycle.0")
        await channel.queue_delete("manman.status.dead")

    async def stored() -> Any:
        await publish(started(2), key(2))
        return await rows("SELECT 1 FROM server_instances WHERE instance_id = 2")

    await eventually(stored)
    await eventually(lambda: is_there(broker, "manman.status.dead"))
    assert processor.returncode is None


async def is_there(broker: str, queue: str) -> bool:
    async with await aio_pika.connect(broker) as connection:
        try:
            await (await connection.channel()).get_queue(queue)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False
        return True


@pytest.fixture
def publish_when_there(
    broker: str, publisher_at: Callable[[str], Awaitable[Publisher]], eventually: Eventually
) -> Any:
    async def publisher() -> Any:
        await eventually(lambda: is_there(broker, "manman.status.lifecycle.0"))
        return await publisher_at(broker)

    return publisher


def started(instance: Any) -> dict[str, Any]:
    return {"command_type": "SERVER_STARTED", "command_args": [str(instance), "7", "3"]}


def key(instance: Any) -> str:
    return f"game_server_instance.{instance}.lifecycle"


@pytest.mark.slow
async def test_a_living_fleet_is_never_lost_by_half_open_connections(
    proxied: Any, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    """Messages that the old connection holds count until the broker has closed it."""
    _, to_broker, _ = proxied
    fleet.recruit(10)

    async def all_healthy() -> bool:
        return await observed.healthy() == len(fleet.workers)

    for _ in range(3):
        await eventually(all_healthy)
        to_broker.swallow()
        await asyncio.sleep(TIMEOUT_SECONDS + 2)
        await eventually(all_healthy, within_seconds=WITHIN_SECONDS)
    assert await observed.lost() == []
