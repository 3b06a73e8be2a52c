"""The bridge: reads ManMan's database twice a second, and publishes what has changed as events.

Invariant: when a bridge's mark is T, every report of what ManMan's database showed before T is in
the rows. A look that began at T is published and confirmed by T', and the mark moves to T only once
every queue's watermark has passed T': then what was confirmed before T' is in the rows. The mark is
one of those that `observed_through` is the least of. So while a bridge cannot read, hangs or is
gone, its mark stands still, and nobody's silence counts: docs/liveness.md.

A term begins with a look that is only remembered, since no clock says how old its times are, and
with a recovery grace: what was not seen to change before must have the time to change again. Of
bridges with one name the leader alone moves the mark, as `Term.transaction` makes sure.
"""

from __future__ import annotations

from datetime import datetime
from time import monotonic
from typing import ClassVar

import msgspec
import structlog

from manman_status.bridge.looks import ends_and_beginnings, heartbeats, life
from manman_status.bridge.manman import (
    Look,
    ReadsStandby,
    ended_workers,
    read_look,
    write_status_info,
)
from manman_status.bridge.sending import Sending
from manman_status.errors import BrokerUnavailable
from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.reporter.carrier import Unroutable
from manman_status.reporter.messages import Report
from manman_status.store.bridges import (
    move_bridge,
    note_written,
    read_written_revision,
    register_bridge,
    transitions_after,
    workers_not_ended,
)
from manman_status.store.observation import (
    ClockStepped,
    check_clock,
    least_watermark,
    read_clock,
    read_queues,
    resume_observation,
)
from manman_status.store.pool import DATABASE_ERRORS, Pool

log = structlog.get_logger()

LOOKS_EVERY_SECONDS = 0.5
WHOLE_LOOK_EVERY_SECONDS = 60.0
"""The interval of looks at all ids: a row may be committed after one with a greater id."""
MOST_UNPROVEN = 100
"""Looks that wait for the watermarks, at most: later ones wait for their turn."""
WRITTEN_AT_ONCE = 500


class Moment(msgspec.Struct, frozen=True):
    """A time of our database, and the number of steps of its clock."""

    at: datetime
    steps: int


class Unproven(msgspec.Struct, frozen=True):
    """A look whose reports the broker had confirmed by `sent_by`, and that may not be stored."""

    began: Moment
    sent_by: datetime


class Bridge(LeaderTask):
    """Looks while it leads. `name` is also the label `host` of the workers that it reports, which
    ties the lives of one host together. `arrays` packs the heartbeats of many workers into one
    message."""

    failure_event = "bridge_does_not_see"
    recovery_event = "bridge_sees_again"
    faults: ClassVar[tuple[type[BaseException], ...]] = (
        BrokerUnavailable,
        Unroutable,
        ClockStepped,
        ReadsStandby,
        *DATABASE_ERRORS,
    )
    longest_backoff_seconds = 2.0

    def __init__(
        self,
        leadership: Leadership,
        manman: Pool,
        sending: Sending,
        *,
        name: str,
        arrays: bool,
        writes: bool,
    ) -> None:
        super().__init__(leadership)
        self._manman = manman
        self._sending = sending
        self._name = name
        self._arrays = arrays
        self._writes = writes
        self._token = 0
        self._looked: Look | None = None
        self._whole_look_at = 0.0
        self._unproven: list[Unproven] = []
        self.proven_at = float("-inf")
        """The monotonic time at which the mark was last moved."""

    async def round(self, term: Term) -> float:
        begun = monotonic()
        if self._token != term.token:  # another may have looked meanwhile
            self._looked, self._unproven = None, []
        began = await self._moment(term)
        look = await self._look()
        if self._looked is None:
            await self._begin(term, look, began)
            self._token = term.token
        else:
            await self._report(self._looked, look, began.at)
        self._looked = look
        await self._vouch(term, began)
        return max(LOOKS_EVERY_SECONDS - (monotonic() - begun), 0.01)

    async def _moment(self, term: Term) -> Moment:
        async with term.connection() as connection, connection.transaction():
            clock = await read_clock(connection)
            return Moment(clock.now, clock.steps)

    async def _look(self) -> Look:
        since = self._looked
        if since is None or monotonic() >= self._whole_look_at:
            since = None
            self._whole_look_at = monotonic() + WHOLE_LOOK_EVERY_SECONDS
        async with self._manman.acquire() as connection:
            return await read_look(connection, since)

    async def _begin(self, term: Term, look: Look, began: Moment) -> None:
        """Report what has ended while nobody looked. The observation waits for this bridge from the
        end of its first look on: one that never sees anything holds nothing up."""
        async with term.connection() as connection:
            known = await workers_not_ended(connection, self._name)
        async with self._manman.acquire() as connection:
            ended = await ended_workers(connection, known - look.workers.keys())
        await self._send(
            [life(each, host=self._name, at=began.at).worker_stopped() for each in ended]
        )
        async with term.transaction() as connection:
            await register_bridge(connection, self._name, steps=began.steps, writes=self._writes)
            await resume_observation(connection)
            await check_clock(connection, steps=began.steps)
        log.info(
            "bridge_started",
            bridge=self._name,
            workers=len(look.workers),
            servers=len(look.instances),
            ended=len(ended),
        )

    async def _report(self, before: Look, now: Look, at: datetime) -> None:
        reports = [*ends_and_beginnings(before, now, host=self._name, at=at)]
        reports += heartbeats(before, now, host=self._name, at=at, arrays=self._arrays)
        await self._send(reports)

    async def _send(self, reports: list[Report]) -> None:
        """Send reports, until all are confirmed. Raises Unroutable or BrokerUnavailable: then some
        may have arrived, and they are sent again with the next look."""
        if reports:
            async with self._sending.publisher() as publisher:
                errors = await publisher.send_all(reports)
                if error := next(filter(None, errors), None):
                    raise error

    async def _vouch(self, term: Term, began: Moment) -> None:
        """Move the mark to the look before, once all that it has sent is in the rows."""
        async with term.transaction() as connection:
            now = await read_clock(connection)
            stored = least_watermark(await read_queues(connection))
            looks = [look for look in self._unproven if look.began.steps == now.steps]
            proven = [look for look in looks if stored and stored >= look.sent_by]
            if proven:
                through = proven[-1].began
                await move_bridge(connection, self._name, through=through.at, steps=through.steps)
                await check_clock(connection, steps=now.steps)
                self.proven_at = monotonic()
        self._unproven = looks[len(proven) :]
        if began.steps == now.steps and len(self._unproven) < MOST_UNPROVEN:
            self._unproven.append(Unproven(began, now.now))


class StatusInfoWriter(LeaderTask):
    """Copies each transition into ManMan's table of statuses, at least once, while it leads. What
    keeps it from writing keeps the bridge from nothing."""

    failure_event = "status_info_not_written"
    recovery_event = "status_info_written_again"

    def __init__(self, leadership: Leadership, manman: Pool, *, name: str) -> None:
        super().__init__(leadership)
        self._manman = manman
        self._name = name

    async def round(self, term: Term) -> float:
        async with term.connection() as connection:
            through = await read_written_revision(connection, self._name)
            if through is None:  # the bridge has not begun
                return LOOKS_EVERY_SECONDS
            changes = await transitions_after(connection, through, limit=WRITTEN_AT_ONCE)
        if not changes:
            return LOOKS_EVERY_SECONDS
        async with self._manman.acquire() as connection:
            await write_status_info(connection, changes)
        async with term.transaction() as connection:
            await note_written(connection, self._name, changes[-1].revision)
        return 0
