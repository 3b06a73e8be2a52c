"""The messages of an outside consumer on `external_service_events`, whatever fails between the
database and it."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import aio_pika
import asyncpg
import pytest

from manman_status.cancellation import cancel
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.errors import BrokerUnavailable
from manman_status.leadership import Leadership
from manman_status.processor.broker.publisher import StatusPublisher
from manman_status.processor.broker.publishing import Publishing
from manman_status.processor.leader.relay import Relay
from manman_status.processor.statistics import Statistics
from manman_status.store.pool import Pool, create_pool
from manman_status.store.relay import count_unsent
from manman_status.store.writes import append_transitions
from manman_status.wire.outbound import Publish
from manman_status.wire.topology import Topology
from tests.events import revision_of
from tests.kinds import Eventually, FetchRows, StartRole
from tests.messaging import Publisher

WORKERS = 1000
LIFE = [
    StatusType.CREATED,
    StatusType.RUNNING,
    StatusType.LOST,
    StatusType.RUNNING,
    StatusType.COMPLETE,
]
APPLICATION = "relay under test"


class Leader:
    """A processor's relay and what it needs, in this process."""

    def __init__(self, pool: Pool, publish: Publish, **options: Any) -> None:
        self.leadership = Leadership(pool, holder=str(id(self)), lease_seconds=2)
        self.statistics = Statistics()
        self.relay = Relay(self.leadership, publish, self.statistics, **options)
        self._leading = asyncio.create_task(self.leadership.run())
        self._relaying = asyncio.create_task(self.relay.run())

    async def resign(self) -> None:
        """Another can lead at once, while the relay is in the middle of what it does and has not
        noticed."""
        await self._cancel(self._leading)

    async def kill(self) -> None:
        await self._cancel(self._relaying)
        await self._cancel(self._leading)

    async def _cancel(self, task: Any) -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Consumer:
    """Plain aio-pika. `arrived` is every message, in the order of arrival."""

    def __init__(self) -> None:
        self.arrived: list[Any] = []

    async def listen(self, connection: Any, **arguments: Any) -> None:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1000)
        exchange = await channel.declare_exchange("external_service_events", "topic", durable=True)
        queue = await channel.declare_queue(
            f"outside-{id(self)}", durable=True, arguments=arguments
        )
        for key in ("worker.*.status", "game_server_instance.*.status"):
            await queue.bind(exchange, key)
        await queue.consume(self._take)

    async def _take(self, message: Any) -> None:
        self.arrived.append(message)
        with suppress(aio_pika.exceptions.AMQPError, aio_pika.exceptions.ChannelInvalidStateError):
            await message.ack()

    @property
    def revisions(self) -> list[Any]:
        """Each once, in the order of first arrivals."""
        return [
            revision_of(position)
            for position in dict.fromkeys(message.message_id for message in self.arrived)
        ]

    @property
    def by_entity(self) -> dict[str, Any]:
        """The revisions of first arrivals, by routing key."""
        of_each: defaultdict[Any, Any] = defaultdict(dict)
        for message in self.arrived:
            of_each[message.routing_key][revision_of(message.message_id)] = None
        return {key: list(revisions) for key, revisions in of_each.items()}


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with create_pool(database, application=APPLICATION, size=10, timeout_seconds=5) as pool:
        yield pool


@pytest.fixture
async def connect(broker: str) -> AsyncIterator[Any]:
    """A StatusPublisher on a connection of its own, as a processor has it."""
    async with AsyncExitStack() as stack:

        async def connected() -> Any:
            publishing = Publishing(broker, Topology())
            stack.push_async_callback(cancel, asyncio.create_task(publishing.run()))
            await publishing.has_tried.wait()
            return StatusPublisher(publishing, Topology())

        yield connected


@pytest.fixture
async def lead(pool: Pool) -> AsyncIterator[Any]:
    leaders = []

    async def start(publish: Publish, **options: Any) -> Any:
        leaders.append(Leader(pool, publish, **options))
        return leaders[-1]

    yield start
    for leader in leaders:
        await leader.kill()


@pytest.fixture
async def consumer(broker: str) -> AsyncIterator[Any]:
    async with await aio_pika.connect_robust(broker, reconnect_interval=1) as connection:
        consumer = Consumer()
        await consumer.listen(connection)
        yield consumer


def worker(worker_id: int, status: Any = StatusType.RUNNING) -> Any:
    return Transition(Entity.WORKER, worker_id, None, status, Reason.REPORTED, {"n": worker_id})


@pytest.fixture
def commit(pool: Pool) -> Any:
    async def append(*transitions: Any) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await append_transitions(connection, transitions)

    return append


@pytest.fixture
def mark(pool: Pool) -> Any:
    async def read() -> Any:
        return await pool.fetchval("SELECT sent_revision FROM relay")

    return read


async def is_marked(mark: Any, revision: Any) -> bool:
    return await mark() == revision


def lives() -> Iterator[Any]:
    """The lives of a thousand workers, mixed up, each in its order."""
    rng = random.Random(7)
    left = {worker_id: list(LIFE) for worker_id in range(1, WORKERS + 1)}
    batch = []
    while left:
        worker_id = rng.choice(list(left))
        batch.append(worker(worker_id, left[worker_id].pop(0)))
        if not left[worker_id]:
            del left[worker_id]
        if len(batch) >= 40:
            yield batch
            batch = []
    yield batch


async def test_lives_arrive_in_order_through_outages(
    connect: Any,
    lead: Any,
    consumer: Consumer,
    commit: Any,
    mark: Any,
    rabbitmq: EmbeddedRabbitMQ,
    eventually: Eventually,
) -> None:
    """Lives of a thousand workers, through killed broker and leader, each message once."""
    total = WORKERS * len(LIFE)
    first, second = await lead(await connect()), await lead(await connect())
    written = asyncio.create_task(write(commit))
    await eventually(lambda: len(consumer.revisions) > 500)
    await asyncio.to_thread(rabbitmq.kill)
    await written
    assert await mark() < total
    await asyncio.to_thread(rabbitmq.start)
    before = await mark()
    await eventually(lambda: len(consumer.revisions) > before + 300)
    leader, other = (first, second) if first.leadership.token else (second, first)
    await leader.kill()
    assert await mark() < total, "it was done before it could be killed"
    await eventually(lambda: other.leadership.token)
    await eventually(lambda: is_marked(mark, total))
    await eventually(lambda: len(consumer.revisions) == total)
    assert sorted(consumer.revisions) == list(range(1, total + 1))
    assert len(consumer.by_entity) == WORKERS
    for revisions in consumer.by_entity.values():
        assert len(revisions) == len(LIFE)
        assert revisions == sorted(revisions)


async def write(commit: Any) -> None:
    for batch in lives():
        await commit(*batch)


@pytest.mark.slow
async def test_each_transition_survives_killed_broker_and_leader(
    start_processor: StartRole,
    publisher_at: Callable[[str], Awaitable[Publisher]],
    broker: str,
    consumer: Consumer,
    rows: FetchRows,
    rabbitmq: EmbeddedRabbitMQ,
    eventually: Eventually,
) -> None:
    processors = [await start_processor(), await start_processor()]
    await live(await publisher_at(broker), incarnation=1)
    await eventually(lambda: consumer.arrived)
    await asyncio.to_thread(rabbitmq.kill)
    await asyncio.to_thread(rabbitmq.start)
    await live(await publisher_at(broker), incarnation=2)
    [lease] = await rows("SELECT token FROM leases")
    leading = f'"token": {lease["token"]}, "event": "leading"'
    [leader] = [processor for processor in processors if leading in processor.log]
    leader.kill()
    await live(await publisher_at(broker), incarnation=3)

    ended = (
        "SELECT 1 FROM workers WHERE status = 'COMPLETE' AND stopped_incarnation = 3 HAVING"
        " count(*) = $1"
    )
    await eventually(lambda: rows(ended, WORKERS), within_seconds=60)
    kept = [
        row["revision"] for row in await rows("SELECT revision FROM transitions ORDER BY revision")
    ]
    await eventually(lambda: sorted(consumer.revisions) == kept)
    assert len(kept) > 2 * WORKERS
    assert len(consumer.by_entity) == WORKERS
    for revisions in consumer.by_entity.values():
        assert revisions == sorted(revisions)


async def live(publish: Publisher, *, incarnation: Any) -> None:
    """A thousand workers start and stop."""
    for seq, command in enumerate(("WORKER_STARTED", "WORKER_STOPPED"), start=1):
        events = [
            (
                {
                    "command_type": command,
                    "command_args": [i],
                    "incarnation": incarnation,
                    "seq": seq,
                },
                i,
            )
            for i in range(1, WORKERS + 1)
        ]
        await publish.many([(event, f"worker.{i}.lifecycle") for event, i in events])


async def test_message_properties_describe_the_message(
    connect: Any, lead: Any, consumer: Consumer, commit: Any, eventually: Eventually
) -> None:
    """A consumer that reads only the properties knows type, key, time and revision."""
    await lead(await connect())
    await commit(
        worker(7),
        Transition(Entity.SERVER_INSTANCE, 31, None, StatusType.RUNNING, Reason.REPORTED, {}),
    )
    await eventually(lambda: len(consumer.arrived) == 2)
    first, second = sorted(consumer.arrived, key=lambda message: revision_of(message.message_id))
    assert (first.routing_key, second.routing_key) == (
        "worker.7.status",
        "game_server_instance.31.status",
    )
    assert (revision_of(first.message_id), revision_of(second.message_id)) == (1, 2)
    assert first.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert first.content_type == "application/json"
    assert first.app_id == "manman-status"
    body = json.loads(first.body)
    assert body["at"].startswith(first.timestamp.strftime("%Y-%m-%dT%H:%M:%S"))
    assert body["evidence"] == {"n": 7}


async def test_nobody_has_to_listen(
    connect: Any, lead: Any, commit: Any, mark: Any, eventually: Eventually
) -> None:
    await lead(await connect())
    await commit(worker(1))
    await eventually(lambda: is_marked(mark, 1))


async def test_transitions_wait_for_the_broker_and_all_arrive(
    connect: Any,
    lead: Any,
    consumer: Consumer,
    commit: Any,
    mark: Any,
    rabbitmq: EmbeddedRabbitMQ,
    eventually: Eventually,
) -> None:
    leader = await lead(await connect())
    await commit(worker(1))
    await eventually(lambda: is_marked(mark, 1))
    await asyncio.to_thread(rabbitmq.stop)
    try:
        await commit(*(worker(i) for i in range(2, 1502)))
        await eventually(lambda: leader.statistics.relay_backlog == 1500)
        assert await mark() == 1
    finally:
        await asyncio.to_thread(rabbitmq.start)
    await eventually(lambda: is_marked(mark, 1501))
    await eventually(lambda: sorted(consumer.revisions) == list(range(1, 1502)))
    await eventually(lambda: leader.statistics.relay_backlog == 0)


class Gate:
    """A broker that confirms on command. `sent` is what was handed to it, `refused` what it does
    not take."""

    def __init__(self, *, refused: Any = ()) -> None:
        self.sent: list[Any] = []
        self.refused = set(refused)
        self.opened = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        self.sent.append(revision_of(message.message_id))
        await self.opened.wait()
        if revision_of(message.message_id) in self.refused:
            raise BrokerUnavailable(cause="refused")


async def test_nothing_is_marked_before_it_is_confirmed(
    lead: Any, commit: Any, mark: Any, eventually: Eventually
) -> None:
    gate = Gate()
    await lead(gate)
    await commit(worker(1), worker(2))
    await eventually(lambda: sorted(gate.sent) == [1, 2])
    assert await mark() == 0
    gate.opened.set()
    await eventually(lambda: is_marked(mark, 2))


async def test_waiting_for_a_confirm_holds_no_connection(
    lead: Any, commit: Any, pool: Pool, database: str, eventually: Eventually
) -> None:
    gate = Gate()
    leader = await lead(gate)
    await commit(worker(1))
    await eventually(lambda: gate.sent)
    await leader.resign()  # it would use the pool too, to renew its lease
    assert pool.get_idle_size() == pool.get_size()
    connection = await asyncpg.connect(database)
    open_ones = (
        "SELECT state FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL"
    )
    assert await connection.fetch(open_ones, APPLICATION) == []
    await connection.close()


async def test_refused_message_holds_back_its_entity_alone(
    lead: Any, commit: Any, mark: Any, eventually: Eventually
) -> None:
    gate = Gate(refused=[3])
    await lead(gate)
    await commit(worker(1), worker(2), worker(1), worker(2), worker(1))
    await eventually(lambda: len(gate.sent) == 2)
    gate.opened.set()
    await eventually(lambda: is_marked(mark, 2))
    await eventually(lambda: gate.sent.count(3) >= 2)
    assert 5 not in gate.sent
    gate.refused.clear()
    await eventually(lambda: is_marked(mark, 5))


async def test_confirmed_message_is_not_sent_again(
    lead: Any, commit: Any, mark: Any, eventually: Eventually
) -> None:
    """An unconfirmed message before it does not repeat it."""
    gate = Gate(refused=[1])
    await lead(gate)
    await commit(worker(1), worker(2))
    await eventually(lambda: gate.sent == [1, 2])
    gate.opened.set()
    await eventually(lambda: gate.sent.count(1) >= 3)
    assert await mark() == 0
    gate.refused.clear()
    await eventually(lambda: is_marked(mark, 2))
    assert gate.sent.count(2) == 1


async def test_restored_history_is_sent_again(
    lead: Any, commit: Any, mark: Any, pool: Pool, eventually: Eventually
) -> None:
    """A revision that was confirmed in the lost history says nothing about the restored one."""
    gate = Gate(refused=[1])
    await lead(gate)
    await commit(worker(1), worker(2))
    await eventually(lambda: gate.sent == [1, 2])
    gate.opened.set()
    await eventually(lambda: gate.sent.count(1) >= 3)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM transitions")
        await connection.execute("UPDATE revision_counter SET revision = 0")
        await append_transitions(connection, [worker(1), worker(3)])
    gate.opened.clear()  # so that the second does not wait for the first
    await eventually(lambda: gate.sent.count(2) == 2)
    gate.refused.clear()
    gate.opened.set()
    await eventually(lambda: is_marked(mark, 2))


async def test_full_queue_holds_the_mark_and_keeps_the_order(
    connect: Any, lead: Any, commit: Any, mark: Any, broker: str, eventually: Eventually
) -> None:
    """A consumer that reads the queue later gets everything, in order."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        full = await channel.declare_queue(
            "full", durable=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"}
        )
        await lead(await connect())
        await full.bind("external_service_events", "worker.#")
        await commit(*(worker(n % 3) for n in range(12)))
        await eventually(lambda: is_marked(mark, 2))
        reader = Consumer()

        async def has_read_all() -> Any:
            while message := await full.get(no_ack=True, fail=False):
                reader.arrived.append(message)
            return await mark() == 12 and len(reader.revisions) == 12

        await eventually(has_read_all)
    for revisions in reader.by_entity.values():
        assert revisions == sorted(revisions)


async def test_a_frozen_leader_that_wakes_does_not_move_the_mark(
    lead: Any, commit: Any, mark: Any, eventually: Eventually
) -> None:
    frozen, working = Gate(), Gate(refused=[2])
    old = await lead(frozen)
    await commit(worker(1), worker(2), worker(3))
    await eventually(lambda: len(frozen.sent) == 3)
    await old.resign()
    working.opened.set()
    await lead(working)
    await eventually(lambda: is_marked(mark, 1))
    frozen.opened.set()
    await eventually(lambda: old.statistics.relay_backlog is None)
    assert await mark() == 1


async def test_next_leader_goes_on_where_the_last_one_stopped(
    lead: Any, commit: Any, mark: Any, pool: Pool, eventually: Eventually
) -> None:
    gates = [Gate(), Gate()]
    for gate in gates:
        gate.opened.set()
    first = await lead(gates[0])
    await eventually(lambda: first.leadership.token)
    second = await lead(gates[1])
    await commit(worker(1))
    await eventually(lambda: is_marked(mark, 1))
    assert gates[1].sent == []
    assert second.statistics.relay_backlog is None
    await first.kill()
    await commit(worker(2))
    await eventually(lambda: is_marked(mark, 2))
    assert gates[1].sent == [2]
    async with pool.acquire() as connection:
        assert await count_unsent(connection) == 0


async def test_transitions_that_are_gone_hold_up_nothing(
    lead: Any, commit: Any, mark: Any, pool: Pool, eventually: Eventually
) -> None:
    await commit(*(worker(i) for i in range(1, 6)))
    await pool.execute("DELETE FROM transitions WHERE revision < 4")
    gate = Gate()
    gate.opened.set()
    await lead(gate)
    await eventually(lambda: is_marked(mark, 5))
    assert gate.sent == [4, 5]


async def test_woken_relay_sends_a_commit_at_once(
    lead: Any, commit: Any, mark: Any, eventually: Eventually
) -> None:
    gate = Gate()
    gate.opened.set()
    leader = await lead(gate, poll_seconds=3600)
    await eventually(lambda: leader.statistics.relay_backlog == 0)
    await commit(worker(1))
    leader.relay.wake()
    await eventually(lambda: is_marked(mark, 1))
