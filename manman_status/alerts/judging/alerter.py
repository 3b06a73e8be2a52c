"""The leader judges what has happened since the last look, and keeps what the rules find.

Findings and progress are stored in one transaction: a leader that dies in between has done neither,
and the next one looks again. No transaction is open while the rules think: only the leader writes
what they read, so it is the same when they are done, or the leader is another one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from time import perf_counter

import structlog

from manman_status.alerts.judging.judgement import Judgement, judge
from manman_status.alerts.judging.look import look, move_progress, read_progress
from manman_status.alerts.judging.rows import open_alerts, resolve_alerts, update_alerts
from manman_status.alerts.notifying.notifications import BROKER
from manman_status.clock import DatabaseClock, elapsed
from manman_status.domain.clock import ClockReading
from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.store.pool import DATABASE_ERRORS

log = structlog.get_logger()

REVISIONS_AT_ONCE = 10_000
INTERVAL_SECONDS = 1.0
LEAST_PAUSES = 4
"""A pause lasts at least so many times as long as the look before it."""
LONGEST_PAUSE_SECONDS = 5.0
"""A look that hung and this pause are together far shorter than the gap at which the rule
`no_processor` opens an alert."""


class Alerter(LeaderTask):
    """Judges when transitions wake it, and every second. `wake_notifiers` is called after alerts
    were committed."""

    failure_event = "alerts_not_judged"
    faults = DATABASE_ERRORS

    def __init__(
        self,
        leadership: Leadership,
        clock: DatabaseClock,
        *,
        degraded_after_seconds: float,
        blind_after_seconds: float,
        wake_notifiers: Callable[[], None],
    ) -> None:
        super().__init__(leadership)
        self._clock = clock
        self._degraded_after_seconds = degraded_after_seconds
        self._blind_after_seconds = blind_after_seconds
        self._wake_notifiers = wake_notifiers

    async def round(self, term: Term) -> float:
        begun = perf_counter()
        has_more = await self.judge(term)
        # With tens of thousands of alerts open a look takes long: it may not take all of a leader's
        # time, whatever wakes us.
        await asyncio.sleep(min(LEAST_PAUSES * (perf_counter() - begun), LONGEST_PAUSE_SECONDS))
        return 0 if has_more else INTERVAL_SECONDS

    async def judge(self, term: Term) -> bool:
        """Judge once, a bounded number of transitions; True when there are more.

        When the database's clock has just stepped, nothing is judged until the step was taken: ages
        would be wrong.
        """
        begun = elapsed()
        async with term.connection() as connection:
            progress = await read_progress(connection)
            if self._clock.step_at(
                ClockReading(progress.now, begun, elapsed()), steps=progress.clock_steps
            ):
                return False
            through = min(progress.newest_revision, progress.judged_revision + REVISIONS_AT_ONCE)
            scene = await look(
                connection,
                progress,
                through,
                degraded_after_seconds=self._degraded_after_seconds,
                blind_after_seconds=self._blind_after_seconds,
            )
        judgement = await asyncio.to_thread(judge, scene)
        async with term.transaction() as connection:
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
        _log(judgement)
        if judgement.opened or judgement.over or judgement.found_again:
            self._wake_notifiers()
        return through < progress.newest_revision


def _log(judgement: Judgement) -> None:
    for (rule, severity), number in Counter(
        (f.rule, f.severity) for f, _ in judgement.opened
    ).items():
        keys = [f.key for f, _ in judgement.opened if (f.rule, f.severity) == (rule, severity)]
        log.info("alerts_opened", rule=rule, severity=severity, alerts=number, first=keys[0])
    if judgement.over:
        log.info("alerts_resolved", alerts=len(judgement.over), first=next(iter(judgement.over)))
