"""Faults drawn at random against the whole write side: whatever comes, the promises hold.

Good events are stored, each change of a status is republished, no living worker is marked LOST,
what is odd is kept or counted, and where monitoring says that it is ok a worker that dies now is
LOST in time.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aio_pika
import pytest

from manman_status.wire.topology import Topology
from tests.faults.liveness import QUICK, Observed
from tests.faults.nemesis import DEAD_LETTER_QUEUE, FLEET, INVENTED, SETTINGS, Nemesis
from tests.faults.stepping import needs_libfaketime
from tests.fleet import TIMEOUT_SECONDS, Fleet, Worker
from tests.kinds import Eventually, StartRole
from tests.messaging import Publisher
from tests.odd_messages import LIFECYCLE, command

pytestmark = [needs_libfaketime, pytest.mark.slow]

GRACE_SECONDS = 6
OWN = {"recovery_grace_seconds": GRACE_SECONDS, "lease_seconds": 3, **SETTINGS}
SEEDS = 3
OTHERS = 3
"""Strikes drawn from all, beside those that the seed has for itself."""
LOST_WITHIN_SECONDS = TIMEOUT_SECONDS + 3
STALLS_SECONDS = 3
"""Seconds that a shared machine may stand still meanwhile."""
KEPT_BY_A_PROCESSOR = 21_000
"""Dead letters in an hour, of both kinds of queues together: docs/contract.md."""

READY = """
SELECT observed_through > now() - interval '2 s'
   AND coalesce(clock_stepped_at, '-infinity') + make_interval(secs => $1) < observed_through
   AND resumed_at + make_interval(secs => $1) < observed_through FROM observation
"""
STATUS = "SELECT status FROM workers WHERE worker_id = $1"
DELAY = (
    "SELECT extract(epoch FROM status_since - last_heartbeat)::float8 FROM workers WHERE worker_id"
    " = $1"
)
STORED = "SELECT count(*) FROM server_instances WHERE instance_id >= 20000000"
SETTLED = """
SELECT sum((statistics -> 'events' -> 'poison' ->> 'dead_lettered')::bigint)
     + sum((statistics -> 'events' -> 'poison' ->> 'only_counted')::bigint) FROM processors
"""
TRANSITIONS = """
SELECT epoch || '-' || t.revision FROM transitions t, revision_counter ORDER BY t.revision
"""


@pytest.fixture
def database(stepping_database: str) -> str:
    return stepping_database


@asynccontextmanager
async def republished(broker: str) -> AsyncIterator[Any]:
    """Ids of messages by entity, in the order of their first arrival."""
    came: defaultdict[Any, Any] = defaultdict(dict)
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("nemesis-listens", durable=True)
        for key in ("worker.*.status", "game_server_instance.*.status"):
            await queue.bind(Topology().outbound_exchange, key)

        async def take(message: Any) -> None:
            came[message.routing_key].setdefault(message.message_id)

        await queue.consume(take, no_ack=True)
        yield came


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_comes_the_promises_hold(
    seed: int,
    start_processor: StartRole,
    publish: Publisher,
    broker: str,
    database: str,
    clock: Any,
    channel: Any,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    proxy: Any,
    depth: Callable[..., Awaitable[int]],
) -> None:
    to_broker = await proxy(broker)

    async def start() -> Any:
        return await start_processor(**(QUICK | OWN), rabbitmq_url=to_broker.url)

    rng = random.Random(seed)
    nemesis = Nemesis(
        rng,
        publish=publish,
        database=database,
        clock=clock,
        channel=channel,
        to_broker=to_broker,
        processors=[await start(), await start()],
        start=start,
    )
    # Each strike is in one of the seeds for sure, whatever these draw.
    names = [*nemesis.strikes]
    random.Random(SEEDS).shuffle(names)
    mine = names[seed::SEEDS] + rng.sample(names, OTHERS)
    rng.shuffle(mine)
    async with republished(broker) as came:
        fleet.recruit(len(FLEET))
        dead: list[Any] = []
        done: list[Any] = []
        for turn, name in enumerate(mine, start=1):
            victim = Worker(100 + turn)
            fleet.add(victim)
            done.append(name)
            await nemesis.strikes[name]()
            first = 20_000_000 + 50 * turn
            await publish.many(
                [(command("SERVER_STARTED", str(first + i), "9"), LIFECYCLE) for i in range(50)]
            )
            await eventually(partial(is_value, observed, 50 * turn, STORED))
            await eventually(partial(observed.value, READY, float(GRACE_SECONDS)))
            await eventually(partial(is_value, observed, "RUNNING", STATUS, victim.worker_id))
            assert await lost_workers(observed) == dead, done
            victim.go_silent()
            await eventually(partial(is_value, observed, "LOST", STATUS, victim.worker_id))
            dead.append(victim.worker_id)
            assert (
                await observed.value(DELAY, victim.worker_id) < LOST_WITHIN_SECONDS + STALLS_SECONDS
            ), done
        for worker_id in FLEET:
            await eventually(partial(is_value, observed, "RUNNING", STATUS, worker_id))
        await eventually(partial(all_are_republished, observed, came))
    for ids in came.values():
        revisions = [int(each.rpartition("-")[2]) for each in ids]
        assert revisions == sorted(revisions), done
    for processor in nemesis.processors:
        assert processor.returncode is None, done
        assert "storing_failed" not in processor.log, done
    assert await observed.value(SETTLED), done
    letters = await depth(DEAD_LETTER_QUEUE) + await observed.value(
        "SELECT count(*) FROM dead_letter_outbox"
    )
    assert letters <= nemesis.started * KEPT_BY_A_PROCESSOR, done


async def lost_workers(observed: Observed) -> list[Any]:
    """Lost workers among those that exist."""
    return [
        number
        for entity, number in await observed.lost()
        if entity == "worker" and number < INVENTED
    ]


async def all_are_republished(observed: Observed, came: Any) -> bool:
    expected = {row[0] for row in await observed.rows(TRANSITIONS)}
    return expected == {message_id for ids in came.values() for message_id in ids}


async def is_value(observed: Observed, wanted: Any, sql: str, *arguments: Any) -> bool:
    return [tuple(row) for row in await observed.rows(sql, *arguments)] == [(wanted,)]
