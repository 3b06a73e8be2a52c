"""The leader asks the alert rules about what has happened since they were last asked, and keeps
what they find.

What they found and how far they have looked is one transaction: a leader that dies in between has
done neither, and the next one looks again. No transaction is open while they think: only the leader
writes what they read, so it is the same when they are done, or the leader is another one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter

import structlog

from manman_status.backoff import Backoff
from manman_status.clock import DatabaseClock, elapsed
from manman_status.domain.alerts.crash_loop import CRASH_WINDOW, CrashLoop
from manman_status.domain.alerts.flapping import FLAP_WINDOW, Flapping
from manman_status.domain.alerts.folding import fold_key
from manman_status.domain.alerts.judgement import Judgement, judge
from manman_status.domain.alerts.new_workers import MANY, busiest, recent
from manman_status.domain.alerts.scene import Change, Crash, Minute, Scene
from manman_status.domain.alerts.server_crashed import crash_of, is_crash
from manman_status.domain.alerts.worker_lost import WorkerLost
from manman_status.domain.clock import ClockReading
from manman_status.domain.rows import Patience
from manman_status.domain.status import Entity, StatusType
from manman_status.errors import describe
from manman_status.leadership import LEASE, Leadership
from manman_status.processor.notifying import BROKER
from manman_status.store.alert_scene import (
    Progress,
    change_of,
    count_lost_servers,
    count_new_workers,
    count_unlisted,
    count_workers,
    move_progress,
    read_changes,
    read_crashes,
    read_duplicates,
    read_flips,
    read_held,
    read_instances,
    read_progress,
    read_unresolved,
    read_workers,
    worker_of,
)
from manman_status.store.alerts import open_alerts, resolve_alerts, update_alerts
from manman_status.store.leases import LeaseLost, check_lease
from manman_status.store.pool import DATABASE_ERRORS, Connection, Pool

log = structlog.get_logger()

REVISIONS_AT_ONCE = 10_000
LEAST_PAUSES = 4
"""Times as long as the look before it."""
LONGEST_PAUSE_SECONDS = 5.0
"""A look that hung and this pause are together far less than what is told as a time without a
processor."""


class Alerter:
    """`wake` is called after alerts were committed; `woken` may be called from outside when there
    is something new."""

    def __init__(
        self,
        pool: Pool,
        leadership: Leadership,
        clock: DatabaseClock,
        *,
        degraded_after_seconds: float,
        blind_after_seconds: float,
        patience: Patience,
        wake: Callable[[], None],
        interval_seconds: float = 1.0,
    ) -> None:
        self._pool = pool
        self._leadership = leadership
        self._clock = clock
        self._degraded_after_seconds = degraded_after_seconds
        self._blind_after_seconds = blind_after_seconds
        self._patience = patience
        self._wake = wake
        self._interval_seconds = interval_seconds
        self._more = asyncio.Event()

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            token = await self._leadership.wait()
            more = False
            pause = 0.0
            begun = perf_counter()
            try:
                more = await self.judge(token)
                # With tens of thousands of alerts open a look takes long: it may not take all of a
                # leader's time.
                pause = min(LEAST_PAUSES * (perf_counter() - begun), LONGEST_PAUSE_SECONDS)
            except LeaseLost:
                self._leadership.lost()
            except DATABASE_ERRORS as error:
                backoff.failed()
                if backoff.is_worth_saying:
                    log.warning("alerts_not_judged", error=describe(error))
            else:
                backoff.worked()
            await asyncio.sleep(pause)
            if not more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_seconds):
                        await self._more.wait()
            self._more.clear()

    def wake(self) -> None:
        """There are new transitions."""
        self._more.set()

    async def judge(self, token: int) -> bool:
        """Ask the rules once, about a bounded number of transitions; whether there are more.

        When the database's clock has just stepped, nothing is judged until the step was taken: ages
        would be wrong.
        """
        begun = elapsed()
        async with self._pool.acquire() as connection:
            progress = await read_progress(connection)
            if self._clock.step_at(
                ClockReading(progress.now, begun, elapsed()), steps=progress.clock_steps
            ):
                return False
            through = min(progress.newest_revision, progress.judged_revision + REVISIONS_AT_ONCE)
            scene = await self._look(connection, progress, through)
        judgement = await asyncio.to_thread(judge, scene)
        async with self._pool.acquire() as connection, connection.transaction():
            await check_lease(connection, LEASE, token)
            if not await move_progress(
                connection,
                judged=progress.judged_revision,
                through=through,
                memory=judgement.memory,
            ):
                return True
            await open_alerts(connection, judgement.opened, promised_to=BROKER)
            await update_alerts(connection, judgement.found_again)
            await resolve_alerts(connection, judgement.over)
        _tell(judgement)
        if judgement.opened or judgement.over or judgement.found_again:
            self._wake()
        return through < progress.newest_revision

    async def _look(self, connection: Connection, progress: Progress, through: int) -> Scene:
        unresolved = await read_unresolved(connection)
        rows = await read_changes(connection, after=progress.judged_revision, through=through)
        subjects = [alert.subject for alert in unresolved.values()]
        changed = {worker_id for row in rows if (worker_id := worker_of(row)) is not None}
        worker_ids = changed | {
            subject.worker_id for subject in subjects if subject.worker_id is not None
        }
        instance_ids = {
            subject.instance_id for subject in subjects if subject.instance_id is not None
        }
        workers = await read_workers(connection, worker_ids) if worker_ids else {}
        went_along = (
            await count_lost_servers(connection, after=progress.judged_revision, through=through)
            if rows
            else {}
        )
        changes = [
            change_of(
                row,
                workers.get(worker_of(row) or 0),
                went_along.get((row["entity_id"], row["at"]), 0),
            )
            for row in rows
        ]
        instance_ids |= {
            change.entity_id for change in changes if change.entity is Entity.SERVER_INSTANCE
        }
        lost = {
            c.entity_id
            for c in changes
            if c.entity is Entity.WORKER and c.new_status is StatusType.LOST
        }
        flapping = lost | {
            alert.subject.worker_id
            for alert in unresolved.values()
            if alert.rule == Flapping.name and alert.subject.worker_id is not None
        }
        crashes = await self._crashes(
            connection, changes, [alert.rule for alert in unresolved.values()]
        )
        crashed_on = {
            crash.worker_id for crash in crashes if crash.worker_id is not None
        } - workers.keys()
        if crashed_on:
            workers |= await read_workers(connection, crashed_on)
        new = (
            await count_new_workers(connection, after=progress.judged_revision, through=through)
            if through > progress.judged_revision
            else []
        )
        fold = unresolved.get(fold_key(WorkerLost.name))
        minutes = recent(progress.memory.minutes, new, progress.now)
        return Scene(
            now=progress.now,
            changes=changes,
            workers=workers,
            instances=await read_instances(connection, instance_ids) if instance_ids else {},
            crashes=crashes,
            flips=await read_flips(connection, flapping, within=FLAP_WINDOW) if flapping else {},
            guards=await read_held(connection),
            duplicates=await read_duplicates(connection, self._patience),
            lag_seconds=progress.lag_seconds,
            degraded_after_seconds=self._degraded_after_seconds,
            blind_after_seconds=self._blind_after_seconds,
            unjudged_seconds=progress.unjudged_seconds,
            clock_step=progress.clock_step,
            dead_letters=progress.dead_letters,
            dead_letters_unsent_since=progress.dead_letters_unsent_since,
            minutes=minutes,
            workers_before=await self._workers_before(connection, minutes),
            unlisted=None if fold is None else await count_unlisted(connection, fold.opened_at),
            memory=progress.memory,
            open=unresolved,
        )

    async def _workers_before(
        self, connection: Connection, minutes: Sequence[Minute]
    ) -> int | None:
        """How many workers were known before these minutes; None when none of them brought many."""
        if busiest(minutes) <= MANY:
            return None
        return await count_workers(connection, before=minutes[0].at)

    async def _crashes(
        self, connection: Connection, changes: Sequence[Change], open_rules: Sequence[str]
    ) -> list[Crash]:
        """Those that an alert was opened for before, and those that are new."""
        new = [crash_of(change) for change in changes if is_crash(change)]
        if not new and CrashLoop.name not in open_rules:
            return []
        return [*await read_crashes(connection, within=CRASH_WINDOW), *new]


def _tell(judgement: Judgement) -> None:
    for (rule, severity), number in Counter(
        (f.rule, f.severity) for f, _ in judgement.opened
    ).items():
        keys = [f.key for f, _ in judgement.opened if (f.rule, f.severity) == (rule, severity)]
        log.info("alerts_opened", rule=rule, severity=severity, alerts=number, first=keys[0])
    if judgement.over:
        log.info("alerts_resolved", alerts=len(judgement.over), first=next(iter(judgement.over)))
