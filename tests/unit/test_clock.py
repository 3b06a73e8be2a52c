"""Elapsed time is never the difference of two times of a clock that stepped in between."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from manman_status.alerts.judging.judgement import judge
from manman_status.alerts.scene import Scene
from manman_status.cli.views import observation_line
from manman_status.clock import DatabaseClock
from manman_status.domain.clock import ClockReading, ClockStep, step_between
from manman_status.domain.fleet import ObservationState
from manman_status.domain.liveness import Thresholds
from tests.builders import START
from tests.model.health import observation_state

HOUR = 3600.0


def reading(at: Any, *, database: float | None = None, took: float = 0.0) -> Any:
    """A reading at `at` seconds of the monotonic clock, and as many of the database's unless
    another is given."""
    return ClockReading(
        START + timedelta(seconds=at if database is None else database), at, at + took
    )


@pytest.mark.parametrize(
    ("database", "expected"),
    [(0.25, 0), (2.0, 0), (-1.5, 0), (3.25, 3), (HOUR, HOUR), (-2.75, -3), (-HOUR, -HOUR)],
)
def test_only_a_difference_of_more_than_two_seconds_is_a_step(
    database: float, expected: Any
) -> None:
    assert step_between(reading(0), reading(0.25, database=database)) == pytest.approx(
        expected, abs=0.3
    )
    assert (step_between(reading(0), reading(0.25, database=database)) == 0) is (expected == 0)


@pytest.mark.parametrize("took", [0, 3, 60])
def test_a_slow_answer_is_no_step_in_either_direction(took: Any) -> None:
    """The database's time was read at any moment of it."""
    slow_first, slow_last = reading(0, took=took), reading(0, database=took, took=took)
    after = reading(took + 0.25)
    assert step_between(slow_first, after) == 0
    assert step_between(slow_last, after) == 0
    assert step_between(reading(-0.25), slow_first) == 0
    assert step_between(reading(-0.25), slow_last) == 0


def test_a_frozen_processor_and_a_slewed_clock_are_no_steps() -> None:
    assert step_between(reading(0), reading(HOUR)) == 0
    assert step_between(reading(0), reading(HOUR, database=HOUR * 1.0005)) == 0
    assert step_between(reading(0), reading(HOUR, database=HOUR * 0.9995)) == 0


def step_to_take(clock: Any, now: Any, *, steps: int = 0, last_read: float = 0.0) -> Any:
    return clock.step_to_take(now, steps=steps, last_read=START + timedelta(seconds=last_read))


@pytest.mark.parametrize("by", [-HOUR, -3, 4, HOUR])
def test_one_processor_takes_a_step_and_others_see_it(by: Any) -> None:
    first, second = DatabaseClock(), DatabaseClock()
    for clock in (first, second):
        clock.keep(reading(0), 0)
    stepped = reading(0.5, database=0.5 + by)
    assert step_to_take(first, stepped) == pytest.approx(by, abs=0.01)
    first.keep(stepped, 1)
    assert step_to_take(second, reading(0.6, database=0.6 + by), steps=1, last_read=0.5 + by) == 0
    second.keep(reading(0.6, database=0.6 + by), 1)
    for clock in (first, second):
        assert step_to_take(clock, reading(1, database=1 + by), steps=1, last_read=0.6 + by) == 0


def test_running_processor_refutes_a_paused_machine() -> None:
    paused = DatabaseClock()
    paused.keep(reading(0), 0)
    woken = reading(0.25, database=60)
    assert step_to_take(paused, woken, last_read=59.75) == 0
    assert step_to_take(paused, woken, last_read=0) == pytest.approx(59.75, abs=0.01)


def test_first_reading_finds_a_step_back_but_none_forward() -> None:
    assert step_to_take(DatabaseClock(), reading(0), last_read=HOUR) == -HOUR
    assert step_to_take(DatabaseClock(), reading(0), last_read=-HOUR) == 0
    assert DatabaseClock().step_to_take(reading(0), steps=0, last_read=None) == 0


def test_after_a_step_the_state_is_never_ok() -> None:
    def state(lag_seconds: Any) -> Any:
        return observation_state(lag_seconds, Thresholds(), is_doubtful=True)

    assert [state(0.2), state(6), state(31)] == [
        ObservationState.DEGRADED,
        ObservationState.DEGRADED,
        ObservationState.BLIND,
    ]


def test_the_command_line_says_since_when_it_is_degraded() -> None:
    line = observation_line(
        {
            "state": "degraded",
            "reason": "clock_stepped",
            "clock_step": {"at": "2026-11-27T20:19:11Z", "seconds": -3600.2},
            "observed_through": "2026-11-27T20:19:12Z",
            "lag_seconds": 0.4,
            "processors": [],
        }
    )
    assert line.startswith(
        "degraded since the database's clock stepped by -3600 s at 2026-11-27T20:19:11Z"
    )


def test_unsteady_clock_is_one_alert_until_steady() -> None:
    first = Scene(now=START, clock_step=ClockStep(START, -HOUR), lag_seconds=0.2)
    [(found, _)] = judge(first).opened
    assert found.key == "clock_stepped"
    assert "stepped back by 3600 s" in found.summary
    again = START + timedelta(minutes=9)
    second = Scene(now=again, clock_step=ClockStep(again, 30.0), lag_seconds=0.2, open=first.open)
    judgement = judge(second)
    assert (judgement.opened, judgement.over) == ([], {})
    third = Scene(
        now=again + timedelta(minutes=10),
        clock_step=second.clock_step,
        lag_seconds=0.2,
        open=second.open,
    )
    assert judge(third).over == {"clock_stepped": "the clock has been steady for 10 minutes"}
