"""Writes what a sweep has concluded, in transactions of a bounded size that only the leader can
commit.

Rows are locked in the order of their keys, as everywhere. A worker is marked LOST before its
instances beyond the first `INSTANCES_AT_ONCE`: should the leader die in between, the next one finds
these as abandoned, one timeout later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import structlog

from manman_status.domain.conclusions import (
    crash_missing,
    is_abandoned,
    lose_instance,
    lose_worker,
)
from manman_status.domain.guard import GuardState
from manman_status.domain.rows import Evidence, Rows
from manman_status.domain.status import ACTIVE, TERMINAL, Entity, StatusType
from manman_status.domain.sweep import Horizon
from manman_status.leadership import Term
from manman_status.processor.statistics import Statistics
from manman_status.store.lateness import forget_lost
from manman_status.store.pool import Connection
from manman_status.store.sweep import (
    Overdue,
    abandoned_instances,
    active_instances,
    delete_guards,
    unlisted_instances,
    write_guards,
)
from manman_status.store.writes import (
    append_transitions,
    lock_instances,
    lock_workers,
    store_rows,
    transaction_time,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = structlog.get_logger()

WORKERS_AT_ONCE = 1_000
INSTANCES_AT_ONCE = 5_000
GUARDS_AT_ONCE = 1_000
"""Rows in one transaction."""

T = TypeVar("T")


def pieces(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in their order, at most `size` in each list."""
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece


class Conclusions:
    """The conclusions of one sweep. `wake` is called after each transaction that appended
    transitions."""

    def __init__(
        self,
        connection: Connection,
        term: Term,
        horizon: Horizon,
        statistics: Statistics,
        wake: Callable[[], None],
    ) -> None:
        self.horizon = horizon
        self._connection = connection
        self.term = term
        self._statistics = statistics
        self._wake = wake

    async def write_guards(self, guards: Mapping[str, GuardState]) -> None:
        for names in pieces(sorted(guards), GUARDS_AT_ONCE):
            async with self.term.transaction(self._connection):
                await write_guards(self._connection, {name: guards[name] for name in names})

    async def delete_guards(self, groups: Iterable[str]) -> None:
        for names in pieces(sorted(groups), GUARDS_AT_ONCE):
            async with self.term.transaction(self._connection):
                await delete_guards(self._connection, names)

    async def lose_workers(
        self, condemned: Sequence[Overdue], held: Mapping[str, GuardState]
    ) -> None:
        """Mark these workers, at most `WORKERS_AT_ONCE`, and their active instances LOST, except
        workers that have been received since. `held`: the guards before this sweep."""
        if not condemned:
            return
        lost: dict[int, Evidence] = {}
        ids = sorted(worker.worker_id for worker in condemned)
        async with self._writing("workers_marked_lost") as (rows, now):
            await lock_workers(self._connection, ids, rows)
            for silent in condemned:
                worker = rows.workers.get(silent.worker_id)
                if (
                    worker is None
                    or worker.status not in ACTIVE
                    or worker.last_heartbeat != silent.last_heartbeat
                ):
                    continue
                evidence: Evidence = {
                    "last_heartbeat": silent.last_heartbeat,
                    "deadline": silent.deadline,
                    "observed_through": self.horizon.observed_through,
                }
                if silent.group in held:
                    evidence["held_since"] = held[silent.group].holding_since
                lost[silent.worker_id] = evidence
            instances = await active_instances(self._connection, lost, limit=INSTANCES_AT_ONCE)
            await lock_instances(self._connection, instances, rows)
            for worker_id, evidence in sorted(lost.items()):
                lose_worker(rows, rows.workers[worker_id], now, evidence)
            await forget_lost(self._connection, lost)
        while len(instances) == INSTANCES_AT_ONCE:
            instances = await self._lose_rest(lost, now)

    async def _lose_rest(self, lost: Mapping[int, Evidence], at: datetime) -> list[int]:
        """Mark further active instances of workers that were marked LOST at that time, and still
        are; their ids."""
        async with self._writing("workers_marked_lost") as (rows, now):
            await lock_workers(self._connection, sorted(lost), rows)
            still = [
                worker.worker_id
                for worker in rows.workers.values()
                if worker.status is StatusType.LOST and worker.status_since == at
            ]
            instances = await active_instances(self._connection, still, limit=INSTANCES_AT_ONCE)
            await lock_instances(self._connection, instances, rows)
            for instance_id in instances:
                instance = rows.instances[instance_id]
                worker_id = instance.worker_id or 0
                lose_instance(rows, instance, now, {"worker_id": worker_id, **lost[worker_id]})
        return instances

    async def lose_abandoned(self) -> None:
        after = 0
        while found := await abandoned_instances(
            self._connection, self.horizon, after=after, limit=INSTANCES_AT_ONCE
        ):
            await self._lose_abandoned(found)
            after = found[-1][0]

    async def _lose_abandoned(self, found: Sequence[tuple[int, int]]) -> None:
        async with self._writing("abandoned_servers_lost") as (rows, now):
            await self._lock(rows, found)
            for instance_id, worker_id in found:
                worker, instance = rows.workers.get(worker_id), rows.instances.get(instance_id)
                if worker is None or instance is None or not is_abandoned(instance, worker):
                    continue
                evidence: Evidence = {
                    "worker_id": worker_id,
                    "worker_status": worker.status,
                    "observed_through": self.horizon.observed_through,
                }
                lose_instance(rows, instance, now, evidence, has_ended=worker.status in TERMINAL)

    async def crash_unlisted(self) -> None:
        after = 0
        while found := await unlisted_instances(
            self._connection, self.horizon, after=after, limit=INSTANCES_AT_ONCE
        ):
            await self._crash_unlisted(found)
            after = found[-1][0]

    async def _crash_unlisted(self, found: Sequence[tuple[int, int, datetime]]) -> None:
        async with self._writing("missing_servers_crashed") as (rows, now):
            await self._lock(
                rows, [(instance_id, worker_id) for instance_id, worker_id, _ in found]
            )
            for instance_id, worker_id, deadline in found:
                instance = rows.instances.get(instance_id)
                if (
                    instance is None
                    or instance.missing_since is None
                    or instance.worker_id != worker_id
                ):
                    continue
                evidence: Evidence = {
                    "missing_since": instance.missing_since,
                    "deadline": deadline,
                    "observed_through": self.horizon.observed_through,
                }
                crash_missing(rows, instance, now, evidence)

    async def _lock(self, rows: Rows, found: Sequence[tuple[int, int]]) -> None:
        await lock_workers(self._connection, sorted({worker_id for _, worker_id in found}), rows)
        await lock_instances(self._connection, [instance_id for instance_id, _ in found], rows)

    @asynccontextmanager
    async def _writing(self, event: str) -> AsyncIterator[tuple[Rows, datetime]]:
        """Open a transaction that only the leader can commit. What its body changed in the rows is
        written at its end and logged as `event`."""
        rows = Rows()
        async with self.term.transaction(self._connection):
            now = await transaction_time(self._connection)
            yield rows, now
            await store_rows(self._connection, rows)
            await append_transitions(self._connection, rows.transitions)
        if rows.transitions:
            entities = Counter(transition.entity for transition in rows.transitions)
            log.info(
                event, workers=entities[Entity.WORKER], servers=entities[Entity.SERVER_INSTANCE]
            )
            self._statistics.add_transitions(rows.transitions)
            self._wake()
