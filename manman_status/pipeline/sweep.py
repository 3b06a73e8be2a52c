"""Once a second the leader looks for silence that counts: behind the watermark, after the grace, past the guard."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import groupby
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog

from manman_status.backoff import Backoff
from manman_status.domain.conclusions import crash_missing, lose_instance, lose_worker
from manman_status.domain.guard import GuardState, judge_groups
from manman_status.domain.rows import Rows
from manman_status.domain.status import ACTIVE, Entity
from manman_status.domain.sweep import Horizon, SweepRules
from manman_status.errors import describe
from manman_status.pipeline.leadership import LEASE, Leadership
from manman_status.pipeline.statistics import Statistics
from manman_status.store.clock_step import read_step, settle_alerts, settle_fleet
from manman_status.store.leases import LeaseLost, check_lease
from manman_status.store.pool import DATABASE_ERRORS, Connection, Pool
from manman_status.store.sweep import (
    Overdue,
    abandoned_instances,
    earliest_deadline,
    group_counts,
    overdue_workers,
    read_guards,
    read_horizon,
    unlisted_instances,
    write_guards,
)
from manman_status.store.writes import (
    RowAppeared,
    append_transitions,
    lock_instances,
    lock_workers,
    store_rows,
    transaction_time,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = structlog.get_logger()


class Sweeper:
    """`wake` is called after transitions were committed."""

    def __init__(
        self,
        pool: Pool,
        leadership: Leadership,
        rules: SweepRules,
        *,
        interval_seconds: float,
        statistics: Statistics,
        wake: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._leadership = leadership
        self._rules = rules
        self._interval_seconds = interval_seconds
        self._wake = wake
        self._statistics = statistics
        self._scan_from: datetime | None = None
        self._clock_steps = 0

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            if self._leadership.token is None:
                self._statistics.sweep_ms = None
            token = await self._leadership.wait()
            begun = perf_counter()
            try:
                await self.sweep(token)
            except LeaseLost:
                self._leadership.lost()
            except RowAppeared:
                continue  # a processor was at the same rows: look again
            except DATABASE_ERRORS as error:
                backoff.failed()
                if backoff.is_worth_saying:
                    log.warning("sweep_failed", error=describe(error))
            else:
                backoff.worked()
            self._statistics.sweep_ms = round((perf_counter() - begun) * 1000, 2)
            await asyncio.sleep(self._interval_seconds)

    async def sweep(self, token: int) -> None:
        """Conclude all that is due now. Raises LeaseLost when another has come to lead."""
        async with self._pool.acquire() as connection:
            await self._settle_clock(connection, token)
            horizon = await read_horizon(connection)
            if horizon is None:
                return
            times = self._times
            guards = await read_guards(connection)
            if guards or await self._scan_is_due(connection, horizon):
                overdue = await overdue_workers(connection, horizon, **times)
                await self._judge(connection, token, horizon, overdue, guards)
                await self._lose_abandoned(connection, token, horizon)
            unlisted = await unlisted_instances(connection, horizon, **times)
            if unlisted:
                await self._crash_unlisted(connection, token, horizon, unlisted)

    async def _settle_clock(self, connection: Connection, token: int) -> None:
        """Bring the times in the rows along when the database's clock has stepped, before anything
        is concluded."""
        step = await read_step(connection)
        if step.steps != self._clock_steps:
            self._clock_steps, self._scan_from = step.steps, None
        if not (step.is_new or step.is_recent):
            return
        async with connection.transaction():
            await check_lease(connection, LEASE, token)
            await settle_fleet(connection, step)
        async with connection.transaction():
            await check_lease(connection, LEASE, token)
            await settle_alerts(connection, step)

    @property
    def _times(self) -> dict[str, Any]:
        rules = self._rules
        return {
            "default_interval": rules.default_interval,
            "minimum_timeout": rules.minimum_timeout,
            "grace": rules.grace,
        }

    async def _scan_is_due(self, connection: Connection, horizon: Horizon) -> bool:
        """No deadline can pass before the earliest that the last scan saw, nor can one that was set since then
        pass before the smallest timeout is over."""
        if self._scan_from is not None and horizon.observed_through < self._scan_from:
            return False
        earliest = await earliest_deadline(
            connection,
            default_interval=self._rules.default_interval,
            minimum_timeout=self._rules.minimum_timeout,
        )
        due = earliest is not None and earliest < horizon.observed_through
        later = horizon.observed_through + timedelta(seconds=self._rules.minimum_timeout)
        self._scan_from = None if due else min(later, earliest or later)
        return True

    async def _judge(
        self,
        connection: Connection,
        token: int,
        horizon: Horizon,
        overdue: list[Overdue],
        guards: dict[str, GuardState],
    ) -> None:
        if not overdue and not guards:
            return
        window = max((worker.timeout for worker in overdue), default=self._rules.minimum_timeout)
        counts = await group_counts(connection, horizon, window=window, default_interval=self._rules.default_interval)
        silent = {group: list(some) for group, some in groupby(sorted(overdue, key=_place), key=_group)}
        condemned, holding = judge_groups(
            silent, counts, guards, observed=horizon.observed_through, rules=self._rules.guard
        )
        changed = {
            group: holding.get(group)
            for group in sorted({*guards, *holding})
            if holding.get(group) != guards.get(group)
        }
        for group, guard in changed.items():
            _tell(group, guards.get(group), guard)
        if condemned or changed:
            await self._lose(connection, token, horizon, condemned, changed, held=guards)

    async def _lose(
        self,
        connection: Connection,
        token: int,
        horizon: Horizon,
        condemned: list[Overdue],
        guards: dict[str, GuardState | None],
        *,
        held: dict[str, GuardState],
    ) -> None:
        beats = {worker.worker_id: worker for worker in condemned}
        async with self._writing(connection, token) as (rows, now):
            await lock_workers(connection, sorted(beats), rows)
            await lock_instances(connection, [], rows, active_of=beats)
            for worker_id, silent in sorted(beats.items()):
                worker = rows.workers.get(worker_id)
                if worker is None or worker.status not in ACTIVE or worker.last_heartbeat != silent.last_heartbeat:
                    continue  # it was heard of after all
                evidence = {
                    "last_heartbeat": silent.last_heartbeat,
                    "deadline": silent.deadline,
                    "observed_through": horizon.observed_through,
                }
                if silent.group in held:
                    evidence["held_since"] = held[silent.group].opened_at
                lose_worker(rows, worker, now, evidence)
            await write_guards(connection, guards)
        self._done("lost_to_silence", rows)

    async def _lose_abandoned(self, connection: Connection, token: int, horizon: Horizon) -> None:
        found = await abandoned_instances(connection, horizon, **self._times)
        if not found:
            return
        async with self._writing(connection, token) as (rows, now):
            await _lock(connection, rows, found)
            for instance_id, worker_id in sorted(found):
                worker, instance = rows.workers.get(worker_id), rows.instances.get(instance_id)
                if worker is None or instance is None or worker.status in ACTIVE or instance.status not in ACTIVE:
                    continue
                evidence = {
                    "worker_id": worker_id,
                    "worker_status": worker.status,
                    "observed_through": horizon.observed_through,
                }
                lose_instance(rows, instance, now, evidence)
        self._done("abandoned_servers_lost", rows)

    async def _crash_unlisted(
        self, connection: Connection, token: int, horizon: Horizon, found: list[tuple[int, int, datetime]]
    ) -> None:
        async with self._writing(connection, token) as (rows, now):
            await _lock(connection, rows, [(instance_id, worker_id) for instance_id, worker_id, _ in found])
            for instance_id, worker_id, deadline in sorted(found):
                instance = rows.instances.get(instance_id)
                if instance is None or instance.missing_since is None or instance.worker_id != worker_id:
                    continue
                evidence = {
                    "missing_since": instance.missing_since,
                    "deadline": deadline,
                    "observed_through": horizon.observed_through,
                }
                crash_missing(rows, instance, now, evidence)
        self._done("missing_servers_crashed", rows)

    @asynccontextmanager
    async def _writing(self, connection: Connection, token: int) -> AsyncIterator[tuple[Rows, datetime]]:
        """A transaction that only a leader can commit; what its body changed in the rows is written at its end."""
        async with connection.transaction():
            await check_lease(connection, LEASE, token)
            now = await transaction_time(connection)
            rows = Rows()
            yield rows, now
            await store_rows(connection, rows)
            await append_transitions(connection, rows.transitions)

    def _done(self, event: str, rows: Rows) -> None:
        if rows.transitions:
            entities = Counter(transition.entity for transition in rows.transitions)
            log.info(event, workers=entities[Entity.WORKER], servers=entities[Entity.SERVER_INSTANCE])
            self._statistics.add_transitions(rows.transitions)
            self._wake()


async def _lock(connection: Connection, rows: Rows, found: Iterable[tuple[int, int]]) -> None:
    pairs = list(found)
    await lock_workers(connection, sorted({worker_id for _, worker_id in pairs}), rows)
    await lock_instances(connection, [instance_id for instance_id, _ in pairs], rows)


def _group(worker: Overdue) -> str:
    return worker.group


def _place(worker: Overdue) -> tuple[str, datetime, int]:
    """By group, and there longest silence first."""
    return worker.group, worker.deadline, worker.worker_id


def _tell(group: str, before: GuardState | None, after: GuardState | None) -> None:
    if after is None:
        log.info("fleet_guard_closed", group=group)
    elif before is None:
        log.warning("fleet_guard_holds", group=group, held=after.held, group_size=after.group_size)
    elif before.releasing_since is None and after.releasing_since is not None:
        log.warning("fleet_guard_releases", group=group, held=after.held)
