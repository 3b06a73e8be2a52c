"""Runs the write side, from the broker to the database, until it is stopped."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog
import uvloop

from manman_status.alerts.judging.alerter import Alerter
from manman_status.alerts.notifying.notifier import (
    LONGEST_BACKOFF_SECONDS,
    BrokerNotifier,
    Channel,
    ChannelNotifier,
    Notifier,
)
from manman_status.cancellation import cancel, within
from manman_status.clock import DatabaseClock
from manman_status.domain.liveness import Thresholds
from manman_status.domain.rows import Patience
from manman_status.errors import ManManStatusError
from manman_status.leadership import Leadership, LeaderTask
from manman_status.probes import probe_files
from manman_status.processor.admission import Admission
from manman_status.processor.broker.canaries import BrokerCanaries
from manman_status.processor.broker.connection import QueueReader
from manman_status.processor.broker.declare import delete_left, look_at, release
from manman_status.processor.broker.publisher import DeadLetters, StatusPublisher
from manman_status.processor.broker.publishing import Publishing
from manman_status.processor.broker.queries import Queries
from manman_status.processor.broker.reading import Reading
from manman_status.processor.broker.subscribers import Subscription
from manman_status.processor.canary import Observer
from manman_status.processor.flow import Flow
from manman_status.processor.ingest import Ingest
from manman_status.processor.leader.count_check import CountCheck
from manman_status.processor.leader.dead_letters import DeadLetterRelay, Sampler
from manman_status.processor.leader.history import HistoryCheck
from manman_status.processor.leader.housekeeping import Housekeeper
from manman_status.processor.leader.relay import Relay
from manman_status.processor.leader.sweep import Sweeper
from manman_status.processor.leader.uptime_days import UptimeDays
from manman_status.processor.seal import Seal
from manman_status.processor.statistics import Statistics
from manman_status.reporter.alarms import learn_reasons
from manman_status.running import Part, Runs, unless_stopped, when_available
from manman_status.settings import Settings
from manman_status.store.checkup import require_writes
from manman_status.store.observation import QueueMark
from manman_status.store.partitions import prepare_partitions
from manman_status.store.pool import DATABASE_ERRORS, Pool, create_pool, opened, require_schema
from manman_status.store.thresholds import write_thresholds
from manman_status.wire.dialects import entrance_of
from manman_status.wire.topology import MOST_PARTITIONS, Topology

if TYPE_CHECKING:
    from aio_pika import Connection

    from manman_status.processor.telemetry import Tracing

log = structlog.get_logger()

MIB = 1024 * 1024
TRANSIENT_LETTERS = {"of_one": 20, "in_all": 1_000, "in_all_bytes": 32 * MIB}
DURABLE_LETTERS = {"of_one": 1_000, "in_all": 20_000, "in_all_bytes": 256 * MIB}
"""Bounds on the dead letters of heartbeats, and of lifecycle events, that a processor keeps in an
hour."""

STUCK_SECONDS = 120.0
"""A task that does not move for so long is stuck: the longest of its waits, for the database, ends
after a few times its time-out."""
END_WITHIN_SECONDS = 2.0
GOODBYE_SECONDS = 5.0


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises SettingsError, SchemaBehind and
    CommandFailed before anything is read."""
    uvloop.run(run_processor(settings, _open_channels(settings)))
    return 0


def _end_at_once() -> None:
    """Exit: a task of a library that ignores cancellation must not keep a process that is to
    end."""
    log.error(
        "stopped_with_tasks_left",
        tasks=sorted(repr(task.get_coro()) for task in asyncio.all_tasks()),
    )
    sys.stderr.flush()
    os._exit(1)


def _open_channels(settings: Settings) -> Sequence[Channel]:
    if not settings.notify_urls and not settings.notify_routes_file:
        return ()
    from manman_status.alerts.channels import open_channels

    return open_channels(settings)


def _open_tracing(
    settings: Settings,
    processor_id: str,
    statistics: Statistics,
    stack: AsyncExitStack,
) -> Tracing | None:
    """Spans and numbers are sent until the stack is left; None, and nothing loaded, without an
    endpoint."""
    if not settings.otlp_endpoint:
        return None
    from manman_status.processor.instruments import observe
    from manman_status.processor.telemetry import Tracing
    from manman_status.telemetry import Telemetry

    telemetry = Telemetry(
        settings.otlp_endpoint, service="manman-status-processor", instance_id=processor_id
    )
    stack.callback(telemetry.shutdown)
    observe(telemetry.meter_provider, statistics)
    return Tracing(telemetry)


async def run_processor(settings: Settings, channels: Sequence[Channel]) -> None:
    learn_reasons()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    statistics = Statistics(settings.sweep_rules.thresholds)
    processor_id = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        tracing = _open_tracing(settings, processor_id, statistics, stack)
        probes = await stack.enter_async_context(probe_files(settings.probe_folder))
        pool = create_pool(
            settings.database_url,
            application="manman-status processor",
            size=settings.database_pool_size,
            timeout_seconds=max(settings.database_timeout_seconds, 10.0),
        )
        await stack.enter_async_context(opened(pool, close_within_seconds=0.5))
        prepare = partial(_prepare_database, pool, settings.sweep_rules.thresholds)
        if await unless_stopped(when_available(prepare), stopping) is None:
            return
        processor = Processor(settings, pool, processor_id, channels, statistics, tracing)
        stack.push_async_callback(processor.leave)
        probes.is_ready = processor.is_ready
        probes.is_alive = processor.is_alive
        try:
            await processor.run(stopping)
        except* ManManStatusError as errors:
            raise _first(errors) from None
    log.info("processor_stopped")


def _first(errors: BaseExceptionGroup[ManManStatusError]) -> ManManStatusError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


class Processor:
    """Everything that runs in one processor, put together. The names on the broker are those of the
    settings."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        processor_id: str,
        channels: Sequence[Channel],
        statistics: Statistics,
        tracing: Tracing | None,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._statistics = statistics
        self._tracing = tracing
        self._stuck_said: list[str] = []
        self._registered = asyncio.Event()
        self._seal, self._flow, self._clock = Seal(), Flow(), DatabaseClock()
        self._patience = Patience(
            settings.default_interval_seconds, settings.minimum_timeout_seconds
        )
        self._leadership = Leadership(pool, processor_id, lease_seconds=settings.lease_seconds)
        self._publishing = Publishing(settings.broker_url, settings)
        self._reading = Reading(
            settings,
            self._subscribe,
            self._read_marks,
            given_within_seconds=max(5 * settings.canary_interval_seconds, 2.0),
        )
        self._queries = Queries(settings.broker_url)
        self._history = HistoryCheck(pool)
        self._observer = self._make_observer(processor_id)
        self._ingest = Ingest(pool, statistics, patience=self._patience, wake=self._wake)
        always: tuple[Runs, ...] = (
            self._publishing,
            self._queries,
            self._observer,
            self._leadership,
            self._history,
        )
        self._always = [Part(each, rests_seconds=0) for each in always]
        publish = StatusPublisher(self._publishing, settings, tracing)
        self._relay = Relay(self._leadership, publish, statistics)
        self._notifiers = self._make_notifiers(channels, publish)
        self._alerter = Alerter(
            self._leadership,
            self._clock,
            degraded_after_seconds=settings.degraded_after_seconds,
            blind_after_seconds=settings.blind_after_seconds,
            wake_notifiers=self._wake_notifiers,
        )
        leads: tuple[Runs, ...] = (
            self._relay,
            self._alerter,
            *self._notifiers,
            *self._make_leader_tasks(),
        )
        self._leaders = [Part(each, rests_seconds=LONGEST_BACKOFF_SECONDS) for each in leads]

    def _make_observer(self, processor_id: str) -> Observer:
        settings = self._settings
        return Observer(
            self._pool,
            BrokerCanaries(
                self._publishing, self._reading, self._queries, settings, processor_id, self._seal
            ),
            self._statistics,
            self._seal,
            self._clock,
            queues=settings.queues(settings.partitions),
            processor_id=processor_id,
            host=socket.gethostname(),
            version=version("manman-status"),
            interval_seconds=settings.canary_interval_seconds,
            standstill_seconds=settings.standstill_seconds,
        )

    def _make_notifiers(
        self, channels: Sequence[Channel], publish: StatusPublisher
    ) -> list[Notifier]:
        to_people = (
            ChannelNotifier(
                self._leadership,
                self._statistics,
                channel,
                wait_seconds=self._settings.notify_wait_seconds,
            )
            for channel in channels
        )
        broker = BrokerNotifier(self._leadership, self._statistics, publish)
        return [broker, *to_people]

    def _make_leader_tasks(self) -> list[LeaderTask]:
        settings, leadership, statistics = self._settings, self._leadership, self._statistics
        return [
            Sweeper(
                leadership,
                settings.sweep_rules,
                interval_seconds=settings.sweep_interval_seconds,
                statistics=statistics,
                wake=self._wake,
            ),
            DeadLetterRelay(
                leadership, DeadLetters(self._publishing, settings, self._tracing), statistics
            ),
            Housekeeper(
                leadership,
                BrokerQueues(self._queries, settings),
                retention_days=settings.retention_days,
                silent_seconds=3 * settings.canary_interval_seconds,
            ),
            UptimeDays(leadership, retention_days=settings.retention_days),
            CountCheck(leadership, statistics),
        ]

    def _subscribe(
        self, queue: str, declare: Callable[[Connection], Awaitable[None]]
    ) -> Subscription:
        settings = self._settings
        entrance = entrance_of(settings, queue)
        is_transient = entrance.is_transient
        prefetch = settings.prefetch if is_transient else settings.lifecycle_prefetch
        reader = QueueReader(
            settings.broker_url, queue, self._flow, prefetch=prefetch, declare=declare
        )
        return Subscription(
            reader,
            self._ingest,
            Sampler(**(TRANSIENT_LETTERS if is_transient else DURABLE_LETTERS)),
            self._flow,
            self._statistics,
            Admission(
                self._seal,
                queue=queue,
                kind=entrance.kind,
                control_exchange=self._settings.control_exchange,
                body_must_match_key=settings.body_must_match_key and not entrance.checks_keys,
            ),
            entrance.decode,
            # A larger batch would wait for messages that the broker does not send before this one
            # is acknowledged.
            max_events=min(settings.batch_max_events, prefetch),
            max_wait_ms=settings.batch_max_wait_ms,
            tracing=self._tracing,
        )

    async def _read_marks(self, note_cut: bool) -> list[QueueMark]:
        return await self._observer.read_marks(note_cut=note_cut)

    async def _read(self) -> None:
        """Register, then read: a processor that reads has a row, and the queues are known.
        Publishing is tried before, since dead letters need it."""
        await self._publishing.has_tried.wait()
        await self._observer.register()
        self._registered.set()
        await self._reading.run()

    async def run(self, stopping: asyncio.Event) -> None:
        # A batch makes thousands of objects and drops them all: looking for cycles that often finds
        # none.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        async with asyncio.TaskGroup() as tasks, self._bounded_end():
            publishing, *parts = [*self._always, *self._leaders]
            others = [tasks.create_task(publishing.keep_running())]
            reading = [tasks.create_task(self._read())]
            if await unless_stopped(self._registered.wait(), stopping):
                others += [tasks.create_task(part.keep_running()) for part in parts]
                log.info("processor_started", queues=self._reading.queues)
                await stopping.wait()
            log.info("processor_stopping")
            self._reading.stop()
            _, late = await asyncio.wait(
                reading, timeout=self._settings.shutdown_timeout_seconds * 0.7
            )
            if late:
                log.warning(
                    "stopped_before_all_was_stored",
                    meaning="the broker keeps it and sends it again",
                )
                self._pool.terminate()  # a database that hangs would not let go of a query
            ending = asyncio.ensure_future(cancel(*late, *others))
            await asyncio.wait({ending}, timeout=END_WITHIN_SECONDS)
            # asyncpg waits for a cancelled query's answer, which may never come
            self._pool.terminate()
            await ending

    @asynccontextmanager
    async def _bounded_end(self) -> AsyncIterator[None]:
        """End the process within the shutdown's time and a little, once the body is left, normally
        or by a fault."""
        try:
            yield
        finally:
            limit = self._settings.shutdown_timeout_seconds + GOODBYE_SECONDS
            asyncio.get_running_loop().call_later(limit, _end_at_once)

    def _wake(self) -> None:
        """Transitions were committed."""
        self._relay.wake()
        self._alerter.wake()
        self._history.wake()

    def _wake_notifiers(self) -> None:
        for notifier in self._notifiers:
            notifier.wake()

    def is_ready(self) -> bool:
        """True when canaries of this processor are stored: more than that it runs."""
        return self._observer.has_proof(within_seconds=self._settings.degraded_after_seconds)

    def is_alive(self) -> bool:
        """True when every part moves. An unavailable broker or database stops none of them: each
        wait has a bound."""
        if not self._registered.is_set():
            return True
        parts = [
            *self._always,
            *(self._leaders if self._leadership.has_led_for(STUCK_SECONDS) else ()),
        ]
        stuck = [part.name for part in parts if part.is_stuck(for_seconds=STUCK_SECONDS)]
        stuck += [
            each.queue
            for each in self._reading.subscriptions
            if each.is_stuck(for_seconds=STUCK_SECONDS)
        ]
        if stuck and stuck != self._stuck_said:
            log.error("processor_stuck", tasks=stuck, meaning="the probe says that it is not alive")
        self._stuck_said = stuck
        return not stuck

    async def leave(self) -> None:
        """Close the connections: what we held is back in the queues then, and our row no longer
        stands for it."""
        await asyncio.gather(self._publishing.close(), self._reading.close())
        if not self._registered.is_set():
            return
        try:
            await within(1, self._observer.unregister())
        except DATABASE_ERRORS:
            log.debug("processor_row_not_removed")


class BrokerQueues:
    """Takes unwanted queues out of use."""

    def __init__(self, queries: Queries, topology: Topology) -> None:
        self._queries = queries
        self._topology = topology

    async def release(self, queue: str) -> bool:
        return await release(self._queries.connection, self._topology, queue)

    async def count(self, queue: str) -> int | None:
        found = await look_at(self._queries.connection, queue)
        return None if found is None else found[0]

    async def strays(self, known: Collection[str]) -> list[str]:
        connection = self._queries.connection
        names = [queue for queue in self._topology.queues(MOST_PARTITIONS) if queue not in known]
        return [queue for queue in names if await look_at(connection, queue)]

    async def delete(self, queue: str) -> bool:
        return await delete_left(self._queries.connection, queue)


async def _prepare_database(pool: Pool, thresholds: Thresholds) -> bool:
    """Refuse an old schema, and have today's and tomorrow's partitions ready."""
    async with pool.acquire() as connection:
        await require_schema(connection)
        server = await require_writes(connection)
        await prepare_partitions(connection)
        await write_thresholds(connection, thresholds, only_first=True)
    if server.encoding != "UTF8":
        log.warning(
            "database_is_not_utf8", encoding=server.encoding, hint="other names are refused"
        )
    return True
