"""The truth about a simulated fleet, and how what the api says is held against it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manman_status.cli.tables import percentile
from manman_status.domain.fleet import ObservationState
from manman_status.domain.status import Reason, StatusType
from manman_status.lab.simulator.judgement import Judge, Wrong
from manman_status.lab.simulator.messages import Message, Said
from manman_status.lab.simulator.observed import (
    Observation,
    SeenGuard,
    SeenObservation,
    SeenServer,
    SeenSystem,
    SeenWorker,
)
from manman_status.lab.simulator.truth import Truth
from manman_status.reporter.messages import Report

TIMEOUT = 15.0
GRACE = 30.0
INTERVAL = 5.0
DATABASE_BEGAN = datetime(2026, 11, 23, 8, tzinfo=UTC)
"""Time at which the fleet began, by the database's clock."""


def at(seconds: float) -> datetime:
    return DATABASE_BEGAN + timedelta(seconds=seconds)


class World:
    """One worker, 7, with one server, 70, and what the api says of them."""

    def __init__(self, *, grace_ends: float = 0.0) -> None:
        self.truth = Truth([(7, "eu-1")], timeout_seconds=TIMEOUT)
        self.observation = Observation(grace_seconds=GRACE)
        self.judge = Judge(self.truth, self.observation, timeout_seconds=TIMEOUT)
        self.life = 0
        self.number = 0
        self.poll(grace_ends - GRACE)

    @property
    def worker(self) -> Any:
        return self.truth.workers[7]

    @property
    def silences(self) -> list[tuple[float, float]]:
        """The long ones after its first sign of life."""
        return [(silence.begun, silence.ended) for silence in self.worker.silent_spans[1:]]

    def poll(
        self,
        now: float,
        *,
        lag: float = 0.5,
        state: ObservationState = ObservationState.OK,
        held: tuple[str, ...] = (),
    ) -> None:
        guard = [SeenGuard(group) for group in held] or None
        self.observation.answered(
            SeenSystem(SeenObservation(state, at(now - lag), lag, guard)), now
        )

    def polls(self, since: float, until: float, **answer: Any) -> None:
        for now in range(int(since), int(until) + 1):
            self.poll(float(now), **answer)

    def says(
        self,
        said: Said,
        now: float,
        *,
        exit_code: int = 0,
        instance_id: int = 70,
        arrives: float | None = 0.0,
    ) -> Message:
        """`arrives` so much later; None: never, since the broker is unavailable."""
        self.number += 1
        message = Message(
            report=Report("", b"", durable=said is not Said.BEAT),
            said=said,
            worker_id=7,
            life=self.life,
            number=self.number,
            instance_id=instance_id,
            exit_code=exit_code,
        )
        self.truth.said([message])
        self.truth.tried(message, now)
        if arrives is not None:
            self.truth.stored(message, now + arrives)
        return message

    def begins(self, now: float = 0.0, *, instance_id: int = 70) -> None:
        self.life += 1
        self.says(Said.BEGUN, now)
        self.says(Said.SERVER_BEGUN, now, instance_id=instance_id)

    def beats(self, since: float, until: float, *, arrives: float | None = 0.0) -> None:
        now = since
        while now <= until:
            self.says(Said.BEAT, now, arrives=arrives)
            now += INTERVAL

    def sees(
        self,
        as_of: float,
        status: StatusType = StatusType.RUNNING,
        reason: Reason = Reason.REPORTED,
        *,
        since: float = 0.0,
        was_lost_at: float | None = None,
    ) -> None:
        evidence: dict[str, Any] = {}
        if was_lost_at is not None:
            reason = Reason.RECOVERED
            evidence = {"was": "heartbeat_expired", "since": at(was_lost_at).isoformat()}
        self.judge.judge_worker(SeenWorker(7, status, at(since), reason, evidence), as_of)

    def sees_lost(self, as_of: float, *, since: float) -> None:
        self.sees(as_of, StatusType.LOST, Reason.HEARTBEAT_EXPIRED, since=since)

    def sees_server(
        self,
        as_of: float,
        status: StatusType,
        reason: Reason,
        *,
        instance_id: int = 70,
        was: Reason | None = None,
    ) -> None:
        evidence = {} if was is None else {"was": was}
        self.judge.judge_server(SeenServer(instance_id, status, reason, evidence), as_of)

    @property
    def wrong(self) -> list[Wrong]:
        return [wrong for wrong, _ in self.judge.findings.values()]


@pytest.fixture
def world() -> World:
    world = World()
    world.begins()
    world.polls(1, 100)
    return world


def test_beating_worker_is_never_silent(world: World) -> None:
    world.beats(5, 40)
    world.beats(45, 90, arrives=None)
    world.beats(95, 100)
    assert world.silences == []


def test_a_starved_simulator_makes_true_silence(world: World) -> None:
    world.beats(5, 20)
    world.beats(40, 45)
    assert world.silences == [(20, 40)]


def test_a_copy_of_an_old_message_is_no_sign_of_life(world: World) -> None:
    world.beats(5, 5)
    beat = world.says(Said.BEAT, 10)
    world.says(Said.BEAT, 15)
    for late in (18, 28):
        world.truth.tried(beat, late)
        world.truth.stored(beat, late)
    assert world.worker.last_sign == 15


def test_a_running_worker_that_is_shown_as_running_is_no_finding(world: World) -> None:
    world.beats(5, 60)
    world.sees(59.5)
    assert world.wrong == []
    assert world.judge.pending == 0


def test_lost_while_it_beat_is_false(world: World) -> None:
    world.beats(5, 60)
    world.sees_lost(41.0, since=40.0)
    assert Wrong.FALSE_LOST in world.wrong
    assert world.judge.rightly_lost == 0


def test_lost_before_its_timeout_was_over_is_false(world: World) -> None:
    world.beats(5, 20)
    world.sees_lost(32.0, since=31.0)
    assert world.wrong == [Wrong.FALSE_LOST]


def test_lost_too_early_in_a_silence_that_went_on_is_false(world: World) -> None:
    world.beats(5, 20)
    world.beats(40, 60)
    world.sees(50.0, was_lost_at=31.0)
    assert world.wrong == [Wrong.FALSE_LOST]


def test_short_false_lost_is_counted_once(
    world: World,
) -> None:
    world.beats(5, 60)
    world.sees(50.0, was_lost_at=30.0)
    world.sees(55.0, was_lost_at=30.0)
    assert world.wrong == [Wrong.FALSE_LOST]


def test_lost_while_the_broker_was_unavailable_is_false(world: World) -> None:
    world.beats(5, 20)
    world.beats(25, 60, arrives=None)
    world.sees_lost(41.0, since=40.0)
    assert Wrong.FALSE_LOST in world.wrong


def test_lost_after_the_timeout_is_right_and_measured(world: World) -> None:
    world.beats(5, 20)
    world.sees_lost(37.0, since=36.5)
    assert world.wrong == []
    assert world.judge.rightly_lost == 1
    assert world.judge.delays == [pytest.approx(1.5)]


def test_lost_and_back_again_is_right(world: World) -> None:
    world.beats(5, 20)
    world.beats(40, 60)
    world.sees(50.0, was_lost_at=36.0)
    assert world.wrong == []
    assert world.judge.delays == [pytest.approx(1.0)]


def test_lost_long_after_it_came_back_is_false(world: World) -> None:
    world.beats(5, 20)
    world.beats(40, 60)
    world.sees(58.0, was_lost_at=45.0)
    assert world.wrong == [Wrong.FALSE_LOST]


def test_late_watermark_may_conclude_after_the_return(world: World) -> None:
    world.poll(100.0, lag=8.0)
    world.beats(5, 20)
    world.beats(40, 60)
    world.sees(58.0, was_lost_at=45.0)
    assert world.wrong == []


def test_still_lost_though_it_beats_again_is_false(world: World) -> None:
    world.beats(5, 20)
    world.beats(40, 60)
    world.sees_lost(40.5, since=36.0)
    assert world.wrong == []
    world.sees_lost(42.0, since=36.0)
    assert world.wrong == [Wrong.FALSE_LOST]


def test_missed_loss_counts_only_after_the_delay(world: World) -> None:
    world.beats(5, 20)
    world.sees(44.9)
    assert world.wrong == []
    assert world.judge.pending == 1
    world.sees(45.1)
    world.sees(46.0)
    assert world.wrong == [Wrong.MISSED_LOST]


def test_while_the_grace_may_run_nothing_is_missed() -> None:
    world = World(grace_ends=50.0)
    world.polls(21, 100)
    world.begins()
    world.beats(5, 20)
    world.sees(59.9)
    assert world.wrong == []
    world.sees(60.1)
    assert world.wrong == [Wrong.MISSED_LOST]


def test_a_delay_that_the_grace_explains_is_not_measured() -> None:
    world = World(grace_ends=50.0)
    world.polls(21, 100)
    world.begins()
    world.beats(5, 20)
    world.sees_lost(51.0, since=50.5)
    assert world.judge.rightly_lost == 1
    assert world.judge.delays == []


@pytest.mark.parametrize("state", [ObservationState.DEGRADED, ObservationState.BLIND])
def test_bad_monitoring_excuses_a_miss_for_a_grace(world: World, state: ObservationState) -> None:
    """A loss that could not be seen is missed only a grace later."""
    world.beats(5, 20)
    world.poll(101, state=state)
    world.sees(70.0)
    world.polls(102, 140)
    world.sees(141.9)
    assert world.wrong == []
    world.sees(142.1)
    assert world.wrong == [Wrong.MISSED_LOST]


def test_an_api_that_did_not_answer_for_a_while_excuses_as_long(world: World) -> None:
    world.beats(5, 20)
    world.poll(110)
    world.sees(149.0)
    assert world.wrong == []


def test_while_the_guard_holds_its_group_nobody_of_it_is_missed(world: World) -> None:
    world.beats(5, 20)
    world.polls(101, 120, held=("eu-1",))
    world.sees(119.5)
    assert world.wrong == []
    world.polls(121, 130, held=("eu-2",))
    world.sees(129.9)
    assert world.wrong == []
    world.sees(130.1)
    assert world.wrong == [Wrong.MISSED_LOST]


def test_what_an_earlier_run_left_is_not_ours(world: World) -> None:
    world.beats(5, 60)
    world.sees(50.0, was_lost_at=-20.0)
    world.judge.judge_worker(
        SeenWorker(8, StatusType.LOST, at(40.0), Reason.HEARTBEAT_EXPIRED), 50.0
    )
    world.sees_server(50.0, StatusType.LOST, Reason.WORKER_LOST, instance_id=71)
    assert world.wrong == []


def test_unknown_or_wrongly_ended_worker_is_wrong(world: World) -> None:
    world.beats(5, 60)
    world.sees(50.0, StatusType.COMPLETE, Reason.GRACEFUL)
    assert world.wrong == [Wrong.WORKER_STATUS]
    world.judge.findings.clear()
    world.judge.judge_unseen_workers({7}, 50.0)
    assert world.wrong == []
    world.judge.judge_unseen_workers(set(), 50.0)
    assert world.wrong == [Wrong.WORKER_STATUS]


def test_stopped_worker_must_be_complete_once_observed(world: World) -> None:
    world.beats(5, 60)
    world.says(Said.SERVER_ENDED, 61)
    world.says(Said.ENDED, 61)
    world.sees(61.5)
    assert world.judge.pending == 1
    world.sees(62.5, StatusType.COMPLETE, Reason.GRACEFUL)
    assert world.wrong == []
    world.sees(62.5)
    assert world.wrong == [Wrong.WORKER_STATUS]


def test_servers_run_while_their_worker_lists_them(world: World) -> None:
    world.beats(5, 60)
    world.sees_server(59.0, StatusType.RUNNING, Reason.REPORTED)
    assert (world.wrong, world.judge.pending) == ([], 0)
    world.sees_server(59.0, StatusType.CRASHED, Reason.MISSING_FROM_INVENTORY)
    assert world.wrong == [Wrong.SERVER_STATUS]


def test_listed_server_that_was_lost_is_wrong(world: World) -> None:
    world.beats(5, 60)
    world.sees_server(59.0, StatusType.RUNNING, Reason.RECOVERED, was=Reason.WORKER_LOST)
    assert world.wrong == []
    world.sees_server(59.0, StatusType.RUNNING, Reason.RECOVERED, was=Reason.MISSING_FROM_INVENTORY)
    assert world.wrong == [Wrong.SERVER_STATUS]


@pytest.mark.parametrize(
    ("exit_code", "status", "reason"),
    [(0, StatusType.COMPLETE, Reason.GRACEFUL), (139, StatusType.CRASHED, Reason.EXIT_CODE)],
)
def test_a_reported_end_counts_from_when_the_broker_had_it(
    world: World, exit_code: int, status: StatusType, reason: Reason
) -> None:
    world.beats(5, 60)
    stopped = world.says(Said.SERVER_ENDED, 30, exit_code=exit_code, arrives=None)
    world.sees_server(50.0, StatusType.RUNNING, Reason.REPORTED)
    assert (world.wrong, world.judge.pending) == ([], 1)
    world.truth.stored(stopped, 50.0)
    world.truth.stored(stopped, 55.0)
    world.sees_server(50.5, StatusType.RUNNING, Reason.REPORTED)
    world.sees_server(52.0, status, reason)
    assert world.wrong == []
    world.sees_server(52.0, StatusType.RUNNING, Reason.REPORTED)
    assert world.wrong == [Wrong.SERVER_STATUS]


def test_servers_are_lost_with_their_worker(world: World) -> None:
    world.beats(5, 20)
    world.sees_server(30.0, StatusType.RUNNING, Reason.REPORTED)
    world.sees_server(37.0, StatusType.LOST, Reason.WORKER_LOST)
    assert world.wrong == []
    world.sees_server(46.0, StatusType.RUNNING, Reason.REPORTED)
    assert world.wrong == [Wrong.SERVER_STATUS]


@pytest.mark.parametrize("back_at", [30, 40])
def test_servers_of_a_past_life_end_superseded(
    back_at: int,
) -> None:
    """This holds for a lost life too."""
    world = World()
    world.begins()
    world.polls(1, 100)
    world.beats(5, 20)
    world.begins(back_at, instance_id=71)
    world.beats(back_at + 5, 100)
    due = back_at + 5 + TIMEOUT + 10
    world.sees_server(due - 1, StatusType.RUNNING, Reason.REPORTED)
    world.sees_server(due + 1, StatusType.CRASHED, Reason.SUPERSEDED)
    assert world.wrong == []
    world.sees_server(due + 1, StatusType.LOST, Reason.WORKER_LOST)
    assert world.wrong == [Wrong.SERVER_STATUS]
    world.judge.findings.clear()
    world.sees_server(due + 1, StatusType.RUNNING, Reason.REPORTED)
    assert world.wrong == [Wrong.SERVER_STATUS]


def test_server_not_listed_in_time_is_wrong(world: World) -> None:
    world.beats(5, 60)
    world.judge.judge_unseen_servers(set(), 0.5)
    assert (world.wrong, world.judge.pending) == ([], 1)
    world.judge.judge_unseen_servers(set(), 50.0)
    assert world.wrong == [Wrong.SERVER_STATUS]


def test_the_database_is_dated_by_its_freshest_answer() -> None:
    observation = Observation(grace_seconds=GRACE)
    assert not observation.is_dated
    for now, kept in ((1.0, 0.25), (2.0, 0.01), (3.0, 0.2)):
        seen = SeenObservation(ObservationState.OK, at(now - kept - 2.0), 2.0)
        observation.answered(SeenSystem(seen), now)
    assert observation.fleet_time(at(50.0)) == pytest.approx(50.01)


def test_percentiles_are_values_that_were_there() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.95) == 3.0
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile([2.0, 1.0, 3.0], 0.5) == 2.0
