"""When much of a group goes silent at once, the observer is suspected first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manman_status.domain.guard import GuardRules, GuardState, judge
from tests.builders import START

RULES = GuardRules(minimum_workers=3, percent=30, hold_seconds=60, release_percent=10)


def at(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


def verdict(
    *,
    overdue: Any,
    alive: Any,
    draining: int = 0,
    late: int = 0,
    lost_recently: int = 0,
    guard: Any = None,
    seconds: float = 0.0,
) -> Any:
    return judge(
        overdue=overdue,
        draining=draining,
        late=late,
        lost_recently=lost_recently,
        alive=alive,
        guard=guard,
        observed=at(seconds),
        rules=RULES,
    )


def held(number: int, size: Any, **fields: Any) -> Any:
    return GuardState(START, number, size, **fields)


@pytest.mark.parametrize(
    ("overdue", "alive"),
    [
        pytest.param(1, 1, id="one worker is no cascade"),
        pytest.param(2, 2, id="nor are two"),
        pytest.param(3, 10, id="exactly the percentage is not more than it"),
        pytest.param(3, 1000, id="few of many"),
    ],
)
def test_few_are_lost_at_once(overdue: Any, alive: Any) -> None:
    decided = verdict(overdue=overdue, alive=alive)
    assert (decided.lose, decided.guard) == (overdue, None)


@pytest.mark.parametrize(("overdue", "alive"), [(3, 9), (4, 10), (3, 3), (400, 1000)])
def test_many_are_held(overdue: Any, alive: Any) -> None:
    decided = verdict(overdue=overdue, alive=alive)
    assert (decided.lose, decided.guard) == (0, held(overdue, alive))


def test_those_lost_just_before_count_too() -> None:
    assert verdict(overdue=1, alive=6, lost_recently=2).guard == held(1, 8)


def test_first_overdue_is_held_when_many_will_follow() -> None:
    assert verdict(overdue=1, late=3, alive=10).guard == held(1, 10)
    assert verdict(overdue=1, late=2, alive=10).guard is None


def test_those_that_drain_are_no_cascade_and_are_held_with_one() -> None:
    decided = verdict(overdue=4, draining=4, alive=6)
    assert (decided.lose, decided.guard) == (4, None)
    assert verdict(overdue=6, draining=4, alive=6).guard is None
    assert verdict(overdue=7, draining=4, alive=6).guard == held(7, 10)


def test_draining_worker_is_lost_beside_late_ones() -> None:
    decided = verdict(overdue=1, draining=1, late=4, alive=9)
    assert (decided.lose, decided.guard) == (1, None)
    decided = verdict(overdue=1, draining=1, alive=9, guard=held(4, 10), seconds=5)
    assert (decided.lose, decided.guard) == (1, None)


def test_nobody_is_held_for_being_late() -> None:
    assert verdict(overdue=0, late=10, alive=10).guard is None


def test_it_holds_until_the_hold_time_was_observed() -> None:
    decided = verdict(overdue=4, alive=10, guard=held(4, 10), seconds=59)
    assert (decided.lose, decided.guard) == (0, held(4, 10))


def test_more_that_go_silent_meanwhile_are_held_with_them() -> None:
    assert verdict(overdue=6, alive=10, guard=held(4, 10), seconds=59).guard == held(6, 10)


def test_it_closes_when_all_return() -> None:
    decided = verdict(overdue=0, alive=10, guard=held(4, 10), seconds=5)
    assert (decided.lose, decided.guard) == (0, None)


def test_when_most_return_the_rest_may_still_be_about_to() -> None:
    decided = verdict(overdue=2, alive=10, guard=held(4, 10), seconds=5)
    assert (decided.lose, decided.guard) == (0, held(2, 10))


def test_after_the_hold_time_it_releases_little_by_little() -> None:
    guard = held(40, 100)
    lost: list[Any] = []
    for sweep in range(10):
        decided = verdict(
            overdue=40 - sum(lost),
            alive=100 - sum(lost),
            lost_recently=sum(lost),
            guard=guard,
            seconds=60 + sweep,
        )
        lost.append(decided.lose)
        guard = decided.guard
        if guard is None:
            break
        assert guard.releasing_since == at(60)
    assert lost == [10, 10, 10, 10]


def test_joining_workers_do_not_slow_the_release() -> None:
    """The longest silence is lost first, so after 10 sweeps of 10 % nobody who was overdue at its
    beginning is left."""
    guard, overdue = held(3, 5), 1000
    for sweep in range(10):
        decided = verdict(overdue=overdue, alive=overdue, guard=guard, seconds=60 + sweep)
        guard, overdue = decided.guard, overdue - decided.lose
    assert (guard, overdue) == (None, 0)


def test_a_release_that_began_goes_on_when_few_are_left() -> None:
    decided = verdict(overdue=2, alive=10, guard=held(2, 10, releasing_since=at(60)), seconds=70)
    assert decided.lose == 1
    assert decided.guard is not None


def test_a_person_releases_all_at_once() -> None:
    decided = verdict(
        overdue=40, alive=100, guard=held(40, 100, released_by_hand_at=START), seconds=1
    )
    assert (decided.lose, decided.guard) == (40, None)


@given(st.integers(1, 60), st.integers(0, 60))
def test_whoever_stays_silent_is_lost_in_the_end(overdue: Any, healthy: Any) -> None:
    guard, lost = None, 0
    for second in range(200):
        decided = verdict(
            overdue=overdue - lost,
            alive=overdue + healthy - lost,
            lost_recently=lost,
            guard=guard,
            seconds=second,
        )
        assert 0 <= decided.lose <= overdue - lost
        assert decided.guard is None or decided.guard.held == overdue - lost - decided.lose
        lost, guard = lost + decided.lose, decided.guard
    assert (lost, guard) == (overdue, None)
