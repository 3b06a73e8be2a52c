"""Nobody who beats is ever lost, whatever breaks on our side, and nobody who is silent goes
unnoticed.

Each tick of the simulated fleet checks every transition against what its workers truly did
(`check_transitions`).
"""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from manman_status.domain.status import ACTIVE, Reason, StatusType
from tests.model.observed_fleet import (
    DROPPED_EXPIRES,
    GRACE,
    HOLD,
    MINIMUM_TIMEOUT,
    PREFETCH,
    RULES,
    Database,
    World,
    seconds,
)

INTERVALS = st.sampled_from([1, 2, 5, 10])
DURATIONS = st.sampled_from([0.5, 1, 3, 8, 14, 20, 40])
CLOCKS = st.sampled_from([-3600, 0, 3600])
STEPS = st.sampled_from([-3600, 3600])
LONGEST_TIMEOUT = 30.0
AT_MOST_PROCESSORS = 4
PREFETCHES = st.sampled_from([PREFETCH, PREFETCH // 2])
PARTITIONS = st.sampled_from([1, 2, 3])
LENGTHS = st.sampled_from([1, 4, 20, 10_000])


def heal(world: Any) -> None:
    """All of our side well again, with time enough to take up what had piled up."""
    world.broker.up = world.database.up = True
    world.broker.max_length = 10_000
    for processor in world.processors:
        processor.frozen_since = None
        processor.messages_per_tick = 50
        processor.transaction_seconds = 0.0
    if not any(processor.alive for processor in world.processors):
        world.start_processor()
    world.pass_time(15)


def assert_all_is_shown_as_it_is(world: Any) -> None:
    fleet = world.database.fleet
    assert world.database_now - 3 <= world.database.observed_through <= world.database_now
    for worker in world.workers.values():
        row = fleet.workers.get(worker.worker_id)
        if row is None and not worker.speaks:
            continue  # it never came to say a word
        assert row is not None
        shown = {
            i
            for i in fleet.instances_of.get(worker.worker_id, ())
            if fleet.instances[i].status in ACTIVE
        }
        if row.status is StatusType.COMPLETE and world.is_ordered_by_receipt(worker):
            continue  # a copy of its end may have come after the beginning
        if worker.speaks:
            assert row.status is StatusType.RUNNING, row
            assert shown == worker.servers, row
        else:
            assert row.status in {StatusType.LOST, StatusType.COMPLETE}, row
            assert not shown, row


def assert_queues_are_shared(world: Any) -> None:
    living = [processor for processor in world.processors if processor.alive]
    queues = {name: mark.state for name, mark in world.database.marks.items()}
    assert {*queues.values()} == {"active"}
    assert world.broker.queues.keys() == queues.keys()
    assert max(len(processor.given(world.broker)) for processor in living) <= ceil(
        len(queues) / len(living)
    )


def observe_to_the_end(world: Any) -> None:
    heal(world)
    world.pass_time(DROPPED_EXPIRES + GRACE + LONGEST_TIMEOUT + 2 * HOLD + 60)
    assert_all_is_shown_as_it_is(world)
    assert_queues_are_shared(world)


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        for interval in (2, 5, 10):
            self.world.start_server(self.world.start_worker(interval))
        self.world.start_worker(2, counted=False)
        self.world.pass_time(5)

    def worker(self, data: Any) -> Any:
        return data.draw(st.sampled_from(list(self.world.workers.values())), "worker")

    def processor(self, data: Any) -> Any:
        living = [processor for processor in self.world.processors if processor.alive]
        return data.draw(st.sampled_from(living), "processor") if living else None

    @rule(duration=DURATIONS)
    def wait(self, duration: Any) -> None:
        self.world.pass_time(duration)

    @precondition(lambda self: len(self.world.workers) < 7)
    @rule(interval=INTERVALS, counted=st.booleans(), clock_off_by=CLOCKS)
    def start_worker(self, interval: Any, counted: Any, clock_off_by: Any) -> None:
        self.world.start_worker(interval, counted=counted, clock_off_by=clock_off_by)

    @rule(data=st.data())
    def kill_worker(self, data: Any) -> None:
        self.worker(data).alive = False

    @rule(data=st.data())
    def stop_worker(self, data: Any) -> None:
        worker = self.worker(data)
        if worker.alive and not worker.muted and self.world.broker.up:
            self.world.stop_worker(worker)

    @rule(data=st.data())
    def restart_worker(self, data: Any) -> None:
        worker = self.worker(data)
        worker.muted = False
        worker.start(self.world.now)

    @rule(data=st.data(), clock_off_by=CLOCKS, repeats_incarnation=st.booleans())
    def restart_worker_in_another_time(
        self, data: Any, clock_off_by: Any, repeats_incarnation: Any
    ) -> None:
        """Restart a worker that counts: an end that has only a time outranks a start that is dated
        before it."""
        worker = self.worker(data)
        if worker.counted:
            worker.muted = False
            worker.start(
                self.world.now, clock_off_by=clock_off_by, repeats_incarnation=repeats_incarnation
            )

    @rule(data=st.data())
    def mute_or_unmute_worker(self, data: Any) -> None:
        worker = self.worker(data)
        worker.muted = not worker.muted

    @rule(data=st.data())
    def start_server(self, data: Any) -> None:
        worker = self.worker(data)
        if worker.alive and worker.counted:
            self.world.start_server(worker)

    @rule(data=st.data())
    def stop_server(self, data: Any) -> None:
        worker = self.worker(data)
        if worker.alive and worker.servers:
            worker.stop_server(min(worker.servers), self.world.now)

    @rule(duration=DURATIONS, keeps_beats=st.booleans())
    def stop_broker(self, duration: Any, keeps_beats: Any) -> None:
        self.world.stop_broker(keeps_beats=keeps_beats)
        self.world.pass_time(duration)
        self.world.broker.up = True

    @rule(duration=DURATIONS)
    def stop_database(self, duration: Any) -> None:
        self.world.database.up = False
        self.world.pass_time(duration)
        self.world.database.up = True

    @rule(by=STEPS)
    def step_clock(self, by: Any) -> None:
        self.world.database.ahead += by

    @rule(length=LENGTHS)
    def bound_queues(self, length: Any) -> None:
        self.world.broker.max_length = length

    @rule(data=st.data())
    def freeze_or_thaw_processor(self, data: Any) -> None:
        if processor := self.processor(data):
            processor.frozen_since = self.world.now if processor.frozen_since is None else None

    @rule(data=st.data())
    def kill_processor(self, data: Any) -> None:
        if processor := self.processor(data):
            self.world.kill(processor)

    @precondition(
        lambda self: (
            sum(processor.alive for processor in self.world.processors) < AT_MOST_PROCESSORS
        )
    )
    @rule(partitions=PARTITIONS, prefetch=PREFETCHES)
    def start_processor(self, partitions: Any, prefetch: Any) -> None:
        self.world.start_processor(partitions, prefetch)

    @rule(data=st.data())
    def cut_processor_off(self, data: Any) -> None:
        if processor := self.processor(data):
            self.world.disconnect(processor)

    @rule(
        data=st.data(),
        messages=st.sampled_from([1, 2, 50]),
        transaction=st.sampled_from([0, 0.5, 2, 9]),
    )
    def slow_processor_down(self, data: Any, messages: Any, transaction: Any) -> None:
        if processor := self.processor(data):
            processor.messages_per_tick, processor.transaction_seconds = messages, transaction

    @invariant()
    def nobody_silent_goes_unnoticed(self) -> None:
        """Check that a worker whose silence counts at the last sweep is LOST, unless the guard
        holds."""
        world = self.world
        if (
            world.swept_through is None
            or world.database.guards
            or world.swept_steps != world.database.clock_steps
        ):
            return
        for row in world.database.fleet.workers.values():
            if row.status in ACTIVE and row.last_heartbeat is not None:
                timeout = RULES.timeout(row)
                due = max(
                    seconds(row.last_heartbeat) + timeout,
                    world.database.resumed_at + max(timeout, GRACE),
                )
                assert world.swept_through <= due, row

    def teardown(self) -> None:
        observe_to_the_end(self.world)


Fleet.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.reuse, Phase.generate),  # shrinking would take minutes
)
TestFleet = Fleet.TestCase


def fleet(*intervals: Any, processors: int = 2, partitions: int = 1) -> Any:
    world = World(processors, partitions)
    for interval in intervals:
        world.start_server(world.start_worker(interval))
    world.start_worker(2, counted=False)
    world.pass_time(60)
    return world


def losses(world: Any) -> list[Any]:
    return [t.entity_id for t in world.database.history if t.reason is Reason.HEARTBEAT_EXPIRED]


def reader_of(world: Any, name: str) -> Any:
    return next(p for p in world.processors if p.alive and name in p.given(world.broker))


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_frozen_reader_holds_the_watermark_until_it_is_cut_off(partitions: Any) -> None:
    world = fleet(2, 5, partitions=partitions)
    reader = reader_of(world, "beats.0")
    reader.frozen_since = world.now
    world.pass_time(20)
    assert reader.channels["beats.0"].unsettled
    assert world.database.observed_through < world.now - 19
    world.pass_time(25)
    assert world.database.observed_through > world.now - 3
    observe_to_the_end(world)
    assert not losses(world)


@pytest.mark.parametrize("frozen_for", [20, 26, 40, 90])
def test_late_commit_of_a_cut_off_reader_changes_nothing(frozen_for: Any) -> None:
    """It was frozen within the transaction, and another has read the same messages by then."""
    world = fleet(1, 2, 2)
    zombie = reader_of(world, "beats.0")
    zombie.transaction_seconds = 3
    world.pass_time(2)
    assert zombie.begun["beats.0"]
    zombie.frozen_since = world.now
    world.pass_time(frozen_for)
    zombie.frozen_since = None
    world.pass_time(5)
    observe_to_the_end(world)
    assert not losses(world)


@pytest.mark.parametrize("prefetches", [(9, 3, 9), (9, 3, 1), (9, 9, 9), (3, 9, 1)])
def test_two_failovers_pass_nothing_that_was_returned(prefetches: Any) -> None:
    """A quorum queue puts what the second reader held behind the rest of what the first one held,
    canaries too."""
    world = fleet(2, processors=3)
    line = world.broker.queues["lifecycle"].line
    first, second, third = (
        next(p for p in world.processors if channel in p.channels.values()) for channel in line
    )
    for channel, prefetch in zip(line, prefetches, strict=True):
        channel.prefetch = prefetch
    first.transaction_seconds = second.transaction_seconds = 9
    for _ in range(3):
        world.start_server(world.workers[1])
    world.pass_time(2)
    world.kill(first)
    world.pass_time(0.5)
    world.kill(second)
    third.messages_per_tick = 1
    world.pass_time(20)
    observe_to_the_end(world)
    assert not losses(world)


@pytest.mark.parametrize("every", [3, 5, 10, 14])
@pytest.mark.parametrize("partitions", [1, 2])
def test_readers_failing_in_turn_cost_nobody_his_life(every: Any, partitions: Any) -> None:
    world = fleet(1, 2, 5, processors=4, partitions=partitions)
    for processor in world.processors[:3]:
        processor.transaction_seconds = 9
        world.pass_time(every)
        world.kill(processor)
    observe_to_the_end(world)
    assert not losses(world)


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("lags", [False, True])
def test_another_number_of_partitions_costs_nobody_his_life(
    before: Any, after: Any, lags: Any
) -> None:
    """Beats may lie in a queue that is read slowly when it is retired."""
    world = fleet(1, 2, 5, 5, partitions=before)
    for processor in world.processors if lags else ():
        processor.messages_per_tick = 1
    world.pass_time(20)
    world.start_processor(after)
    world.pass_time(40)
    if not lags:
        assert len(world.database.marks) == after + 1
        assert world.database.observed_through > world.now - 3
    observe_to_the_end(world)
    assert not losses(world)


def test_a_processor_without_database_binds_no_queue_that_left() -> None:
    world = fleet(1, 2, 5, partitions=3)
    apart = Database()
    apart.up = False
    processor = world.processors[0]
    processor.frozen_since = world.now
    world.start_processor(1)
    world.pass_time(30)
    assert world.broker.bound == ["beats.0"]
    processor.read(world.broker, apart)
    assert world.broker.bound == ["beats.0"]
    observe_to_the_end(world)
    assert not losses(world)


def test_a_new_queue_stops_the_observation_until_its_canary() -> None:
    world = fleet(2, 5)
    through = world.database.observed_through
    world.database.choose_queues(2)
    for processor in world.processors:
        processor.frozen_since = world.now
    world.start_processor(2)
    world.pass_time(10)
    assert world.database.observed_through <= through + 1
    assert world.database.marks["beats.1"].observed_through is not None
    observe_to_the_end(world)
    assert not losses(world)


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("frozen_for", [1, 4, 10])
def test_what_the_broker_dropped_is_not_silence(length: Any, frozen_for: Any) -> None:
    """The last sign of life is dropped, the canary behind it is not."""
    world = fleet(1, 1, 1, 2)
    worker = world.workers[4]
    for phase in range(8):
        worker.muted = True
        world.pass_time(MINIMUM_TIMEOUT - frozen_for - 1 + phase / 4)
        worker.muted = False
        for processor in world.processors:
            processor.frozen_since = world.now
        world.broker.max_length = length
        world.pass_time(frozen_for)
        for processor in world.processors:
            processor.frozen_since = None
        world.broker.max_length = 10_000
        world.pass_time(60)
    observe_to_the_end(world)


@pytest.mark.parametrize("length", [2, 3, 4, 6])
@pytest.mark.parametrize("later", [0, 0.5, 1, 1.5, 2])
def test_no_canary_passes_a_drop_before_it_is_known(length: Any, later: Any) -> None:
    """Many are dropped at once, and the canary behind them is committed at once."""
    world = fleet(1, 1, 1, 1, 1, 1, processors=1)
    world.processors[0].frozen_since = world.now
    world.pass_time(4)
    world.processors[0].frozen_since = None
    world.pass_time(later)
    world.broker.max_length = length
    world.pass_time(3)
    observe_to_the_end(world)


def test_queues_are_shared_and_move_without_a_grace() -> None:
    world = fleet(2, 5, processors=1, partitions=3)
    resumed_at = world.database.resumed_at
    for _ in range(3):
        world.start_processor(3)
        world.pass_time(30)
        assert_queues_are_shared(world)
    assert world.database.resumed_at == resumed_at
    assert world.database.observed_through > world.now - 3
    observe_to_the_end(world)
    assert not losses(world)


@pytest.mark.parametrize("duration", [8, 14, 20, 120])
@pytest.mark.parametrize("broken", ["broker", "database", "processors"])
def test_our_own_failure_costs_nobody_his_life(broken: Any, duration: Any) -> None:
    world = fleet(2, 5, 10)
    if broken == "broker":
        world.stop_broker()
    elif broken == "database":
        world.database.up = False
    else:
        for processor in world.processors:
            world.kill(processor)
    world.pass_time(duration)
    observe_to_the_end(world)
    assert not losses(world)


@pytest.mark.parametrize("duration", [0.5, 1, 3])
@pytest.mark.parametrize("every", [4, 5, 10])
@pytest.mark.parametrize("keeps_beats", [True, False])
def test_nor_do_many_short_stops_of_the_broker(duration: Any, every: Any, keeps_beats: Any) -> None:
    """Each may cost everybody a beat, and three missed ones are silence."""
    world = fleet(2, 5, 10, partitions=2)
    for _ in range(12):
        world.stop_broker(keeps_beats=keeps_beats)
        world.pass_time(duration)
        world.broker.up = True
        world.pass_time(every - duration)
    observe_to_the_end(world)
    assert not losses(world)


def test_lag_costs_nobody_his_life() -> None:
    world = fleet(1, 1, 1, 1, 2, 5, processors=1)
    world.processors[0].messages_per_tick = 2
    world.pass_time(300)
    assert world.database.observed_through < world.now - 60
    observe_to_the_end(world)
    assert not losses(world)


def test_a_transaction_that_hangs_takes_no_beat_back() -> None:
    """The first transaction may be committed last; a beat without a number cannot show that it is
    old."""
    world = fleet(2)
    for first, other in (world.processors, world.processors[::-1]):
        first.transaction_seconds = 14
        world.pass_time(16)
        first.transaction_seconds = other.transaction_seconds = 0
        world.pass_time(20)
    assert not losses(world)


@pytest.mark.parametrize("interval", [1, 2, 5, 10])
@pytest.mark.parametrize(
    ("clock", "again"), [(-3600, False), (0, True)], ids=["clock back", "counter again"]
)
def test_a_restart_that_counts_lower_is_not_lost(interval: Any, clock: Any, again: Any) -> None:
    world = fleet(interval, 2, 2)
    worker = world.workers[1]
    worker.start(world.now, clock_off_by=clock, repeats_incarnation=again)
    server = world.start_server(worker)
    world.pass_time(worker.timeout + 2 * interval + 3)
    assert not losses(world)
    assert world.database.fleet.workers[1].reason is Reason.CLOCK_WENT_BACK
    assert world.database.fleet.instances[server].status is StatusType.RUNNING
    observe_to_the_end(world)


def reasons(world: Any) -> tuple[Reason | None, Reason | None]:
    """Reasons of worker 1 and of its server."""
    fleet = world.database.fleet
    return fleet.workers[1].reason, fleet.instances[1].reason


@pytest.mark.parametrize("interval", [1, 2, 5, 10])
def test_one_dead_worker_is_lost_in_time_and_recovers(interval: Any) -> None:
    world = fleet(interval, 2, 2)
    worker = world.workers[1]
    worker.muted = True
    silent_from = max(worker.beats)
    world.pass_time(silent_from + worker.timeout - world.now)
    assert not losses(world)
    world.pass_time(3)
    assert losses(world) == [1]
    assert reasons(world) == (Reason.HEARTBEAT_EXPIRED, Reason.WORKER_LOST)
    worker.muted = False
    world.pass_time(interval + 3)
    assert reasons(world) == (Reason.RECOVERED, Reason.RECOVERED)


def test_many_at_once_are_held_and_then_lost_one_by_one() -> None:
    world = fleet(2, 2, 2, 2, 2, 2)
    died_at = world.now
    for worker_id in (1, 2, 3):
        world.workers[worker_id].alive = False
    world.pass_time(MINIMUM_TIMEOUT + HOLD - 3)
    assert world.database.guards
    assert not losses(world)
    world.pass_time(10)
    assert sorted(losses(world)) == [1, 2, 3]
    assert not world.database.guards
    assert world.now < died_at + MINIMUM_TIMEOUT + HOLD + 10


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("by", [-3600, -30, 3600])
def test_clock_step_loses_nobody_and_hides_no_death(by: Any, ran: Any) -> None:
    """Processors ran at that time or not; a step forward when none ran is an outage."""
    world = fleet(2, 5, 10)
    if not ran:
        for processor in world.processors:
            world.kill(processor)
    world.database.ahead += by
    world.workers[1].alive = False
    world.pass_time(3)
    if not ran:
        world.start_processor()
    world.pass_time(GRACE + MINIMUM_TIMEOUT + 5)
    assert losses(world) == [1]
    observe_to_the_end(world)
    assert losses(world) == [1]


@pytest.mark.parametrize("by", [-12, -6])
def test_a_canary_of_before_a_step_back_proves_nothing(by: Any) -> None:
    """It waited in its queue for longer than the step, so its time is past again."""
    world = fleet(1, 2, 5)
    reader = reader_of(world, "beats.0")
    reader.frozen_since = world.now
    world.pass_time(2)
    world.database.ahead += by
    world.pass_time(18)
    reader.frozen_since = None
    reader.messages_per_tick = 2
    world.pass_time(10)
    observe_to_the_end(world)
    assert not losses(world)


@pytest.mark.parametrize("by", [-3600, 3600])
def test_paused_processor_takes_no_step_of_its_own(by: Any) -> None:
    world = fleet(2, 5)
    world.processors[0].frozen_since = world.now
    world.database.ahead += by
    world.pass_time(8)
    assert world.database.clock_steps == 1
    world.processors[0].frozen_since = None
    world.pass_time(8)
    assert world.database.clock_steps == 1
    observe_to_the_end(world)
    assert not losses(world)
