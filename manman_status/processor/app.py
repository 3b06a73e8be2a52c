"""The write side: from the broker to the database, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import asyncpg
import structlog
import uvloop
from aio_pika.exceptions import AMQPError, ChannelPreconditionFailed
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker
from faststream.rabbit.subscriber import RabbitSubscriber
from yarl import URL

from manman_status.errors import CommandFailed, SchemaBehind
from manman_status.pipeline.backoff import Backoff
from manman_status.pipeline.ingest import Ingest
from manman_status.processor.declare import bind_queues, declare_exchanges, heartbeat_queue, lifecycle_queue, topic
from manman_status.processor.publisher import DeadLetters
from manman_status.processor.subscribers import Subscription, parse
from manman_status.settings import Settings
from manman_status.store.partitions import make_partitions
from manman_status.store.pool import CONNECTION_ERRORS, Pool, create_pool, require_schema
from manman_status.wire.topology import Topology

log = structlog.get_logger()

T = TypeVar("T")

PARTITION_DAYS_AHEAD = 7
PARTITIONS_EVERY_SECONDS = 3600
BROKER_AWAY = (AMQPError, OSError, TimeoutError)


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises SchemaBehind and CommandFailed before anything is read."""
    uvloop.run(run_processor(settings))
    return 0


async def run_processor(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    topology = Topology(**{name: getattr(settings, name) for name in Topology.__struct_fields__})
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            create_pool(
                settings.database_url,
                application="manman-status processor",
                size=settings.database_pool_size,
                timeout_seconds=max(settings.database_timeout_seconds, 10.0),
            )
        )
        if await _unless_stopped(_prepare_database(pool), stopping) is None:
            return
        opened = await _unless_stopped(open_broker(settings, topology), stopping)
        if opened is None:
            return
        broker, subscribers = opened
        stack.push_async_callback(_close, broker)
        ingest, dead_letters = Ingest(pool), DeadLetters(broker, topology)
        subscriptions = [
            Subscription(
                subscriber,
                ingest,
                dead_letters,
                max_events=settings.batch_max_events,
                max_wait_ms=settings.batch_max_wait_ms,
            )
            for subscriber in subscribers
        ]
        # A batch makes thousands of objects and drops them all: looking for cycles that often finds none.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        log.info("processor_started", queues=[topology.heartbeat_queue, topology.lifecycle_queue])
        await _work(pool, subscriptions, stopping, settings.shutdown_timeout_seconds)
    log.info("processor_stopped")


def create_broker(settings: Settings) -> RabbitBroker:
    return RabbitBroker(
        str(URL(settings.broker_url).update_query(name="manman-status processor")),
        reconnect_interval=1.0,
        ack_policy=AckPolicy.MANUAL,
        app_id="manman-status",
        logger=None,
    )


async def _unless_stopped(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T | None:
    """What the work gives, or None when we are told to stop before it is done."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([doing, waiting], return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        for task in (doing, waiting):
            task.cancel()
        await asyncio.wait([doing, waiting])


async def _prepare_database(pool: Pool) -> bool:
    """Wait for the database, refuse an old schema, and have the next days' partitions ready."""
    backoff = Backoff()
    while True:
        try:
            async with pool.acquire() as connection:
                await require_schema(connection)
                async with connection.transaction():
                    await make_partitions(connection, days_ahead=PARTITION_DAYS_AHEAD)
        except SchemaBehind:
            raise
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            delay = backoff.failed()
            if backoff.is_worth_saying:
                log.warning("database_away", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(delay)
        else:
            return True


async def open_broker(settings: Settings, topology: Topology) -> tuple[RabbitBroker, list[RabbitSubscriber]]:
    """Wait for the broker and declare our topology on it. The subscribers read nothing until they are iterated."""
    backoff = Backoff()
    while True:
        broker = create_broker(settings)
        subscribers = [
            broker.subscriber(
                queue,
                topic(topology.inbound_exchange),
                channel=Channel(prefetch_count=settings.prefetch),
                ack_policy=AckPolicy.MANUAL,
                parser=parse,
            )
            for queue in (heartbeat_queue(topology), lifecycle_queue(topology))
        ]
        try:
            await broker.connect()
            await declare_exchanges(broker, topology)
            await broker.start()
            await bind_queues(broker, topology)
        except ChannelPreconditionFailed as error:
            await _close(broker)
            raise CommandFailed(
                f"a queue or exchange exists with other arguments: {error}. Delete it when it is empty, or name"
                " another in the settings"
            ) from None
        except BROKER_AWAY as error:
            await _close(broker)
            delay = backoff.failed()
            if backoff.is_worth_saying:
                log.warning("broker_away", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(delay)
        else:
            return broker, subscribers


async def _work(
    pool: Pool, subscriptions: list[Subscription], stopping: asyncio.Event, shutdown_seconds: float
) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(subscription.run()) for subscription in subscriptions]
        partitions = tasks.create_task(_keep_partitions(pool))
        await stopping.wait()
        log.info("processor_stopping")
        for subscription in subscriptions:
            subscription.stop()
        _, late = await asyncio.wait(running, timeout=shutdown_seconds * 0.8)
        if late:
            log.warning("stopped_before_all_was_stored", meaning="the broker keeps it and sends it again")
        for task in (*late, partitions):
            task.cancel()


async def _keep_partitions(pool: Pool) -> None:
    while True:
        await asyncio.sleep(PARTITIONS_EVERY_SECONDS)
        try:
            async with pool.acquire() as connection, connection.transaction():
                made = await make_partitions(connection, days_ahead=PARTITION_DAYS_AHEAD)
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            log.warning("partitions_not_made", error=f"{type(error).__name__}: {error}")
        else:
            if made:
                log.info("partitions_made", partitions=made)


async def _close(broker: RabbitBroker) -> None:
    try:
        async with asyncio.timeout(1):
            await broker.stop()
    except (*BROKER_AWAY, RuntimeError):
        log.debug("broker_close_failed")
