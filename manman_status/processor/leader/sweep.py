"""Marks silent workers LOST: once a second the leader looks for silence that counts, behind the
watermark, after the grace, past the guard.

Invariant: a sweep that ends between two of its transactions, and the sweep of the next leader, mark
together exactly the workers that one whole sweep would have marked.

Each group is judged once in a sweep. What follows is written in pieces, each a transaction of its
own, so that neither the size of the fleet nor what workers choose makes one of them long
(`processor/leader/conclusions.py`). A leader may die between two pieces, and the next one must
conclude the same from what it finds:

- A guard that begins, or goes on to hold, is written before any worker is marked LOST. So a group
  on hold stays on hold.
- A guard that ends is deleted after the last worker of its group. Until then its row says that the
  hold is over, and the next leader goes on. Without it, those who are left would be put on hold
  once more.
- Workers that were marked LOST without a guard still count as silent for one timeout
  (`lost_recently`). So those who are left are the same share of their group.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from time import perf_counter

import structlog

from manman_status.domain.guard import Group, GuardState, Verdict, judge_groups
from manman_status.domain.liveness import differing
from manman_status.domain.sweep import Horizon, SweepRules
from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.processor.leader.conclusions import WORKERS_AT_ONCE, Conclusions, pieces
from manman_status.processor.leader.lateness import Lateness, Pace
from manman_status.processor.statistics import Statistics
from manman_status.store.clock_step import read_step, settle_alerts, settle_fleet
from manman_status.store.counting import add_up_changes
from manman_status.store.pool import Connection
from manman_status.store.sweep import (
    Overdue,
    count_groups,
    longest_silent,
    overdue_workers,
    read_guards,
    read_horizon,
)
from manman_status.store.thresholds import write_thresholds
from manman_status.store.writes import RowAppeared

log = structlog.get_logger()

CHANGES_AT_ONCE = 10_000
LATE_FOR_SECONDS = 2.0
"""The age at which the late workers are read again during a long sweep."""


class Sweeper(LeaderTask):
    """`wake` is called after transitions were committed."""

    failure_event = "sweep_failed"
    longest_backoff_seconds = 1.0

    def __init__(
        self,
        leadership: Leadership,
        rules: SweepRules,
        *,
        interval_seconds: float,
        statistics: Statistics,
        wake: Callable[[], None],
    ) -> None:
        super().__init__(leadership)
        self._rules = rules
        self._interval_seconds = interval_seconds
        self._wake = wake
        self._statistics = statistics
        self._lateness = Lateness(rules.thresholds)
        self._abandoned = Pace()
        self._swept_with = 0
        self._clock_steps = 0

    def stand_by(self) -> None:
        self._statistics.sweep_ms = None

    async def round(self, term: Term) -> float:
        begun = perf_counter()
        try:
            await self.sweep(term)
        except RowAppeared:
            return 0  # a processor was at the same rows: look again
        finally:
            self._statistics.sweep_ms = round((perf_counter() - begun) * 1000, 2)
        return self._interval_seconds

    async def sweep(self, term: Term) -> None:
        """Conclude all that is due now. Raises LeaseLost when the term is over."""
        if self._swept_with != term.token:  # another may have led meanwhile
            self._swept_with = term.token
            self._lateness.distrust()
            self._abandoned.hurry()
            await self._write_thresholds(term)
        async with term.connection() as connection:
            await self._settle_clock(connection, term)
            horizon = await read_horizon(connection)
            if horizon is None:
                return
            conclusions = Conclusions(connection, term, horizon, self._statistics, self._wake)
            await self._add_up(connection, term)
            await self._lateness.look(connection, term, horizon)
            await self._judge(connection, conclusions, await read_guards(connection))
            if self._abandoned.is_due:
                begun = perf_counter()
                await conclusions.lose_abandoned()
                self._abandoned.done(begun=begun)
            await conclusions.crash_unlisted()

    async def _write_thresholds(self, term: Term) -> None:
        """Store the thresholds of this processor's settings: every reader uses those."""
        async with term.transaction() as connection:
            before = await write_thresholds(connection, self._rules.thresholds)
        if before is not None:
            log.info("thresholds_changed", **differing(before, self._rules.thresholds))

    async def _settle_clock(self, connection: Connection, term: Term) -> None:
        """Move the times in the rows when the database's clock has stepped, before anything is
        concluded."""
        step = await read_step(connection)
        if step.steps != self._clock_steps:
            self._clock_steps = step.steps
            self._lateness.distrust()
        if not (step.is_new or step.is_recent):
            return
        async with term.transaction(connection):
            await settle_fleet(connection, step)
        async with term.transaction(connection):
            await settle_alerts(connection, step)

    async def _add_up(self, connection: Connection, term: Term) -> None:
        """Add the changes to the fleet's counts, so that readers have few of them to add."""
        changes = CHANGES_AT_ONCE
        while changes == CHANGES_AT_ONCE:
            async with term.transaction(connection):
                changes = await add_up_changes(connection, limit=CHANGES_AT_ONCE)

    async def _judge(
        self, connection: Connection, conclusions: Conclusions, guards: Mapping[str, GuardState]
    ) -> None:
        horizon = conclusions.horizon
        groups = await count_groups(connection, horizon, guarded=guards)
        verdicts = judge_groups(
            groups, guards, observed=horizon.observed_through, rules=self._rules.guard
        )
        changed = {
            name: verdict.guard
            for name, verdict in verdicts.items()
            if verdict.guard is not None and verdict.guard != guards.get(name)
        }
        ended = [name for name in guards if verdicts[name].guard is None]
        _log_guards(guards, changed, ended)
        await conclusions.write_guards(changed)
        async for piece in self._condemned(connection, horizon, groups, verdicts):
            await conclusions.lose_workers(piece, guards)
            await self._look_again(connection, conclusions.term)
        await conclusions.delete_guards(ended)

    async def _condemned(
        self,
        connection: Connection,
        horizon: Horizon,
        groups: Mapping[str, Group],
        verdicts: Mapping[str, Verdict],
    ) -> AsyncIterator[list[Overdue]]:
        """Yield pieces of the workers to mark LOST now, by id within a kind of verdict."""
        losing = {name: verdict.lose for name, verdict in verdicts.items() if verdict.lose}
        some = {name: number for name, number in losing.items() if number < groups[name].overdue}
        whole = losing.keys() - some.keys()
        if some:
            for piece in pieces(await longest_silent(connection, horizon, some), WORKERS_AT_ONCE):
                yield piece
        held, after = sorted(verdicts.keys() - whole), 0
        while whole:
            piece = await overdue_workers(
                connection, horizon, after=after, but_of=held, limit=WORKERS_AT_ONCE
            )
            # A worker whose group has changed since was not judged in this one.
            yield [worker for worker in piece if worker.group in whole]
            if len(piece) < WORKERS_AT_ONCE:
                return
            after = piece[-1].worker_id

    async def _look_again(self, connection: Connection, term: Term) -> None:
        """Note the late workers again while a sweep takes long: readers do not wait for its end."""
        if perf_counter() - self._lateness.looked_at > LATE_FOR_SECONDS:
            horizon = await read_horizon(connection)
            if horizon is not None:
                await self._lateness.look(connection, term, horizon)


GUARDS_LOGGED = 20


def _log_guards(
    guards: Mapping[str, GuardState], changed: Mapping[str, GuardState], ended: Sequence[str]
) -> None:
    """Log a line for each of the first groups, and one with the number of further ones."""
    begun = [name for name in changed if name not in guards]
    released = [
        name
        for name, guard in changed.items()
        if name in guards
        and guards[name].releasing_since is None
        and guard.releasing_since is not None
    ]
    for name in ended[:GUARDS_LOGGED]:
        log.info("fleet_guard_ended", group=name)
    for name in begun[:GUARDS_LOGGED]:
        log.warning(
            "fleet_guard_holds",
            group=name,
            held=changed[name].held,
            group_size=changed[name].group_size,
        )
    for name in released[:GUARDS_LOGGED]:
        log.warning("fleet_guard_releases", group=name, held=changed[name].held)
    more = [max(len(names) - GUARDS_LOGGED, 0) for names in (ended, begun, released)]
    if any(more):
        log.warning("more_fleet_guards", ended=more[0], holding=more[1], releasing=more[2])
