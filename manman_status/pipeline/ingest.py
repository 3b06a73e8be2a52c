"""A batch of events becomes rows: one transaction, merged in memory from locked rows, retried until it is stored."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from time import perf_counter
from types import MappingProxyType
from typing import assert_never

import asyncpg
import msgspec
import structlog

from manman_status.backoff import Backoff
from manman_status.domain.events import (
    Heartbeat,
    Inventory,
    ReportedEvent,
    ServerStarted,
    ServerStatusReported,
    ServerStopped,
)
from manman_status.domain.merge import is_repeated, merge
from manman_status.domain.rows import Receipt, Rows, Transition
from manman_status.domain.status import INFERRED
from manman_status.domain.workers import microseconds
from manman_status.pipeline.alert_notices import take_alert_notice
from manman_status.pipeline.statistics import Statistics
from manman_status.store.observation import advance_observation, move_watermark
from manman_status.store.pool import CONNECTION_ERRORS, DATABASE_ERRORS, Connection, Pool
from manman_status.store.sweep import release_guard
from manman_status.store.writes import (
    RowAppeared,
    append_transitions,
    find_owners,
    lock_instances,
    lock_workers,
    store_rows,
    transaction_time,
)
from manman_status.wire.notices import (
    AlertAcknowledged,
    CanarySent,
    GuardReleased,
    Notice,
    SilenceAsked,
    SilenceEnded,
)

log = structlog.get_logger()

REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""The database can never store this: the only errors that are the events' fault and not the moment's."""

CONFLICTS = (RowAppeared, asyncpg.TransactionRollbackError)
"""Another processor was at the same rows: merge again at once."""


UNTRACED: Mapping[int, str] = MappingProxyType({})


class Refused(msgspec.Struct, frozen=True):
    """An event that was understood but that the database will not take, by its place in the batch."""

    index: int
    reason: str


class Ingest:
    """Stores batches until it succeeds; only cancelling it makes it give up. `wake` is called after transitions were
    committed."""

    def __init__(
        self,
        pool: Pool,
        statistics: Statistics,
        *,
        processor_id: str,
        queues: list[str],
        standstill_seconds: float,
        blind_after_seconds: float,
        wake: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._statistics = statistics
        self._processor_id = processor_id
        self._queues = queues
        self._standstill_seconds = standstill_seconds
        self._blind_after_seconds = blind_after_seconds
        self._wake = wake

    async def store(
        self,
        queue: str,
        events: Sequence[ReportedEvent],
        notices: Sequence[Notice],
        traceparents: Mapping[int, str] = UNTRACED,
    ) -> list[Refused]:
        """Returns after the commit. What the database refuses comes back, alone: its neighbours are stored. The
        notices are taken last, since a canary speaks for all that came before it. `traceparents` are by the place of
        an event, and kept with the transitions that it causes."""
        try:
            await self._store_until_done(queue, events, notices, traceparents)
        except REFUSALS as error:
            if not events:
                log.exception("notices_refused", queue=queue)
                return []
            if len(events) == 1:
                await self.store(queue, [], notices)
                return [Refused(0, f"the database refuses it: {error}")]
            half = len(events) // 2
            first = await self.store(queue, events[:half], [], traceparents)
            of_later = {place - half: traceparent for place, traceparent in traceparents.items()}
            later = await self.store(queue, events[half:], notices, of_later)
            return [*first, *(Refused(refused.index + half, refused.reason) for refused in later)]
        return []

    async def _store_until_done(
        self,
        queue: str,
        events: Sequence[ReportedEvent],
        notices: Sequence[Notice],
        traceparents: Mapping[int, str],
    ) -> None:
        backoff = Backoff()
        conflicts = 0
        while True:
            begun = perf_counter()
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    transitions = await self._store_batch(connection, queue, events, notices, traceparents)
            except REFUSALS:
                raise
            except CONFLICTS as error:
                conflicts += 1
                log.debug("batch_conflicted", events=len(events), conflicts=conflicts, error=type(error).__name__)
                await asyncio.sleep(random.uniform(0, 0.01) * min(conflicts, 100))  # noqa: S311
            except DATABASE_ERRORS as error:
                delay = backoff.failed()
                if backoff.is_worth_saying:
                    log.warning(
                        "database_away" if isinstance(error, CONNECTION_ERRORS) else "database_refuses_batch",
                        error=f"{type(error).__name__}: {error}",
                        held_events=len(events),
                        failing_seconds=backoff.failing_seconds,
                    )
                await asyncio.sleep(delay)
            else:
                if backoff.failures:
                    log.info("database_back", held_events=len(events), failed_seconds=backoff.failing_seconds)
                self._count(events, transitions, round((perf_counter() - begun) * 1000, 1))
                return

    async def _store_batch(
        self,
        connection: Connection,
        queue: str,
        events: Sequence[ReportedEvent],
        notices: Sequence[Notice],
        traceparents: Mapping[int, str],
    ) -> list[Transition]:
        """Merge and write these within the caller's transaction; the transitions that came of it."""
        transitions: list[Transition] = []
        caused_by: list[str | None] = []
        if events:
            transitions, caused_by = await _store_events(connection, events, traceparents)
        await self._take_notices(connection, queue, notices)
        await append_transitions(connection, transitions, caused_by)
        return transitions

    async def _take_notices(self, connection: Connection, queue: str, notices: Sequence[Notice]) -> None:
        sent_at: datetime | None = None
        for notice in notices:
            match notice:
                case CanarySent():
                    sent_at = max(notice.sent_at, sent_at or notice.sent_at)
                case GuardReleased():
                    held = await release_guard(connection, notice.group)
                    log.info("guard_release_asked", group=notice.group, held=held)
                case SilenceAsked() | SilenceEnded() | AlertAcknowledged():
                    await take_alert_notice(connection, notice)
                case _:
                    assert_never(notice)
        if sent_at is not None:
            await move_watermark(connection, queue, canary=(sent_at, self._processor_id))
            await advance_observation(
                connection,
                self._queues,
                standstill_seconds=self._standstill_seconds,
                blind_after_seconds=self._blind_after_seconds,
            )

    def _count(self, events: Sequence[ReportedEvent], transitions: Sequence[Transition], ms: float) -> None:
        log.debug("batch_stored", events=len(events), transitions=len(transitions), ms=ms)
        self._statistics.add_batch(events, transitions, ms=ms)
        if transitions:
            self._wake()


async def _store_events(
    connection: Connection, events: Sequence[ReportedEvent], traceparents: Mapping[int, str]
) -> tuple[list[Transition], list[str | None]]:
    """The transitions, and what each was caused by when any of the events is traced."""
    caused_by: list[str | None] = []
    now = await transaction_time(connection)
    rows = await _load(connection, events)
    order = microseconds(now)
    for place, event in enumerate(events):
        merge(rows, event, Receipt(now, order + place))
        if traceparents:
            caused_by += [traceparents.get(place)] * (len(rows.transitions) - len(caused_by))
    await store_rows(connection, rows, now)
    return rows.transitions, caused_by


async def _load(connection: Connection, events: Iterable[ReportedEvent]) -> Rows:
    """Lock every row that the events concern: workers first, then the instances that must be looked at.

    A worker's instances are looked at when an inventory of it says something new, or when its instances are also
    spoken of directly, since then the inventory is held against what that leaves.
    """
    rows = Rows()
    worker_ids: set[int] = set()
    instance_ids: set[int] = set()
    ownerless: set[int] = set()
    beaten: set[int] = set()
    spoken_of: set[int] = set()
    beats: list[tuple[int, Inventory]] = []
    for event in events:
        match event:
            case Heartbeat():
                beaten.add(event.worker_id)
                if event.servers is not None:
                    beats.append((event.worker_id, event.servers))
            case ServerStarted() | ServerStopped():
                spoken_of.add(event.worker_id)
                instance_ids.add(event.instance_id)
            case ServerStatusReported():
                ownerless.add(event.instance_id)
            case _:
                worker_ids.add(event.worker_id)
    if ownerless:
        spoken_of.update(await find_owners(connection, ownerless))
    await lock_workers(connection, worker_ids | beaten | spoken_of, rows)
    relisted = {
        worker_id
        for worker_id, inventory in beats
        if worker_id in spoken_of
        or worker_id not in rows.workers
        or not is_repeated(rows.workers[worker_id], inventory)
    }
    instance_ids |= ownerless
    for worker_id, inventory in beats:
        if worker_id in relisted:
            instance_ids.update(entry.instance_id for entry in inventory.list_entries())
    recovering = {worker_id for worker_id in beaten if (row := rows.workers.get(worker_id)) and row.reason in INFERRED}
    if instance_ids or relisted or recovering:
        await lock_instances(connection, instance_ids, rows, active_of=relisted, lost_of=recovering | relisted)
    return rows
