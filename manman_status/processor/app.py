"""The write side: from the broker to the database, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog
import uvloop
from faststream.rabbit import RabbitBroker
from faststream.rabbit.subscriber import RabbitSubscriber

from manman_status.backoff import Backoff
from manman_status.cancellation import cancel
from manman_status.errors import SchemaBehind
from manman_status.pipeline.alerting import Alerter
from manman_status.pipeline.canary import Observer
from manman_status.pipeline.custody import Custody
from manman_status.pipeline.housekeeping import Housekeeper
from manman_status.pipeline.ingest import Ingest
from manman_status.pipeline.leadership import Leadership
from manman_status.pipeline.notifying import BrokerTeller, Channel, ChannelTeller, Teller
from manman_status.pipeline.relay import Relay
from manman_status.pipeline.statistics import Statistics
from manman_status.pipeline.sweep import Sweeper
from manman_status.processor.canaries import BrokerCanaries, is_connected
from manman_status.processor.connection import close_broker, open_broker
from manman_status.processor.probes import probe_files
from manman_status.processor.publisher import DeadLetters, StatusPublisher
from manman_status.processor.running import Runs, keep_running, unless_stopped
from manman_status.processor.subscribers import Subscription
from manman_status.settings import Settings
from manman_status.store.partitions import PARTITION_DAYS_AHEAD, make_partitions
from manman_status.store.pool import DATABASE_ERRORS, Pool, create_pool, opened, require_schema
from manman_status.wire.topology import Topology

if TYPE_CHECKING:
    from manman_status.processor.telemetry import Tracing

log = structlog.get_logger()


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises SettingsError, SchemaBehind and CommandFailed before anything
    is read."""
    uvloop.run(run_processor(settings, _open_channels(settings)))
    return 0


def _open_channels(settings: Settings) -> Sequence[Channel]:
    if not settings.notify_urls and not settings.notify_routes_file:
        return ()
    from manman_status.processor.channels import open_channels

    return open_channels(settings)


def _open_tracing(
    settings: Settings,
    processor_id: str,
    statistics: Statistics,
    custody: Mapping[str, Custody],
    stack: AsyncExitStack,
) -> Tracing | None:
    """Spans and numbers are sent until the stack is left; None, and nothing loaded, without an endpoint."""
    if not settings.otlp_endpoint:
        return None
    from manman_status.processor.instruments import observe
    from manman_status.processor.telemetry import Tracing
    from manman_status.telemetry import Telemetry

    telemetry = Telemetry(settings.otlp_endpoint, service="manman-status-processor", instance_id=processor_id)
    stack.callback(telemetry.shutdown)
    observe(telemetry.meter_provider, statistics, custody)
    return Tracing(telemetry)


async def run_processor(settings: Settings, channels: Sequence[Channel]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    topology = Topology(**{name: getattr(settings, name) for name in Topology.__struct_fields__})
    custody = {queue: Custody() for queue in (topology.heartbeat_queue, topology.lifecycle_queue)}
    statistics = Statistics()
    processor_id = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        tracing = _open_tracing(settings, processor_id, statistics, custody, stack)
        probes = await stack.enter_async_context(probe_files(settings.probe_folder))
        pool = create_pool(
            settings.database_url,
            application="manman-status processor",
            size=settings.database_pool_size,
            timeout_seconds=max(settings.database_timeout_seconds, 10.0),
        )
        await stack.enter_async_context(opened(pool, close_within_seconds=0.5))
        if await unless_stopped(_prepare_database(pool), stopping) is None:
            return
        opening = open_broker(settings.broker_url, topology, processor_id, custody, prefetch=settings.prefetch_of)
        connected = await unless_stopped(opening, stopping)
        if connected is None:
            return
        broker, subscribers = connected
        canaries = BrokerCanaries(broker, await broker.connect(), topology, processor_id)
        processor = Processor(
            settings,
            topology,
            pool,
            broker,
            subscribers,
            canaries,
            custody,
            processor_id,
            channels,
            statistics,
            tracing,
        )
        stack.push_async_callback(processor.leave)
        stack.push_async_callback(close_broker, broker)
        probes.is_ready = processor.is_ready
        await processor.run(stopping)
    log.info("processor_stopped")


class Processor:
    """All that runs in one processor, put together."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        pool: Pool,
        broker: RabbitBroker,
        subscribers: list[RabbitSubscriber],
        canaries: BrokerCanaries,
        custody: dict[str, Custody],
        processor_id: str,
        channels: Sequence[Channel],
        statistics: Statistics,
        tracing: Tracing | None,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._statistics = statistics
        self._leadership = Leadership(pool, processor_id, lease_seconds=settings.lease_seconds)
        publish = StatusPublisher(broker, topology, tracing)
        self._relay = Relay(pool, publish, self._leadership, self._statistics)
        self._tellers: list[Teller] = [BrokerTeller(pool, self._leadership, self._statistics, publish)]
        self._tellers += [
            ChannelTeller(pool, self._leadership, self._statistics, channel, wait_seconds=settings.notify_wait_seconds)
            for channel in channels
        ]
        self._alerter = Alerter(
            pool,
            self._leadership,
            degraded_after_seconds=settings.degraded_after_seconds,
            blind_after_seconds=settings.blind_after_seconds,
            wake=self._wake_tellers,
        )
        self._observer = Observer(
            pool,
            canaries,
            custody,
            self._statistics,
            processor_id=processor_id,
            host=socket.gethostname(),
            version=version("manman-status"),
            interval_seconds=settings.canary_interval_seconds,
            standstill_seconds=settings.standstill_seconds,
            blind_after_seconds=settings.blind_after_seconds,
        )
        sweeper = Sweeper(
            pool,
            self._leadership,
            settings.sweep_rules,
            interval_seconds=settings.sweep_interval_seconds,
            statistics=self._statistics,
            wake=self._wake,
        )
        housekeeper = Housekeeper(
            pool,
            self._leadership,
            partial(is_connected, broker, topology),
            queues=sorted(custody),
            retention_days=settings.retention_days,
            silent_seconds=3 * settings.canary_interval_seconds,
        )
        self._parts: tuple[Runs, ...] = (
            self._observer,
            self._leadership,
            sweeper,
            self._relay,
            self._alerter,
            housekeeper,
            *self._tellers,
        )
        ingest = Ingest(
            pool,
            self._statistics,
            processor_id=processor_id,
            queues=sorted(custody),
            standstill_seconds=settings.standstill_seconds,
            blind_after_seconds=settings.blind_after_seconds,
            wake=self._wake,
        )
        dead_letters = DeadLetters(broker, topology, tracing)
        self._subscriptions = [
            Subscription(
                subscriber,
                ingest,
                dead_letters,
                custody[subscriber.queue.name],
                self._statistics,
                max_events=settings.batch_of(subscriber.queue.name),
                max_wait_ms=settings.batch_max_wait_ms,
                tracing=tracing,
            )
            for subscriber in subscribers
        ]

    async def run(self, stopping: asyncio.Event) -> None:
        if await unless_stopped(self._observer.register(), stopping) is None:
            return
        # A batch makes thousands of objects and drops them all: looking for cycles that often finds none.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(subscription.run()) for subscription in self._subscriptions]
            others = [tasks.create_task(keep_running(part)) for part in self._parts]
            log.info("processor_started", queues=[subscription.queue for subscription in self._subscriptions])
            await stopping.wait()
            log.info("processor_stopping")
            for subscription in self._subscriptions:
                subscription.stop()
            _, late = await asyncio.wait(reading, timeout=self._settings.shutdown_timeout_seconds * 0.7)
            if late:
                log.warning("stopped_before_all_was_stored", meaning="the broker keeps it and sends it again")
                self._pool.terminate()  # a database that hangs would not let go of whoever asks it
            await cancel(*late, *others)

    def _wake(self) -> None:
        """Transitions were committed."""
        self._relay.wake()
        self._alerter.wake()

    def _wake_tellers(self) -> None:
        for teller in self._tellers:
            teller.wake()

    def is_ready(self) -> bool:
        """Not merely running: what it is given is stored, as its own canaries tell."""
        return self._observer.has_proof(within_seconds=self._settings.degraded_after_seconds)

    async def leave(self) -> None:
        """After the connection is closed: what we held is back in the queues, and our row no longer stands for it."""
        try:
            async with asyncio.timeout(1):
                await self._observer.unregister()
        except DATABASE_ERRORS:
            log.debug("row_left_to_the_others")


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
        except DATABASE_ERRORS as error:
            delay = backoff.failed()
            if backoff.is_worth_saying:
                log.warning("database_away", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(delay)
        else:
            return True
