"""Batches of events become rows: merged in memory from locked rows, stored by one transaction, and
tried again until it is.

Most heartbeats say what the row of their worker says already. One statement stores those without
reading the row, and commits by itself. A transaction follows for the rest, and for control
messages: a canary is committed last, so it never speaks for events that are not.

A failure is either the moment's fault or an item's. The moment's (the database is unavailable,
another processor was at the same rows) is tried again. An item's is not: the batch is halved until
the item stands alone, its neighbours are stored, and the item is handed back to become a dead
letter. So no item stops the queue, whatever it raises, and no retry is without a bound unless the
database itself is to blame.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from time import perf_counter
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, assert_never
from uuid import UUID

import asyncpg
import msgspec
import structlog

from manman_status.alerts.control import take_alert_message
from manman_status.alerts.silences import TooManySilences
from manman_status.backoff import Backoff, OnceAMinute
from manman_status.domain.events import Event, Heartbeat, ReportedEvent, microseconds
from manman_status.domain.merge import Concerned, concerns, is_repeated, merge
from manman_status.domain.rows import Patience, Receipt, Rows, Transition
from manman_status.domain.status import INFERRED
from manman_status.errors import ManManStatusError, describe
from manman_status.processor.forgetting import take_forget
from manman_status.processor.statistics import Statistics
from manman_status.store.dead_letters import put_letters
from manman_status.store.observation import move_watermark
from manman_status.store.pool import CONNECTION_ERRORS, DATABASE_ERRORS, Connection, Pool
from manman_status.store.sweep import release_guard
from manman_status.store.writes import (
    RowAppeared,
    advance_steady,
    append_transitions,
    find_owners,
    lock_instances,
    lock_workers,
    store_rows,
    transaction_time,
)
from manman_status.wire.control import (
    AlertAcknowledged,
    CanarySent,
    ControlMessage,
    ForgetRequested,
    GuardReleased,
    SilenceEnded,
    SilenceRequested,
)

log = structlog.get_logger()

REFUSALS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.CardinalityViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.StatementTooComplexError,
    asyncpg.PLPGSQLError,
    TooManySilences,
)
"""Errors by which the database can never store this: the fault of the data, not of the moment."""

TOO_MUCH = (
    TimeoutError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalServerError,
)
"""The command took more time or memory than it may, or the database hangs: a smaller batch shows
which."""

CONFLICTS_OF_SEVERAL = 5
CONFLICTS_OF_ONE = 25
FAILURES_OF_ONE = 3
"""Tries before a batch is halved, and before one item alone is refused. A failure of one item
counts only when the database answers right after it."""

Item: TypeAlias = ReportedEvent | ControlMessage
UNTRACED: Mapping[int, str] = MappingProxyType({})


class Refused(msgspec.Struct, frozen=True):
    """An item that was understood but cannot be stored, by its place in the batch."""

    index: int
    reason: str


class Unstorable(ManManStatusError):  # noqa: N818
    """{reason}"""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason=reason)


class _Batch(NamedTuple):
    """`items` in the order they came; `traceparents` by the place of an item; `letters` are packed
    dead letters."""

    queue: str
    items: Sequence[Item]
    traceparents: Mapping[int, str]
    letters: Sequence[tuple[UUID, bytes]]

    def halves(self) -> tuple[_Batch, _Batch]:
        middle = len(self.items) // 2
        later = {
            place - middle: traceparent
            for place, traceparent in self.traceparents.items()
            if place >= middle
        }
        return (
            _Batch(self.queue, self.items[:middle], self.traceparents, ()),
            _Batch(self.queue, self.items[middle:], later, self.letters),
        )


class _Tries:
    """The tries to store one batch. `owners` are further workers whose rows it concerns."""

    def __init__(self) -> None:
        self.backoff = Backoff()
        self.conflicts = 0
        self.failures = 0
        self.owners: set[int] = set()
        self.is_connected = False


class Ingest:
    """Stores batches, and stops trying only when cancelled. `wake` is called after transitions were
    committed."""

    def __init__(
        self,
        pool: Pool,
        statistics: Statistics,
        *,
        patience: Patience,
        wake: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._statistics = statistics
        self._patience = patience
        self._wake = wake
        self._traceback = OnceAMinute()

    async def store(
        self,
        queue: str,
        items: Sequence[Item],
        letters: Sequence[tuple[UUID, bytes]] = (),
        traceparents: Mapping[int, str] = UNTRACED,
    ) -> list[Refused]:
        """Return after the commit of all that can be stored, with what cannot.

        A canary proves all that came before it, so halves are stored in their order. `traceparents`
        are by the place of an event, and kept with the transitions that it causes.
        """
        return await self._store(_Batch(queue, items, traceparents, letters))

    async def _store(self, batch: _Batch) -> list[Refused]:
        try:
            await self._store_until_done(batch)
        except Unstorable as fault:
            if len(batch.items) > 1:
                first, later = batch.halves()
                refused = await self._store(first)
                return [
                    *refused,
                    *(
                        Refused(r.index + len(first.items), r.reason)
                        for r in await self._store(later)
                    ),
                ]
            if batch.letters:
                await self._store(batch._replace(items=()))
            log.debug(
                "item_quarantined",
                queue=batch.queue,
                kind=type(batch.items[0]).__name__,
                reason=fault.reason,
            )
            return [Refused(0, fault.reason)]
        return []

    async def _store_until_done(self, batch: _Batch) -> None:
        """Raises Unstorable when the batch, and not the moment, is to blame."""
        tries = _Tries()
        events, controls = _apart(batch.items)
        stored = [event for _, event in events]
        beats = _whole_beats(stored)
        transitions: list[Transition] = []
        while True:
            begun = perf_counter()
            try:
                async with self._pool.acquire() as connection:
                    tries.is_connected = True
                    if beats:
                        advanced = await advance_steady(connection, beats.values())
                        events = [each for each in events if each[1].worker_id not in advanced]  # type: ignore[union-attr,operator]
                        beats = {}
                    if events or controls or batch.letters:
                        async with connection.transaction():
                            transitions = await self._store_batch(
                                connection, batch, events, controls, tries.owners
                            )
            except Exception as error:  # noqa: BLE001 - the boundary of one batch: each is judged
                await asyncio.sleep(await self._judge(error, batch, tries))
            else:
                if tries.backoff.failures:
                    seconds = tries.backoff.failing_seconds
                    log.info("database_back", held_events=len(batch.items), failed_seconds=seconds)
                self._count(stored, transitions, round((perf_counter() - begun) * 1000, 1))
                return

    async def _judge(self, error: Exception, batch: _Batch, tries: _Tries) -> float:
        """The seconds after which to try again. Raises Unstorable when that would fail again."""
        alone = len(batch.items) <= 1
        connected, tries.is_connected = tries.is_connected, False
        match error:
            case RowAppeared() | asyncpg.TransactionRollbackError():
                # Another processor was at the same rows, or other workers' rows are concerned too:
                # again, at once.
                tries.conflicts += 1
                if isinstance(error, RowAppeared):
                    tries.owners |= error.owners
                if batch.items and tries.conflicts > (
                    CONFLICTS_OF_ONE if alone else CONFLICTS_OF_SEVERAL
                ):
                    raise Unstorable(
                        f"it conflicts with other rows again and again: {describe(error)}"
                    ) from error
                return random.uniform(0, 0.01) * tries.conflicts  # noqa: S311
            case _ if isinstance(error, REFUSALS) and batch.items:
                raise Unstorable(f"the database refuses it: {error}") from error
            case _ if isinstance(error, DATABASE_ERRORS):
                # Dead letters alone are bytes that the database takes: they wait until it does.
                if batch.items and connected and isinstance(error, TOO_MUCH):
                    tries.failures += bool(not alone or await self._answers())
                    if tries.failures >= (FAILURES_OF_ONE if alone else 1):
                        raise Unstorable(
                            f"it is too much for the database: {describe(error)}"
                        ) from error
                delay = tries.backoff.failed()
                if tries.backoff.is_worth_saying:
                    log.warning(
                        "database_unavailable"
                        if isinstance(error, CONNECTION_ERRORS)
                        else "database_refuses_batch",
                        error=describe(error),
                        held_events=len(batch.items),
                        failing_seconds=tries.backoff.failing_seconds,
                    )
                return delay
            case _:
                if self._traceback.is_due():
                    log.error(
                        "storing_failed", queue=batch.queue, items=len(batch.items), exc_info=error
                    )
                raise Unstorable(f"storing it fails: {describe(error)}") from error

    async def _answers(self) -> bool:
        """True when the database answers a question that costs nothing: then it does not hang."""
        try:
            async with asyncio.timeout(1), self._pool.acquire() as connection:
                await transaction_time(connection)
        except DATABASE_ERRORS:
            return False
        return True

    async def _store_batch(
        self,
        connection: Connection,
        batch: _Batch,
        events: Sequence[tuple[int, ReportedEvent]],
        controls: Sequence[ControlMessage],
        owners: set[int],
    ) -> list[Transition]:
        """Merge and write these within the caller's transaction. Return the transitions."""
        transitions: list[Transition] = []
        caused_by: list[str | None] = []
        if events:
            transitions, caused_by = await _store_events(
                connection, events, batch.traceparents, owners, self._patience
            )
        if controls:
            transitions += await self._apply_controls(connection, batch.queue, controls)
        await put_letters(connection, batch.letters)
        await append_transitions(connection, transitions, caused_by)
        return transitions

    async def _apply_controls(
        self, connection: Connection, queue: str, controls: Sequence[ControlMessage]
    ) -> list[Transition]:
        """Apply these control messages. Return the transitions."""
        transitions: list[Transition] = []
        newest: CanarySent | None = None
        for control in controls:
            match control:
                case CanarySent():
                    newest = max(newest or control, control, key=_age_of_canary)
                case GuardReleased():
                    if await release_guard(connection, control.group):
                        log.info("guard_released", group=control.group)
                case ForgetRequested():
                    transitions += await take_forget(connection, control)
                case SilenceRequested() | SilenceEnded() | AlertAcknowledged():
                    await take_alert_message(connection, control)
                case _:
                    assert_never(control)
        if newest is not None:
            await move_watermark(
                connection,
                queue,
                sent_at=newest.sent_at,
                clock_steps=newest.clock_steps,
                canary_key=newest.came_by,
            )
        return transitions

    def _count(
        self, events: Sequence[ReportedEvent], transitions: Sequence[Transition], ms: float
    ) -> None:
        log.debug("batch_stored", events=len(events), transitions=len(transitions), ms=ms)
        self._statistics.add_batch(events, transitions, ms=ms)
        if transitions:
            self._wake()


def _age_of_canary(canary: CanarySent) -> tuple[int, datetime]:
    """The age of a canary, as a key that grows: times compare within the same number of steps of
    the database's clock."""
    return canary.clock_steps, canary.sent_at


def _apart(items: Sequence[Item]) -> tuple[list[tuple[int, ReportedEvent]], list[ControlMessage]]:
    """The events, each with its place among the items, and the control messages."""
    events: list[tuple[int, ReportedEvent]] = []
    controls: list[ControlMessage] = []
    for place, item in enumerate(items):
        if isinstance(item, Event):
            events.append((place, item))
        else:
            controls.append(item)
    return events, controls


async def _store_events(
    connection: Connection,
    events: Sequence[tuple[int, ReportedEvent]],
    traceparents: Mapping[int, str],
    owners: set[int],
    patience: Patience,
) -> tuple[list[Transition], list[str | None]]:
    """Merge and write these. Return the transitions, and the traceparent of each when an event is
    traced."""
    caused_by: list[str | None] = []
    now = await transaction_time(connection)
    order = microseconds(now)
    rows = await _load(connection, (event for _, event in events), owners)
    for place, event in events:
        merge(rows, event, Receipt(now, order + place, patience))
        if traceparents:
            caused_by += [traceparents.get(place)] * (len(rows.transitions) - len(caused_by))
    await store_rows(connection, rows)
    return rows.transitions, caused_by


def _whole_beats(events: Sequence[ReportedEvent]) -> dict[int, Heartbeat]:
    """The heartbeats for `advance_steady`, by worker: whole ones, each the only one of its worker.
    None of a batch with anything but heartbeats, which may concern the same workers."""
    beats: dict[int, Heartbeat] = {}
    repeated: set[int] = set()
    for event in events:
        if type(event) is not Heartbeat:
            return {}
        if event.worker_id in beats or not _is_whole(event):
            repeated.add(event.worker_id)
        beats[event.worker_id] = event
    for worker_id in repeated:
        del beats[worker_id]
    return beats


def _is_whole(beat: Heartbeat) -> bool:
    """True when the heartbeat has all fields."""
    return (
        beat.servers is not None
        and beat.labels is not None
        and beat.interval_seconds is not None
        and beat.seq is not None
        and beat.incarnation is not None
    )


async def _load(connection: Connection, events: Iterable[ReportedEvent], owners: set[int]) -> Rows:
    """Lock and load every row that the events concern: workers first, then the instances that must
    be read.

    A worker's instances are read when an inventory of it says something new, or when an event names
    one of them directly, since the inventory is then compared with the rows. `owners` are workers
    whose instances were found to be concerned though no event names them.
    """
    rows = Rows()
    concerned = Concerned()
    for event in events:
        concerns(event, concerned)
    spoken_of = concerned.spoken_of | owners
    if concerned.ownerless:
        spoken_of.update(await find_owners(connection, concerned.ownerless))
    await lock_workers(connection, concerned.workers | concerned.beaten | spoken_of, rows)
    relisted = {
        worker_id
        for worker_id, inventory in concerned.inventories
        if worker_id in spoken_of
        or worker_id not in rows.workers
        or rows.workers[worker_id].rival_since is not None
        or not is_repeated(rows.workers[worker_id], inventory)
    }
    instance_ids = concerned.instances | concerned.ownerless
    for worker_id, inventory in concerned.inventories:
        if worker_id in relisted:
            instance_ids.update(entry.instance_id for entry in inventory.list_entries())
    beaten = [row for worker_id in concerned.beaten if (row := rows.workers.get(worker_id))]
    recovering = {row.worker_id for row in beaten if row.reason in INFERRED}
    contended = {row.worker_id for row in beaten if row.rival_since}
    if instance_ids or relisted or recovering or contended:
        active_of = relisted | contended
        await lock_instances(
            connection, instance_ids, rows, active_of=active_of, lost_of=recovering | active_of
        )
    return rows
