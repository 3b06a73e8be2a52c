"""The conclusions of other thresholds from a recording, by the pure domain with the
recorded time for a clock.

The recorder stands for the monitoring: complete while it listened, and blind in a gap, after which
the recovery grace holds as ever.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

from manman_status.domain.events import (
    Heartbeat,
    ReportedEvent,
    WorkerStarted,
    WorkerStatusReported,
    WorkerStopped,
    microseconds,
)
from manman_status.domain.guard import GuardState
from manman_status.domain.merge import merge
from manman_status.domain.rows import Patience, Receipt, Rows
from manman_status.domain.status import Entity, StatusType
from manman_status.domain.sweep import Horizon, SweepRules, deadline, sweep_workers, watched
from manman_status.lab.recording.lines import Line
from manman_status.wire.inbound import decode

SWEEP_EVERY = timedelta(seconds=1)
NO_GAP = datetime.min.replace(tzinfo=UTC)
"""A time before every recording. A worker is unknown before its first recorded heartbeat, so to
have listened no earlier proves no less."""


class Sign(msgspec.Struct, frozen=True):
    """A sign of life of a worker in this incarnation, 0 for none. `begins`, true for another life,
    counts only without an incarnation; `seq`, the order, only with one."""

    at: datetime
    incarnation: int
    seq: int | None
    begins: bool

    def follows(self, incarnation: int, seq: int) -> bool:
        if self.incarnation != incarnation:
            return self.incarnation > incarnation
        return incarnation == 0 or self.seq is None or self.seq > seq


class Recorded(msgspec.Struct):
    """The events of workers, in the order of arrival, and the gaps as (since, until)."""

    events: list[tuple[datetime, ReportedEvent]] = []
    gaps: list[tuple[datetime, datetime]] = []
    signs: dict[int, list[Sign]] = {}
    intervals: Counter[float] = msgspec.field(default_factory=Counter)
    messages: int = 0
    poison: int = 0
    began: datetime | None = None
    ended: datetime | None = None

    def add(self, at: datetime, event: ReportedEvent) -> None:
        self.events.append((at, event))
        if isinstance(event, Heartbeat | WorkerStopped):
            begins = event.incarnation is None and isinstance(event, WorkerStarted)
            seq = (
                event.seq if isinstance(event, Heartbeat) else None
            )  # an end is one, whatever its number
            sign = Sign(at, event.incarnation or 0, seq, begins)
            self.signs.setdefault(event.worker_id, []).append(sign)

    @property
    def seconds(self) -> float:
        return (
            0.0
            if self.began is None or self.ended is None
            else (self.ended - self.began).total_seconds()
        )

    def listened_after(self, time: datetime) -> timedelta:
        """Time for which the recorder listened after a time, gaps not counted."""
        assert self.ended is not None
        deaf = (until - max(since, time) for since, until in self.gaps if until > time)
        return self.ended - time - sum(deaf, timedelta())


def collect(lines: Iterable[Line], *, default_interval: float) -> Recorded:
    """Read the events of workers. Server instances are left out: of a worker an inventory shows no
    more than its heartbeat."""
    recorded = Recorded()
    intervals: dict[int, float] = {}
    for line in lines:
        recorded.began, recorded.ended = recorded.began or line.gap_since or line.at, line.at
        if line.gap_since is not None:
            recorded.gaps.append((line.gap_since, line.at))
            continue
        recorded.messages += 1
        understood = decode(line.content)
        recorded.poison += understood.refused
        for event in understood.events:
            if isinstance(event, Heartbeat):
                recorded.add(line.at, msgspec.structs.replace(event, servers=None))
                if event.interval_seconds is not None:
                    intervals[event.worker_id] = event.interval_seconds
                intervals.setdefault(event.worker_id, default_interval)
            elif isinstance(event, WorkerStopped | WorkerStatusReported):
                recorded.add(line.at, event)
    recorded.intervals.update(intervals.values())
    return recorded


class Verdict(StrEnum):
    """Verdict on a loss. FALSE: the same life was received again. TRUE: only a later one was, or
    none while we listened for as long again as the timeout. UNDECIDED: the recording ends before
    that."""

    TRUE = "true"
    FALSE = "false"
    UNDECIDED = "undecided"


class Loss(msgspec.Struct, frozen=True):
    worker_id: int
    lost_at: datetime
    last_heartbeat: datetime
    verdict: Verdict

    @property
    def delay_seconds(self) -> float:
        return (self.lost_at - self.last_heartbeat).total_seconds()


class Outcome(msgspec.Struct, frozen=True):
    """The outcome. `held` workers were overdue while a guard held their group: the most of each
    guard, added up."""

    losses: list[Loss]
    guards: int
    held: int

    def count(self, verdict: Verdict) -> int:
        return sum(loss.verdict is verdict for loss in self.losses)

    def delays(self) -> list[float]:
        """Delays of the true losses, shortest first."""
        return sorted(loss.delay_seconds for loss in self.losses if loss.verdict is Verdict.TRUE)


def conclude(recorded: Recorded, rules: SweepRules, *, standstill_seconds: float) -> Outcome:
    """Run the domain over the recording under these rules."""
    if recorded.began is None or recorded.ended is None:
        return Outcome([], 0, 0)
    watch = _Watch(recorded, rules, began=recorded.began)
    gaps = iter(recorded.gaps)
    gap = next(gaps, None)
    patience = Patience(
        rules.thresholds.default_interval_seconds, rules.thresholds.minimum_timeout_seconds
    )
    order = 0
    for at, event in recorded.events:
        while gap is not None and gap[1] <= at:
            watch.pass_gap(*gap, standstill_seconds=standstill_seconds)
            gap = next(gaps, None)
        watch.pass_time(at)
        order = max(order + 1, microseconds(at))
        merge(watch.rows, event, Receipt(at, order, patience))
    while gap is not None:
        watch.pass_gap(*gap, standstill_seconds=standstill_seconds)
        gap = next(gaps, None)
    watch.pass_time(recorded.ended)
    return watch.outcome()


class _Watch:
    def __init__(self, recorded: Recorded, rules: SweepRules, *, began: datetime) -> None:
        self.rows = Rows()
        self._recorded = recorded
        self._rules = rules
        self._now = began
        self._resumed_at = NO_GAP
        self._sweep_at = began + SWEEP_EVERY
        self._guards: dict[str, GuardState] = {}
        self._most_held: list[int] = []
        self._open: dict[str, int] = {}
        self._losses: list[Loss] = []

    def pass_time(self, until: datetime) -> None:
        while self._sweep_at <= until:
            self._now = self._sweep_at
            self._sweep()
            self._sweep_at = max(self._sweep_at + SWEEP_EVERY, self._earliest())
        self._now = until

    def pass_gap(self, since: datetime, until: datetime, *, standstill_seconds: float) -> None:
        """Pass a gap. Nothing is concluded meanwhile, and after a long one no worker is marked LOST
        before the grace is over."""
        self.pass_time(since)
        self._now = until
        self._sweep_at = max(self._sweep_at, until)
        if (until - since).total_seconds() > standstill_seconds:
            self._resumed_at = until

    def outcome(self) -> Outcome:
        return Outcome(self._losses, len(self._most_held), sum(self._most_held))

    def _earliest(self) -> datetime:
        """The time before which no sweep can find anything, whatever heartbeats come until then."""
        if self._guards:
            return self._now
        soonest = self._now + timedelta(seconds=self._rules.thresholds.minimum_timeout_seconds)
        deadlines = (
            deadline(worker, self._rules) for worker in watched(self.rows.workers.values())
        )
        return min(soonest, min(deadlines, default=soonest))

    def _sweep(self) -> None:
        self.rows.transitions.clear()
        horizon = Horizon(self._now, self._resumed_at)
        self._guards = sweep_workers(
            self.rows, self._guards, horizon, at=self._now, rules=self._rules
        )
        self._count_held()
        for transition in self.rows.transitions:
            if transition.entity is Entity.WORKER and transition.new_status is StatusType.LOST:
                self._losses.append(self._loss(transition.entity_id))
        self.rows.transitions.clear()

    def _count_held(self) -> None:
        for group, guard in self._guards.items():
            if group not in self._open:
                self._open[group] = len(self._most_held)
                self._most_held.append(0)
            place = self._open[group]
            self._most_held[place] = max(self._most_held[place], guard.held)
        self._open = {group: place for group, place in self._open.items() if group in self._guards}

    def _loss(self, worker_id: int) -> Loss:
        worker = self.rows.workers[worker_id]
        assert worker.last_heartbeat is not None
        signs = self._recorded.signs[worker_id]
        later = signs[bisect.bisect_right(signs, self._now, key=lambda sign: sign.at) :]
        sign = next((each for each in later if each.follows(worker.incarnation, worker.seq)), None)
        if sign is not None:
            same = sign.incarnation == worker.incarnation and not sign.begins
            verdict = Verdict.FALSE if same else Verdict.TRUE
        else:
            listened = self._recorded.listened_after(self._now).total_seconds()
            verdict = Verdict.TRUE if listened >= self._rules.timeout(worker) else Verdict.UNDECIDED
        return Loss(worker_id, self._now, worker.last_heartbeat, verdict)
