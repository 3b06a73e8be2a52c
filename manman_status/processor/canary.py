"""Proves that monitoring works: once a second a canary goes through each queue, and this processor
reports in its own row.

Invariant: everything that was put on a queue before the time of its watermark is stored. A canary
carries the database's time at which it was sent. One consumer reads a queue, in its order, and
commits in that order. So when a canary has been committed, everything put on its queue before that
time is in the rows, and the watermark moves to that time. The observation advances to the least
watermark of all queues. It stands still while any queue, its consumer or the database does, and
then no worker is marked LOST.

The database's time of a report is read before its canaries are sent, and a lost connection is
recorded before them. So no canary that was sent after a loss is seen before that loss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from time import monotonic
from typing import NamedTuple, Protocol

import structlog

from manman_status.backoff import Backoff
from manman_status.clock import DatabaseClock, elapsed
from manman_status.domain.clock import ClockReading
from manman_status.errors import describe
from manman_status.processor.seal import Seal
from manman_status.processor.statistics import Statistics
from manman_status.store.bridges import read_bridge_marks
from manman_status.store.canary_key import shared_secret
from manman_status.store.observation import (
    ClockStepped,
    QueueMark,
    QueueState,
    advance_observation,
    check_clock,
    choose_queues,
    forget_processor,
    least_watermark,
    read_clock,
    read_queues,
    reading_processors,
    register_processor,
    report_processor,
    resume_observation,
    take_step,
)
from manman_status.store.pool import DATABASE_ERRORS, Connection, Pool
from manman_status.wire.topology import DROPPED_TTL_SECONDS

log = structlog.get_logger()

REPORTS_PER_CANARY = 4
REPORTS_PER_DEPTHS = 20
DEAF_SECONDS = DROPPED_TTL_SECONDS * 2 / 3
"""The broker's record of dropped heartbeats may have expired when it was not read for so long."""


class Broker(Protocol):
    """The broker, as far as the observer needs it. While it is unavailable sending a canary fails
    or hangs, and nothing is proven."""

    @property
    def is_connected(self) -> bool:
        """True while every queue is subscribed to."""

    @property
    def losses(self) -> int:
        """The number of connections lost since the processor started."""

    @property
    def given(self) -> list[str]:
        """The queues that the broker gives to us."""

    @property
    def alarm(self) -> str | None:
        """The reason for which the broker holds back canaries; None while it does not."""

    @property
    def problems(self) -> dict[str, str]:
        """The causes for which queues are not read, by their names, and for which nothing can be
        published, by `publishing`."""

    def follow(self, marks: Sequence[QueueMark], *, processors: int) -> None:
        """Read these queues, shared by so many processors."""

    async def send(self, marks: Sequence[QueueMark], sent_at: datetime, clock_steps: int) -> None:
        """A canary through each of the queues, to whichever processor is given it."""

    async def has_dropped(self) -> bool | None:
        """True when the broker dropped heartbeats within some 15 s; None when that cannot be
        queried."""

    async def depths(self) -> tuple[dict[str, int], int | None]:
        """The number of messages in each queue, and of dead letters; {} and None when that cannot
        be queried."""


class _Report(NamedTuple):
    """The findings of one report."""

    now: datetime
    clock_steps: int
    marks: list[QueueMark]
    bridges: list[datetime | None]


class Observer:
    """Keeps this processor's row, reports and sends canaries. `queues` are those that our settings
    name."""

    def __init__(
        self,
        pool: Pool,
        broker: Broker,
        statistics: Statistics,
        seal: Seal,
        clock: DatabaseClock,
        *,
        queues: Sequence[str],
        processor_id: str,
        host: str,
        version: str,
        interval_seconds: float,
        standstill_seconds: float,
    ) -> None:
        self._pool = pool
        self._broker = broker
        self._statistics = statistics
        self._seal = seal
        self._clock = clock
        self._queues = queues
        self._processor_id = processor_id
        self._host = host
        self._version = version
        self._interval_seconds = interval_seconds
        self._standstill_seconds = standstill_seconds
        self._proven_at = float("-inf")
        self._unproven_since: float | None = None
        self._missing_reported: list[str] = []
        self._losses_reported = 0
        self._answered_at = monotonic()
        self._has_dropped = False
        self._last: _Report | None = None

    async def register(self) -> bool:
        """Store this processor's row and the queues to read, before anything is read. Tries until
        it succeeds."""
        backoff = Backoff()
        while True:
            try:
                await self._register()
            except (ClockStepped, *DATABASE_ERRORS) as error:
                delay = backoff.failed()
                if backoff.is_worth_saying:
                    log.warning("processor_not_registered", error=describe(error))
                await asyncio.sleep(delay)
            else:
                return True

    async def _register(self) -> None:
        async with self._pool.acquire() as connection:
            self._seal.use(await shared_secret(connection))
            async with connection.transaction():
                steps = (await read_clock(connection)).steps
                await register_processor(
                    connection, self._processor_id, host=self._host, version=self._version
                )
                added, leaving = await choose_queues(connection, self._queues, steps=steps)
                marks = await read_queues(connection)
                await check_clock(connection, steps=steps)
        if leaving:
            log.warning(
                "queues_changed",
                added=added,
                leaving=leaving,
                meaning="another number of partitions is set",
            )
        self._broker.follow(marks, processors=1)

    async def unregister(self) -> None:
        async with self._pool.acquire() as connection:
            await forget_processor(connection, self._processor_id)

    async def run(self) -> None:
        """Reports go several times as often as canaries, so that a clock that stepped, or a
        connection that was lost, is known before the next canary."""
        backoff = Backoff()
        for turn in count():
            sends = turn % REPORTS_PER_CANARY == 0
            try:
                report = await self._report()
                self._note_proof(report)
                if sends and self._broker.losses == self._losses_reported:
                    await self._broker.send(report.marks, report.now, report.clock_steps)
                if turn % REPORTS_PER_DEPTHS == 0:
                    self._statistics.queue_depths, dead_letters = await self._broker.depths()
                    self._statistics.note_dead_letters(dead_letters, now=monotonic())
            except ClockStepped:
                log.debug("report_was_of_the_old_time")
            except DATABASE_ERRORS as error:
                self._unproven_since = None  # without the database no canary could be committed
                backoff.failed()
                if backoff.is_worth_saying:
                    log.warning("observation_stands_still", error=describe(error))
            else:
                backoff = Backoff()
            await asyncio.sleep(self._interval_seconds / REPORTS_PER_CANARY)

    def has_proof(self, *, within_seconds: float) -> bool:
        """True when the database answered and a canary came through every queue within so many
        seconds, and no queue has a problem."""
        return monotonic() - self._proven_at <= within_seconds and not self._broker.problems

    def _note_proof(self, report: _Report) -> None:
        lately = report.now - timedelta(seconds=2 * self._interval_seconds)
        marks = [mark for mark in report.marks if mark.state is QueueState.ACTIVE]
        # A watermark that lies ahead is of before the database's clock stepped back.
        missing = [
            mark.queue
            for mark in marks
            if mark.observed_through is None or not lately < mark.observed_through <= report.now
        ]
        if missing:
            self._unproven_since = self._unproven_since or monotonic()
            if (
                not self._missing_reported
                and monotonic() - self._unproven_since > self._standstill_seconds
            ):
                self._missing_reported = missing
                log.warning(
                    "canaries_do_not_return",
                    queues=missing,
                    meaning=(
                        "the broker, or whoever reads these queues, stands still; nobody is marked"
                        " LOST meanwhile"
                    ),
                )
            return
        self._proven_at, self._unproven_since = monotonic(), None
        if self._missing_reported:
            log.info("canaries_return", queues=self._missing_reported)
            self._missing_reported = []

    async def _report(self) -> _Report:
        """Write the row, let the observation advance, and see what is to be read; the database's
        time, taken before any canary is sent. So no canary that was sent after a loss of the
        connection is seen before that loss.

        The observation advances to the watermarks of the last report, when the broker has since
        said what it dropped: a heartbeat that was dropped was dropped before the canary behind it
        came.
        """
        losses, is_connected = self._broker.losses, self._broker.is_connected
        self._statistics.broker_alarm, self._statistics.broker_problems = (
            self._broker.alarm,
            self._broker.problems,
        )
        self._statistics.reads = self._broker.given
        checked_at = monotonic()
        dropped = await self._check_dropped()
        was_deaf = monotonic() - self._answered_at > DEAF_SECONDS
        was_cut_off = losses != self._losses_reported or not is_connected or was_deaf
        self._last = report = await self._write(
            self._last if dropped is not None else None,
            was_cut_off=was_cut_off,
            dropped=bool(dropped),
        )
        if dropped is not None:
            self._answered_at = checked_at
        self._statistics.watermarks = {mark.queue: mark.observed_through for mark in report.marks}
        if (
            is_connected and losses != self._losses_reported
        ):  # until then each report says that it is lost
            self._losses_reported = losses
            log.warning(
                "was_cut_off_from_broker",
                meaning="nobody is given up until a whole timeout was observed",
            )
        return report

    async def _check_dropped(self) -> bool | None:
        dropped = await self._broker.has_dropped()
        if dropped and not self._has_dropped:
            log.warning(
                "heartbeats_dropped",
                meaning=(
                    "a heartbeat queue was full, or held heartbeats for too long;"
                    " nobody is marked LOST until a whole timeout was observed"
                ),
            )
        self._has_dropped = bool(dropped)
        return dropped

    async def read_marks(self, *, note_cut: bool) -> list[QueueMark]:
        """The queues to read. `note_cut` records that a connection was lost. Raises one of
        DATABASE_ERRORS."""
        async with self._pool.acquire() as connection:
            if note_cut:
                await resume_observation(connection)
            return await read_queues(connection)

    async def _write(self, seen: _Report | None, *, was_cut_off: bool, dropped: bool) -> _Report:
        """The observation advances to what was `seen`."""
        async with self._pool.acquire() as connection:
            earliest = elapsed()
            async with connection.transaction():
                read = await read_clock(connection)
                reading = ClockReading(read.now, earliest, elapsed())
                step = self._clock.step_to_take(reading, steps=read.steps, last_read=read.last_read)
                steps = read.steps + bool(step)
                if step:
                    await take_step(connection, step)
                await self._report_in(connection)
                through = (
                    seen and seen.clock_steps == steps and least_watermark(seen.marks, seen.bridges)
                )
                if through:
                    await advance_observation(
                        connection, through, standstill_seconds=self._standstill_seconds
                    )
                if was_cut_off or dropped:
                    await resume_observation(connection, because_dropped=dropped)
                marks = await read_queues(connection)
                if not marks:  # somebody emptied the tables
                    await choose_queues(connection, self._queues, steps=steps)
                    marks = await read_queues(connection)
                bridges = await read_bridge_marks(connection)
                processors = await reading_processors(
                    connection, within_seconds=3 * self._interval_seconds
                )
                await check_clock(connection, steps=steps)
        self._clock.keep(reading, steps)
        self._broker.follow(marks, processors=processors)
        if step:
            log.warning(
                "database_clock_stepped",
                seconds=round(step, 3),
                meaning=(
                    "no worker is marked LOST until a whole timeout was observed in the new time"
                ),
            )
        return _Report(read.now, steps, marks, bridges)

    async def _report_in(self, connection: Connection) -> None:
        """Write the row, within the caller's transaction."""
        if not await report_processor(
            connection, self._processor_id, statistics=self._statistics.as_row()
        ):
            # Perhaps a backup was restored, with another secret or none.
            self._seal.use(await shared_secret(connection))
            await register_processor(
                connection, self._processor_id, host=self._host, version=self._version
            )
