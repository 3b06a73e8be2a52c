"""Lives of one worker id: which one owns the row, and how one that counts lower comes to own it."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manman_status.domain.conclusions import lose_worker
from manman_status.domain.events import (
    TOLERATED_INCARNATION_AHEAD,
    ServerStarted,
    ServerStatusReported,
    WorkerStarted,
    WorkerStatusReported,
    WorkerStopped,
    microseconds,
)
from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import Thresholds
from manman_status.domain.merge import merge
from manman_status.domain.rows import Receipt, Rows
from manman_status.domain.status import ACTIVE, Reason, StatusType
from manman_status.domain.sweep import Horizon, SweepRules
from tests.builders import START, heartbeat, inventory
from tests.model.sweep import sweep
from tests.unit.test_merge import events as any_events

NOW = microseconds(START)
OLD, NEW = NOW - 1_000, NOW - 3_600_000_000  # the later process has the lower incarnation
DAY = 86_400_000_000
INTERVAL = 5
TIMEOUT = 15
RULES = SweepRules(
    thresholds=Thresholds(minimum_timeout_seconds=TIMEOUT, recovery_grace_seconds=1),
    guard=GuardRules(99, 100, 1, 10),
)


class Fleet:
    """Rows, and the time of the database: it begins at START and goes on by `wait`. Swept once a
    second."""

    def __init__(self, *, sweeps: bool = True) -> None:
        self.rows = Rows()
        self.seconds = 0.0
        self.sweeps = sweeps
        self.order = 0

    @property
    def now(self) -> Any:
        return START + timedelta(seconds=self.seconds)

    def take(self, *events: Any) -> Any:
        for event in events:
            self.order = max(self.order + 1, microseconds(self.now))
            merge(self.rows, event, Receipt(self.now, self.order))
        return self

    def wait(self, seconds: int) -> Any:
        for _ in range(seconds):
            self.seconds += 1
            if self.sweeps:
                sweep(
                    self.rows,
                    {},
                    Horizon(self.now, START - timedelta(days=1)),
                    at=self.now,
                    rules=RULES,
                )
        return self

    def beat_for(self, seconds: int, *lives: Any) -> Any:
        """Each of these lives beats once an interval; it begins at once."""
        for _ in range(0, seconds, INTERVAL):
            for life in lives:
                self.take(life.beat())
            self.wait(INTERVAL)
        return self

    @property
    def worker(self) -> Any:
        return self.rows.workers[1]

    def server(self, instance_id: int) -> Any:
        return self.rows.instances[instance_id]

    @property
    def statuses(self) -> list[Any]:
        return [str(t.new_status) for t in self.rows.transitions if t.entity == "worker"]


class Life:
    """A life. Without an incarnation its beats have only a time, or not even that when it has no
    `clock`."""

    def __init__(
        self,
        incarnation: Any,
        *servers: Any,
        seq: int = 0,
        counted: bool = True,
        clock: Any = None,
        **fields: Any,
    ) -> None:
        self.incarnation, self.servers, self.seq = incarnation, servers, seq
        self.counted = counted
        self.clock = clock
        self.fields = fields

    def order(self) -> Any:
        self.seq += 1
        if self.incarnation is None:
            return (
                {}
                if self.clock is None
                else {"sent_at": self.clock + self.seq * INTERVAL * 1_000_000}
            )
        return {"incarnation": self.incarnation} | ({"seq": self.seq} if self.counted else {})

    def beat(self) -> Any:
        return heartbeat(
            interval_seconds=float(INTERVAL),
            servers=inventory(*self.servers),
            **self.order(),
            **self.fields,
        )


LOWER = [
    pytest.param(OLD, Life(NEW, 31), id="the clock went back"),
    pytest.param(OLD, Life(1000, 31), id="a counter instead of a time"),
    pytest.param(OLD, Life(OLD, 31), id="the same incarnation from its start"),
    pytest.param(OLD, Life(NEW, 31, counted=False), id="beats that are not counted"),
    pytest.param(NOW + DAY - 1_000_000, Life(NOW, 31), id="the clock was a day ahead"),
    pytest.param(OLD, Life(None, 31), id="it counts no more"),
    pytest.param(OLD, Life(None, 31, clock=NOW - DAY), id="it has only a time"),
]


@pytest.mark.parametrize(("before", "life"), LOWER)
def test_a_life_that_counts_lower_is_never_lost_for_good(before: Any, life: Life) -> None:
    """It takes over one timeout after it began, with everything that it says."""
    life = Life(
        life.incarnation,
        *life.servers,
        counted=life.counted,
        clock=life.clock,
        labels={"group": "b"},
    )
    former = Life(before, 30, seq=500, labels={"group": "a"})
    fleet = Fleet().beat_for(20, former).beat_for(TIMEOUT + 2 * INTERVAL, life)
    worker = fleet.worker
    assert (worker.status, worker.reason) == (StatusType.RUNNING, Reason.CLOCK_WENT_BACK)
    assert worker.evidence.get("incarnation") == life.incarnation
    assert worker.evidence["passed_incarnation"] == before
    assert worker.labels == {"group": "b"}
    assert fleet.statuses == ["RUNNING"]  # never LOST: it beat all the time
    assert fleet.server(31).status is StatusType.RUNNING
    fleet.beat_for(2 * TIMEOUT, life)
    assert fleet.server(30).status is StatusType.CRASHED
    is_counted = life.counted and life.incarnation is not None
    assert fleet.server(30).reason is (
        Reason.SUPERSEDED if is_counted else Reason.MISSING_FROM_INVENTORY
    )
    assert fleet.server(31).status is StatusType.RUNNING


def test_clock_going_back_freezes_no_inventory() -> None:
    fleet = (
        Fleet()
        .beat_for(20, Life(None, 30, clock=NOW))
        .beat_for(5 * TIMEOUT, Life(None, 31, clock=NOW - DAY))
    )
    assert fleet.statuses == ["RUNNING"]
    assert (fleet.server(30).status, fleet.server(31).status) == (
        StatusType.CRASHED,
        StatusType.RUNNING,
    )


def test_what_was_lost_by_then_comes_back() -> None:
    fleet = Fleet().beat_for(10, Life(OLD, 30, seq=9)).wait(3 * TIMEOUT)
    assert (fleet.worker.status, fleet.server(30).status) == (StatusType.LOST, StatusType.LOST)
    fleet.beat_for(TIMEOUT + INTERVAL, Life(NEW, 30))
    assert fleet.worker.evidence | {"since": None} == {
        "incarnation": NEW,
        "passed_incarnation": OLD,
        "passed_seq": 11,
        "was": Reason.HEARTBEAT_EXPIRED,
        "since": None,
    }
    assert fleet.rows.transitions[-1].reason is Reason.CLOCK_WENT_BACK
    assert fleet.server(30).status is StatusType.RUNNING


def test_it_is_lost_like_any_other_and_may_restart_and_stop() -> None:
    fleet = (
        Fleet()
        .beat_for(10, Life(OLD, 30, seq=9))
        .beat_for(2 * TIMEOUT, Life(NEW, 31))
        .wait(2 * TIMEOUT)
    )
    assert fleet.worker.reason is Reason.HEARTBEAT_EXPIRED
    later = Life(NEW + 1, 32)
    fleet.take(later.beat())
    assert (fleet.worker.status, fleet.worker.reason) == (StatusType.RUNNING, Reason.RECOVERED)
    fleet.take(WorkerStopped(worker_id=1, **later.order()))
    assert (fleet.worker.status, fleet.worker.reason) == (StatusType.COMPLETE, Reason.GRACEFUL)


def test_a_life_goes_back_after_an_end_that_counts_higher() -> None:
    former = Life(OLD, seq=500)
    fleet = Fleet().take(former.beat(), WorkerStopped(worker_id=1, **former.order()))
    ended = WorkerStatusReported(worker_id=1, status=StatusType.CRASHED, sent_at=NOW)
    fleet.take(ended).beat_for(TIMEOUT + INTERVAL, Life(NEW))
    assert (fleet.worker.status, fleet.worker.reason) == (
        StatusType.RUNNING,
        Reason.CLOCK_WENT_BACK,
    )


def test_stopped_worker_may_run_again_in_one_incarnation() -> None:
    """Its life before was so short that its count is soon behind the new one."""
    former, life = Life(OLD), Life(OLD, 31)
    fleet = Fleet().take(former.beat(), WorkerStopped(worker_id=1, **former.order()))
    fleet.beat_for(2 * TIMEOUT, life)
    assert (fleet.worker.status, fleet.worker.reason) == (
        StatusType.RUNNING,
        Reason.CLOCK_WENT_BACK,
    )
    assert fleet.server(31).status is StatusType.RUNNING


def test_beats_that_lag_behind_a_stop_revive_nobody() -> None:
    """The heartbeat queue may be behind the lifecycle queue, and goes on at the pace of the
    beats."""
    life = Life(OLD)
    beats = [life.beat() for _ in range(20)]
    fleet = Fleet().take(beats[0], WorkerStopped(worker_id=1, **life.order()))
    for beat in beats[1:]:
        fleet.take(beat).wait(INTERVAL)
    assert (fleet.worker.status, fleet.statuses) == (StatusType.COMPLETE, ["RUNNING", "COMPLETE"])


def test_late_beats_of_an_older_life_revive_nobody() -> None:
    """However many at once, and one again and again."""
    former, life = Life(NEW, 30), Life(OLD, 30)
    late = [former.beat() for _ in range(50)]
    fleet = Fleet().beat_for(10, life).wait(2 * TIMEOUT)
    assert fleet.worker.status is StatusType.LOST
    fleet.take(*late[:20])
    for _ in range(10):
        fleet.take(late[20]).wait(INTERVAL)
    fleet.wait(TIMEOUT)
    fleet.take(*late[21:])
    assert (fleet.worker.status, fleet.worker.incarnation) == (StatusType.LOST, OLD)


def test_late_beats_of_the_same_life_do_not_take_it_over() -> None:
    life = Life(OLD, 30)
    late = [life.beat() for _ in range(5)]
    fleet = Fleet().beat_for(10, life).wait(2 * TIMEOUT).take(*late)
    assert (fleet.worker.status, fleet.worker.seq) == (StatusType.LOST, 7)


def test_late_events_do_not_bring_a_passed_life_back() -> None:
    """Neither by a beat, nor by what it says of its servers and of its end."""
    former, life = Life(OLD, 30, seq=9), Life(NEW, 31)
    fleet = Fleet().beat_for(10, former).beat_for(2 * TIMEOUT, life)
    late = ServerStarted(worker_id=1, instance_id=33, **former.order())
    fleet.take(former.beat(), WorkerStarted(worker_id=1, **former.order()), late)
    fleet.take(WorkerStopped(worker_id=1, **former.order()))
    assert (fleet.worker.status, fleet.worker.incarnation) == (StatusType.RUNNING, NEW)
    fleet.beat_for(3 * TIMEOUT, life)
    assert (fleet.server(33).status, fleet.server(31).status) == (
        StatusType.CRASHED,
        StatusType.RUNNING,
    )


def test_two_processes_that_both_beat_keep_what_they_have() -> None:
    """The row is the greater's. What only the other lists runs too, and nobody concludes that it
    does not."""
    greater, lower = Life(OLD, 30), Life(NEW, 31)
    fleet = Fleet().beat_for(4 * TIMEOUT, lower, greater)
    assert (fleet.worker.status, fleet.worker.incarnation) == (StatusType.RUNNING, OLD)
    assert fleet.server(30).status is fleet.server(31).status is StatusType.RUNNING
    worker = fleet.worker
    assert worker.rival_incarnation == NEW
    assert min(worker.rival_beat_at, worker.own_beat_at) - worker.rival_since >= timedelta(
        seconds=TIMEOUT
    )
    fleet.beat_for(3 * TIMEOUT, greater)
    assert worker.rival_since is None
    assert (fleet.server(31).status, fleet.server(31).reason) == (
        StatusType.CRASHED,
        Reason.SUPERSEDED,
    )


def test_of_two_processes_the_one_that_stays_has_the_worker() -> None:
    greater, lower = Life(OLD, 30), Life(NEW, 31)
    fleet = Fleet().beat_for(2 * TIMEOUT, lower, greater).beat_for(4 * TIMEOUT, lower)
    assert (fleet.worker.status, fleet.worker.incarnation) == (StatusType.RUNNING, NEW)
    assert (fleet.server(30).status, fleet.server(31).status) == (
        StatusType.CRASHED,
        StatusType.RUNNING,
    )
    assert fleet.statuses == ["RUNNING"]


def test_a_stop_of_the_rival_ends_the_rivalry() -> None:
    greater, lower = Life(OLD, 30), Life(NEW, 31)
    fleet = Fleet().beat_for(2 * TIMEOUT, lower, greater)
    fleet.take(WorkerStopped(worker_id=1, **lower.order()))
    assert (fleet.worker.status, fleet.worker.rival_since) == (StatusType.RUNNING, None)
    fleet.beat_for(2 * TIMEOUT, lower).beat_for(2 * TIMEOUT, lower, greater)
    assert fleet.worker.rival_incarnation == OLD  # it was passed, and is the rival now
    fleet.take(WorkerStopped(worker_id=1, **greater.order()))
    assert (fleet.worker.status, fleet.worker.incarnation) == (StatusType.RUNNING, NEW)
    assert fleet.worker.rival_since is None


def test_copies_of_a_heartbeat_keep_no_life_alive() -> None:
    former, life = Life(OLD, seq=9), Life(NEW, 31)
    newest, begun = former.beat(), WorkerStarted(worker_id=1, incarnation=NEW, seq=1)
    fleet = Fleet().take(newest)
    for _ in range(5):
        fleet.take(life.beat(), newest, begun).wait(INTERVAL)
    assert (fleet.worker.incarnation, fleet.worker.reason) == (NEW, Reason.CLOCK_WENT_BACK)


def test_server_started_before_the_take_over_runs() -> None:
    """Its start is in the lifecycle queue: it may come before the beats, and be counted after
    them."""
    life = Life(NEW)
    fleet = Fleet().beat_for(10, Life(OLD, 30, seq=9))
    fleet.take(ServerStarted(worker_id=1, instance_id=32, incarnation=NEW, seq=99))
    fleet.beat_for(TIMEOUT + INTERVAL, life)
    assert fleet.worker.reason is Reason.CLOCK_WENT_BACK
    fleet.wait(TIMEOUT)
    assert fleet.server(32).status is not StatusType.CRASHED


@pytest.mark.parametrize("incarnation", [2**63 - 1, NOW + 2 * DAY])
def test_an_incarnation_of_the_future_is_life_but_no_yardstick(incarnation: Any) -> None:
    life = Life(NOW, 31)
    fleet = Fleet().take(Life(incarnation, 30, seq=2**62).beat())
    assert fleet.worker.status is StatusType.RUNNING
    fleet.take(life.beat())
    assert (fleet.worker.incarnation, fleet.worker.reason) == (NOW, Reason.REPORTED)
    fleet.beat_for(2 * TIMEOUT, life)
    assert fleet.server(31).status is StatusType.RUNNING


def test_stored_incarnation_of_the_future_is_passed() -> None:
    """Versions before this one took it for the greatest."""
    fleet = Fleet().beat_for(10, Life(NOW, 30))
    fleet.worker.incarnation = fleet.worker.inventory_incarnation = fleet.server(
        30
    ).claim_incarnation = 2**63 - 1
    fleet.beat_for(3 * TIMEOUT, Life(NOW + 1, 31))
    assert (fleet.worker.status, fleet.worker.incarnation) == (StatusType.RUNNING, NOW + 1)
    fleet.take(Life(NOW + 2, 32).beat())
    assert fleet.worker.incarnation == NOW + 2  # a restart is a newer life at once


@pytest.mark.parametrize("ahead", [DAY, 365 * DAY, 10 * 60 * 1_000_000])
def test_what_is_dated_ahead_masks_nothing_that_follows(ahead: Any) -> None:
    def info(status: Any, at: Any) -> Any:
        return WorkerStatusReported(worker_id=1, status=status, sent_at=at)

    fleet = Fleet().take(info(StatusType.CRASHED, NOW + ahead)).wait(2)
    assert fleet.statuses == [StatusType.CRASHED]
    fleet.take(info(StatusType.RUNNING, microseconds(fleet.now)))
    fleet.take(info(StatusType.CRASHED, NOW + ahead))  # a copy
    assert fleet.statuses == [StatusType.CRASHED, StatusType.RUNNING]


def test_clock_that_is_set_and_still_ahead_counts() -> None:
    fleet = (
        Fleet()
        .take(WorkerStatusReported(worker_id=1, status=StatusType.CRASHED, sent_at=NOW + 365 * DAY))
        .wait(2)
    )
    fleet.take(WorkerStatusReported(worker_id=1, status=StatusType.RUNNING, sent_at=NOW + DAY))
    assert fleet.worker.status is StatusType.RUNNING


def test_a_stop_dated_ahead_ends_no_later_life() -> None:
    stopped = WorkerStopped(worker_id=1, sent_at=NOW + 300 * DAY)
    fleet = Fleet().take(heartbeat(), stopped).wait(2).take(WorkerStarted(worker_id=1))
    assert fleet.worker.status is StatusType.RUNNING


def test_a_server_claim_dated_ahead_masks_nothing() -> None:
    ahead = ServerStatusReported(instance_id=31, status=StatusType.RUNNING, sent_at=NOW + 300 * DAY)
    fleet = Fleet().take(ahead).wait(2)
    fleet.take(
        ServerStatusReported(
            instance_id=31, status=StatusType.INITIALIZING, sent_at=microseconds(fleet.now)
        )
    )
    assert fleet.server(31).status is StatusType.INITIALIZING


def test_true_clock_ends_a_life_dated_ahead() -> None:
    """The life's own clock is ahead."""
    life = Life(NOW + 3_600_000_000, 31)
    fleet = Fleet().take(life.beat()).wait(2)
    fleet.take(
        WorkerStatusReported(
            worker_id=1, status=StatusType.COMPLETE, sent_at=microseconds(fleet.now)
        )
    )
    assert fleet.worker.status is StatusType.COMPLETE


@settings(max_examples=100, deadline=None)
@given(
    st.lists(any_events(), max_size=20),
    st.sampled_from(
        [1, 1000, NEW, NOW, NOW + 1, NOW + 3_600_000_000, NOW + TOLERATED_INCARNATION_AHEAD]
    ),
    st.integers(0, 2**32),
)
def test_whatever_was_said_before_a_worker_that_beats_runs(
    before: Any, incarnation: Any, seed: int
) -> None:
    """Promised: once a life beats for two timeouts alone it is RUNNING with its labels and its
    servers, whatever counts higher was received, unless an end of that very life was reported."""
    chance = random.Random(seed)
    fleet = Fleet()
    for event in before:
        fleet.take(event).wait(chance.choice([0, 0, 1, 20]))
    shifted = [event for event in before if event.incarnation is not None]
    fleet.beat_for(10, Life(2**62 - chance.randrange(10), 90, seq=chance.randrange(100)))
    for event in shifted:
        fleet.take(event)
    fleet.beat_for(5 * TIMEOUT, Life(incarnation, 91, labels={"group": "mine"}))
    worker = fleet.worker
    ended = worker.ended_at is not None and worker.ended_at >= worker.incarnation
    if not ended and worker.stopped_incarnation != worker.incarnation:
        assert worker.status in ACTIVE
        assert fleet.server(91).status is StatusType.RUNNING
        assert worker.labels == {"group": "mine"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), max_size=60), st.integers(0, 2**32)
)
def test_no_copies_that_come_at_once_revive_a_silent_worker(copies: Any, seed: int) -> None:
    """Promised: beats below the newest that come within one timeout, in any order, any number of
    times, neither lift LOST nor give the row to another life."""
    chance = random.Random(seed)
    fleet = Fleet().beat_for(10, Life(NOW - 1, 30, seq=100)).wait(2 * TIMEOUT)
    worker = fleet.worker
    if worker.status is not StatusType.LOST:
        lose_worker(fleet.rows, worker, fleet.now, {})
    for life, seq in copies:
        fleet.take(heartbeat(incarnation=NOW - life, seq=seq, interval_seconds=float(INTERVAL)))
        fleet.seconds += chance.uniform(0, TIMEOUT / 61)
    assert (worker.status, worker.incarnation, worker.seq) == (StatusType.LOST, NOW - 1, 102)
