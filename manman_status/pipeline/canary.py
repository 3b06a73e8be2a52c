"""Listening, proven: once a second a canary through each queue, and this processor's own row.

A canary carries the database's time. When it has been committed, and no processor still holds what came before it,
everything put on the queue before that time is known to be in the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import count
from time import monotonic
from typing import Protocol

import structlog

from manman_status.backoff import Backoff
from manman_status.domain.clock import ClockReading
from manman_status.errors import describe
from manman_status.pipeline.clock import DatabaseClock, elapsed
from manman_status.pipeline.custody import Custody
from manman_status.pipeline.seal import Seal
from manman_status.pipeline.statistics import Statistics
from manman_status.store.canary_key import shared_secret
from manman_status.store.observation import (
    ClockStepped,
    advance_observation,
    check_clock,
    distrust_canaries,
    forget_processor,
    move_watermark,
    read_clock,
    register_processor,
    report_processor,
    resume_observation,
    take_step,
)
from manman_status.store.pool import DATABASE_ERRORS, Connection, Pool

log = structlog.get_logger()

REPORTS_PER_CANARY = 4
REPORTS_PER_DEPTHS = 20


class Canaries(Protocol):
    """Sends canaries. Both may fail or hang while the broker is away: then nothing is proven, which is the point."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the broker now."""

    @property
    def losses(self) -> int:
        """How often the connection was lost since we began."""

    @property
    def alarm(self) -> str | None:
        """Why the broker holds back canaries; None while it does not."""

    @property
    def problems(self) -> dict[str, str]:
        """Why a queue is not read, by its name, or why nothing can be published, by `publishing`."""

    async def send(self, queue: str, sent_at: datetime) -> None:
        """Through the inbound exchange, to whichever processor is given it."""

    async def send_to_self(self, queue: str, sent_at: datetime) -> None:
        """Through this processor's own queue, read on the channel of `queue`."""

    async def depths(self) -> tuple[dict[str, int], int | None]:
        """How many messages wait in each queue, and how many dead letters; {} and None when that cannot be asked."""


class Observer:
    """Keeps this processor's row and sends its canaries. `custody` has one entry a queue."""

    def __init__(
        self,
        pool: Pool,
        canaries: Canaries,
        custody: Mapping[str, Custody],
        statistics: Statistics,
        seal: Seal,
        clock: DatabaseClock,
        *,
        processor_id: str,
        host: str,
        version: str,
        interval_seconds: float,
        standstill_seconds: float,
        blind_after_seconds: float,
    ) -> None:
        self._pool = pool
        self._canaries = canaries
        self._custody = custody
        self._statistics = statistics
        self._seal = seal
        self._clock = clock
        self._processor_id = processor_id
        self._host = host
        self._version = version
        self._interval_seconds = interval_seconds
        self._standstill_seconds = standstill_seconds
        self._blind_after_seconds = blind_after_seconds
        self._queues = sorted(custody)
        self._proven_at = float("-inf")
        self._unproven_since: float | None = None
        self._missing_told: list[str] = []
        self._losses_told = 0

    async def register(self) -> bool:
        """Before anything is read. Tries until it succeeds."""
        backoff = Backoff()
        while True:
            try:
                async with self._pool.acquire() as connection:
                    self._seal.use(await shared_secret(connection))
                    await register_processor(
                        connection, self._processor_id, host=self._host, version=self._version, queues=self._queues
                    )
            except DATABASE_ERRORS as error:
                delay = backoff.failed()
                if backoff.is_worth_saying:
                    log.warning("processor_not_registered", error=describe(error))
                await asyncio.sleep(delay)
            else:
                return True

    async def unregister(self) -> None:
        """After the broker was told to take back what was not settled."""
        async with self._pool.acquire() as connection, connection.transaction():
            await forget_processor(connection, self._processor_id, queues=self._queues)

    async def run(self) -> None:
        """Our own canaries go several times as often: the others' watermarks wait for what they prove."""
        backoff = Backoff()
        for turn in count():
            try:
                sent_at = await self._report()
                self._note_proof(sent_at)
                for queue in self._queues if self._canaries.losses == self._losses_told else ():
                    if turn % REPORTS_PER_CANARY == 0:
                        await self._canaries.send(queue, sent_at)
                    await self._canaries.send_to_self(queue, sent_at)
                if turn % REPORTS_PER_DEPTHS == 0:
                    self._statistics.queue_depths, dead_letters = await self._canaries.depths()
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
        """Whether the database answered and our own canaries came back through every queue so lately."""
        return monotonic() - self._proven_at <= within_seconds

    def _note_proof(self, now: datetime) -> None:
        lately = now - timedelta(seconds=2 * self._interval_seconds)
        settled = {queue: custody.settled_through for queue, custody in self._custody.items()}
        # One whose time lies ahead was sent before the database's clock stepped back.
        missing = sorted(queue for queue, through in settled.items() if through is None or not lately < through <= now)
        if missing:
            self._unproven_since = self._unproven_since or monotonic()
            if not self._missing_told and monotonic() - self._unproven_since > self._standstill_seconds:
                self._missing_told = missing
                log.warning(
                    "canaries_do_not_return",
                    queues=missing,
                    meaning="the broker, or our reading, stands still; nobody is given up meanwhile",
                )
            return
        self._proven_at, self._unproven_since = monotonic(), None
        if self._missing_told:
            log.info("canaries_return", queues=self._missing_told)
            self._missing_told = []

    async def _report(self) -> datetime:
        """Write the row and move the watermarks; the database's time, taken before any canary is sent. So no canary
        that was sent after a loss of the connection is seen before that loss."""
        losses, is_connected = self._canaries.losses, self._canaries.is_connected
        self._statistics.broker_alarm, self._statistics.broker_problems = self._canaries.alarm, self._canaries.problems
        restarted = [queue for queue in self._queues if self._custody[queue].restarted]
        for queue in restarted:
            self._custody[queue].restarted = False  # before we wait: it may restart again meanwhile
        try:
            sent_at = await self._write(restarted, was_cut_off=losses != self._losses_told or not is_connected)
        except BaseException:
            for queue in restarted:
                self._custody[queue].restarted = True
            raise
        if is_connected and losses != self._losses_told:  # until then each report says that it is lost
            self._losses_told = losses
            log.warning("was_cut_off_from_broker", meaning="nobody is given up until a whole timeout was observed")
        return sent_at

    async def _write(self, restarted: list[str], *, was_cut_off: bool) -> datetime:
        settled = {
            queue: custody.settled_through
            for queue, custody in self._custody.items()
            if custody.settled_through is not None
        }
        async with self._pool.acquire() as connection:
            earliest = elapsed()
            async with connection.transaction():
                read = await read_clock(connection)
                reading = ClockReading(read.now, earliest, elapsed())
                step = self._clock.step_to_take(reading, steps=read.steps, last_read=read.last_read)
                steps = read.steps + bool(step)
                if step:
                    await take_step(connection, step)
                await self._report_in(connection, settled, restarted, was_cut_off=was_cut_off)
                await check_clock(connection, steps=steps)
        self._clock.keep(reading, steps)
        if step:
            log.warning(
                "database_clock_stepped",
                seconds=round(step, 3),
                meaning="no worker is marked LOST until a whole timeout was observed in the new time",
            )
        return read.now

    async def _report_in(
        self, connection: Connection, settled: Mapping[str, datetime], restarted: list[str], *, was_cut_off: bool
    ) -> None:
        """Write the row and move the watermarks, within the caller's transaction."""
        known = await report_processor(
            connection, self._processor_id, settled_through=settled, statistics=self._statistics.as_row()
        )
        if not known:
            # Perhaps a backup was restored, with another secret or none.
            self._seal.use(await shared_secret(connection))
            await register_processor(connection, self._processor_id, host=self._host, version=self._version, queues=[])
        for queue in self._queues:
            if queue in restarted:
                await distrust_canaries(connection, queue)
            await move_watermark(connection, queue)
        await advance_observation(
            connection,
            self._queues,
            standstill_seconds=self._standstill_seconds,
            blind_after_seconds=self._blind_after_seconds,
        )
        if was_cut_off:
            await resume_observation(connection)
