"""Conclusions of other thresholds, from recordings made by hand, whose truth is known."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import Thresholds
from manman_status.domain.sweep import SweepRules
from manman_status.lab.recording.lines import gap_line, message_line
from manman_status.lab.recording.what_if import Verdict, collect, conclude
from manman_status.reporter.messages import Incarnation
from tests.builders import START

RULES = SweepRules(
    thresholds=Thresholds(),
    guard=GuardRules(minimum_workers=3, percent=30, hold_seconds=60, release_percent=10),
)
NEVER_HELD = msgspec.structs.replace(RULES, guard=msgspec.structs.replace(RULES.guard, percent=100))


def at(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


def beats(
    worker_id: int,
    *periods: Any,
    interval: float = 2.0,
    number: int = 1,
    first_seq: int = 1,
    group: str = "eu-1",
) -> Any:
    """Heartbeats of one life, in these periods of seconds."""
    life = Incarnation(
        worker_id,
        number=number,
        first_seq=first_seq,
        interval_seconds=interval,
        labels={"group": group},
    )
    lines = []
    for begin, end in periods:
        now = begin
        while now < end:
            report = life.heartbeat()
            lines.append(message_line(at(now), report.routing_key, report.body, persistent=False))
            now += interval
    return lines


def recorded(*parts: Any) -> Any:
    lines = sorted((line for part in parts for line in part), key=lambda line: line.at)
    return collect(lines, default_interval=10)


def found(*parts: Any, rules: Any = RULES) -> Any:
    return conclude(recorded(*parts), rules, standstill_seconds=5)


def verdicts(outcome: Any) -> list[Any]:
    return [(loss.worker_id, loss.verdict) for loss in outcome.losses]


STEADY = [beats(worker_id, (worker_id / 10, 200)) for worker_id in range(1, 8)]


def test_of_those_who_beat_nobody_is_lost() -> None:
    assert verdicts(found(*STEADY)) == []


def test_who_never_came_back_is_lost_and_rightly() -> None:
    outcome = found(*STEADY, beats(9, (0, 50)))
    assert verdicts(outcome) == [(9, Verdict.TRUE)]
    [delay] = outcome.delays()
    assert 15 < delay <= 17  # its timeout, and until the next sweep


def test_who_comes_back_in_the_same_life_was_lost_wrongly() -> None:
    assert verdicts(found(*STEADY, beats(9, (0, 50), (80, 200)))) == [(9, Verdict.FALSE)]


def test_who_comes_back_in_a_new_life_was_lost_rightly() -> None:
    old, new = beats(9, (0, 50)), beats(9, (80, 200), number=2)
    assert verdicts(found(*STEADY, old, new)) == [(9, Verdict.TRUE)]


def test_life_that_ends_after_its_lost_was_wrongly_lost() -> None:
    stopped = Incarnation(9, number=1).worker_stopped()
    late = [message_line(at(90), stopped.routing_key, stopped.body, persistent=True)]
    assert verdicts(found(*STEADY, beats(9, (0, 50)), late)) == [(9, Verdict.FALSE)]


def test_what_the_recording_is_too_short_for_is_undecided() -> None:
    assert verdicts(found(*STEADY, beats(9, (0, 175)))) == [(9, Verdict.UNDECIDED)]


def test_silence_in_a_gap_is_no_proof() -> None:
    """Until the gap the others beat, after it one of them: nobody listened for one more timeout."""
    others = [beats(worker_id, (worker_id / 10, 70)) for worker_id in range(1, 8)]
    outcome = found(*others, beats(9, (0, 50)), [gap_line(at(70), at(198))], beats(1, (198, 200)))
    assert verdicts(outcome) == [(9, Verdict.UNDECIDED)]


def test_a_beat_that_comes_twice_is_no_sign_of_life() -> None:
    dead = beats(9, (0, 50))
    again = msgspec.structs.replace(dead[3], at=at(120))
    assert verdicts(found(*STEADY, dead, [again])) == [(9, Verdict.TRUE)]


def test_a_start_that_comes_late_begins_no_new_life() -> None:
    life = Incarnation(9, number=1)
    reports = [life.heartbeat(), life.worker_started()]
    lines = [
        message_line(at(time), report.routing_key, report.body, persistent=report.durable)
        for time, report in zip((0, 80), reports, strict=True)
    ]
    assert verdicts(found(*STEADY, lines, beats(9, (82, 200), first_seq=3))) == [(9, Verdict.FALSE)]


@pytest.mark.parametrize(("timeout", "lost"), [(5, 1), (15, 1), (23, 0), (60, 0)])
def test_longer_timeout_spares_short_silences(timeout: Any, lost: Any) -> None:
    rules = msgspec.structs.replace(RULES, thresholds=Thresholds(minimum_timeout_seconds=timeout))
    assert len(found(*STEADY, beats(9, (0, 50), (70, 200)), rules=rules).losses) == lost


def test_three_intervals_are_always_waited_for() -> None:
    rules = msgspec.structs.replace(RULES, thresholds=Thresholds(minimum_timeout_seconds=1))
    outcome = found(*STEADY, beats(9, (0, 60), interval=20.0), rules=rules)
    assert outcome.delays()[0] > 60


def test_worker_that_stopped_normally_is_not_lost() -> None:
    stopped = Incarnation(9, number=1).worker_stopped()
    end = [message_line(at(50), stopped.routing_key, stopped.body, persistent=True)]
    assert verdicts(found(*STEADY, beats(9, (0, 50)), end)) == []


@pytest.mark.parametrize("rules", [RULES, NEVER_HELD], ids=["guarded", "not guarded"])
def test_silence_in_a_gap_of_the_listening_counts_for_nothing(rules: Any) -> None:
    """All beat again right after it, but for one that died meanwhile: that one is lost when the
    grace is over."""
    living = [
        beats(worker_id, (worker_id / 10, 50), (90 + worker_id / 10, 200))
        for worker_id in range(1, 7)
    ]
    outcome = found(*living, beats(7, (0.7, 50)), [gap_line(at(50), at(90))], rules=rules)
    assert verdicts(outcome) == [(7, Verdict.TRUE)]
    assert at(90 + 30) < outcome.losses[0].lost_at < at(90 + 30 + 2)


def test_guard_holds_when_much_of_a_group_seems_lost() -> None:
    silent = [beats(worker_id, (worker_id / 10, 50), (90, 200)) for worker_id in range(1, 5)]
    held = found(*silent, *[beats(worker_id, (0, 200)) for worker_id in range(5, 9)])
    assert (verdicts(held), held.guards, held.held) == ([], 1, 4)
    holding_guard = found(
        *silent, *[beats(worker_id, (0, 200)) for worker_id in range(5, 9)], rules=NEVER_HELD
    )
    assert [verdict for _, verdict in verdicts(holding_guard)] == [Verdict.FALSE] * 4
    assert holding_guard.guards == 0


def test_lives_without_incarnation_are_distinguished() -> None:
    """The event with which a life begins distinguishes it."""

    def dated(kind: Any, *seconds: Any) -> list[Any]:
        life = Incarnation(9, number=None, interval_seconds=2)
        reports = [getattr(life, kind)() for _ in seconds]
        return [
            message_line(at(time), report.routing_key, report.body, persistent=False)
            for time, report in zip(seconds, reports, strict=True)
        ]

    silent = dated("heartbeat", *range(0, 50, 2))
    again = dated("heartbeat", *range(80, 200, 2))
    assert verdicts(found(*STEADY, silent, again)) == [(9, Verdict.FALSE)]
    assert verdicts(found(*STEADY, silent, dated("worker_started", 79), again)) == [
        (9, Verdict.TRUE)
    ]


def test_summary_of_the_recording_is_shown() -> None:
    summary = recorded(*STEADY, beats(9, (0, 200), interval=20.0), [gap_line(at(50), at(51))])
    assert summary.intervals == {2.0: 7, 20.0: 1}
    assert summary.gaps == [(at(50), at(51))]
    assert (summary.began, summary.messages) == (at(0), len(summary.events))
