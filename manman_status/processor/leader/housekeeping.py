"""Keeps partitions, retention, and the rows of processors that are gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from time import monotonic
from typing import Protocol, assert_never

import structlog

from manman_status.alerts.judging.rows import forget_resolved
from manman_status.alerts.silences import forget_silences
from manman_status.backoff import Backoff, OnceAMinute
from manman_status.errors import BrokerUnavailable
from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.store.clock_step import has_stepped_within
from manman_status.store.observation import (
    QueueMark,
    QueueState,
    change_queue,
    forget_gaps,
    forget_queue,
    forget_silent_processors,
    leave_queue,
    read_queues,
)
from manman_status.store.partitions import PARTITION_DAYS_AHEAD, keep_partitions
from manman_status.store.pool import Connection
from manman_status.store.retention import delete_ended, delete_unreported, forget_as_of
from manman_status.store.thresholds import disagreeing_processors

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 1.0
STRAYS_EVERY_SECONDS = 60.0
FAILURES_BEFORE_A_LINE = 5
"""Failures to query the broker about unwanted queues, before a line in the log: while the broker is
unavailable, others log it."""
EMPTY_SECONDS = 5.0
"""Time for which a queue must be empty before it is deleted, and in which processors let go of
it."""
TIDY_EVERY_SECONDS = 3600.0
LOCKS_TRIED_EVERY_SECONDS = 60.0
KEEP_ALL_AFTER_STEP = timedelta(days=1)
"""A clock that is years ahead must not cost the history: a person has a day to set it."""


class Queues(Protocol):
    """Operations on the broker's queues. Each raises BrokerUnavailable."""

    async def release(self, queue: str) -> bool:
        """Unbind it from everything; whether it is there."""

    async def count(self, queue: str) -> int | None:
        """The number of messages in it; None when it does not exist."""

    async def strays(self, known: Collection[str]) -> list[str]:
        """Queues of ours that are there, and of which the database knows nothing."""

    async def delete(self, queue: str) -> bool:
        """Delete the queue if it is empty and has no consumer; True when it is gone."""


class Housekeeper(LeaderTask):
    failure_event = "housekeeping_failed"

    def __init__(
        self,
        leadership: Leadership,
        queues: Queues,
        *,
        retention_days: int,
        silent_seconds: float,
    ) -> None:
        super().__init__(leadership)
        self._queues = queues
        self._waits_since: dict[str, float] = {}
        self._retention_days = retention_days
        self._silent_seconds = silent_seconds
        self._tidy_at = self._partitions_at = self._strays_at = float("-inf")
        self._locks = Backoff(longest_seconds=LOCKS_TRIED_EVERY_SECONDS)
        self._queue_problem = OnceAMinute()
        self._queue_failures = 0
        self._disagreeing: list[str] = []

    async def round(self, term: Term) -> float:
        await self._forget_the_gone(term)
        await self._keep_queues(term)
        if monotonic() >= self._tidy_at:
            await self._tidy(term)
            self._tidy_at = monotonic() + TIDY_EVERY_SECONDS
        if monotonic() >= self._partitions_at:
            await self._keep_partitions(term)
        return LOOK_EVERY_SECONDS

    async def _forget_the_gone(self, term: Term) -> None:
        """Delete the rows of processors that stopped reporting: the broker has given their queues
        to others."""
        async with term.transaction() as connection:
            gone = await forget_silent_processors(connection, silent_seconds=self._silent_seconds)
            disagreeing = await disagreeing_processors(
                connection, within_seconds=self._silent_seconds
            )
        for processor_id in gone:
            log.warning("processor_gone", processor_id=processor_id)
        if disagreeing and disagreeing != self._disagreeing:
            log.warning(
                "thresholds_differ",
                processors=disagreeing,
                meaning="the leader's settings count; give all processors the same",
            )
        self._disagreeing = disagreeing

    async def _keep_queues(self, term: Term) -> None:
        """Take unwanted queues out of use, a step at a time. Each step can be repeated, so the next
        leader continues where this one ended."""
        async with term.connection() as connection:
            marks = await read_queues(connection)
        if monotonic() >= self._strays_at:
            await self._find_strays({mark.queue for mark in marks}, term)
        for mark in marks:
            try:
                await self._keep_queue(mark, term)
            except BrokerUnavailable as error:
                self._queue_failures += 1
                if self._queue_failures > FAILURES_BEFORE_A_LINE and self._queue_problem.is_due():
                    log.warning("queue_not_removed", queue=mark.queue, error=str(error))
            else:
                self._queue_failures = 0

    async def _find_strays(self, known: Collection[str], term: Term) -> None:
        """Find queues that the database does not know: a backup was restored that is older than
        they are, or a processor hung between naming and binding one. Part of the heartbeats goes
        there, and no processor reads it."""
        try:
            strays = await self._queues.strays(known)
        except BrokerUnavailable:
            return
        for queue in strays:
            async with term.transaction() as connection:
                await leave_queue(connection, queue)
            log.warning(
                "stray_queue_found",
                queue=queue,
                meaning="it is read until it is empty, then deleted",
            )
        self._strays_at = monotonic() + STRAYS_EVERY_SECONDS

    async def _keep_queue(self, mark: QueueMark, term: Term) -> None:
        queue = mark.queue
        match mark.state:
            case QueueState.ACTIVE:
                return
            case QueueState.LEAVING:
                await self._queues.release(queue)
                await self._change_queue(queue, mark.state, QueueState.RETIRED, term)
                log.info(
                    "queue_retired",
                    queue=queue,
                    meaning="what is left in it is read, then it is deleted",
                )
            case QueueState.RETIRED:
                is_there = await self._queues.release(
                    queue
                )  # somebody slow may have bound it again
                if is_there and await self._queues.count(queue):
                    self._waits_since.pop(queue, None)
                elif self._has_waited(queue):
                    await self._change_queue(queue, mark.state, QueueState.CLOSING, term)
            case QueueState.CLOSING:
                if self._has_waited(queue):
                    await self._delete_queue(queue, term)
            case _:
                assert_never(mark.state)

    def _has_waited(self, queue: str) -> bool:
        """True once the time is over since the first call for this queue; then it begins anew."""
        if monotonic() - self._waits_since.setdefault(queue, monotonic()) < EMPTY_SECONDS:
            return False
        del self._waits_since[queue]
        return True

    async def _delete_queue(self, queue: str, term: Term) -> None:
        if not await self._queues.delete(queue):
            # Whoever read it gave something back, or still reads.
            await self._change_queue(queue, QueueState.CLOSING, QueueState.RETIRED, term)
            return
        async with term.transaction() as connection:
            await forget_queue(connection, queue)
        log.info("queue_deleted", queue=queue)

    async def _change_queue(
        self, queue: str, before: QueueState, after: QueueState, term: Term
    ) -> None:
        async with term.transaction() as connection:
            await change_queue(connection, queue, before, after)

    async def _keep_partitions(self, term: Term) -> None:
        """Make and drop partitions. No lease is checked: every processor would do the same, and one
        at a time. The check would keep the lease from being renewed while a lock is waited for."""
        async with term.connection() as connection:
            keeps_all = await has_stepped_within(connection, KEEP_ALL_AFTER_STEP)
            retention_days = None if keeps_all else self._retention_days
            done = await keep_partitions(
                connection, days_ahead=PARTITION_DAYS_AHEAD, retention_days=retention_days
            )
        if done.made or done.dropped:
            log.info("partitions_changed", made=done.made, dropped=done.dropped)
        if done.waiting:
            self._partitions_at = monotonic() + self._locks.failed()
            if self._locks.is_worth_saying:
                log.info(
                    "partitions_wait",
                    lock_held_by=done.waiting,
                    waiting_seconds=self._locks.failing_seconds,
                )
            return
        self._partitions_at = monotonic() + TIDY_EVERY_SECONDS
        self._locks = Backoff(longest_seconds=LOCKS_TRIED_EVERY_SECONDS)

    async def _tidy(self, term: Term) -> None:
        async with term.connection() as connection:
            if await has_stepped_within(connection, KEEP_ALL_AFTER_STEP):
                return
            deleted = await self._delete(delete_ended, connection, term)
            deleted += await self._delete(delete_unreported, connection, term)
            deleted += await self._delete(forget_as_of, connection, term)
            deleted += await self._forget(connection, term)
        if deleted:
            log.info("retention_done", rows_deleted=deleted)

    async def _forget(self, connection: Connection, term: Term) -> int:
        async with term.transaction(connection):
            silences = await forget_silences(connection, retention_days=self._retention_days)
            alerts = await forget_resolved(connection, retention_days=self._retention_days)
            gaps = await forget_gaps(connection, retention_days=self._retention_days)
        return silences + alerts + gaps

    async def _delete(
        self, some: Callable[..., Awaitable[int]], connection: Connection, term: Term
    ) -> int:
        """Call `some` until it finds nothing more to delete, each time in a transaction."""
        total = 0
        while True:
            async with term.transaction(connection):
                deleted = await some(connection, retention_days=self._retention_days)
            total += deleted
            if not deleted:
                return total
