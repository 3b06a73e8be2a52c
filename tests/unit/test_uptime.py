"""Seconds that a worker was active, lost, ended and unknown in a window."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from manman_status.domain.status import ACTIVE, TERMINAL, StatusType
from manman_status.domain.uptime import Change, Figures, Life, Window, changes_of_host

RUNNING, LOST, COMPLETE, CRASHED = (
    StatusType.RUNNING,
    StatusType.LOST,
    StatusType.COMPLETE,
    StatusType.CRASHED,
)

times = st.integers(0, 120)
gaps = st.lists(st.tuples(times, times).map(lambda pair: (min(pair), max(pair))), max_size=4)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    begin, end = sorted((draw(times), draw(times)))
    return Window(begin, end, draw(gaps))


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Each change goes on from the one before; the first may be the first of all. Times may be out
    of order."""
    statuses = draw(st.lists(st.sampled_from(StatusType), min_size=1, max_size=8))
    chain = [draw(st.none() | st.sampled_from(StatusType)), *statuses]
    return [(draw(times), old, new) for old, new in pairwise(chain)]


def parts(figures: Figures) -> int:
    return figures.active + figures.lost + figures.ended + figures.not_known + figures.blind


def by_the_moment(
    window: Window, changes: list[Change], status: StatusType | None, blind: list[tuple[int, int]]
) -> Any:
    """The same found by looking at each moment."""
    counted = {"active": 0, "lost": 0, "ended": 0, "not_known": 0, "blind": 0}
    for moment in range(window.begin, window.end):
        before = [new for at, _, new in changes if at <= moment]
        now = before[-1] if before else changes[0][1] if changes else status
        if any(lower <= moment < upper for lower, upper in blind):
            counted["blind"] += 1
        elif now is None:
            counted["not_known"] += 1
        else:
            counted["active" if now in ACTIVE else "ended" if now in TERMINAL else "lost"] += 1
    return counted


@given(windows(), histories())
def test_the_parts_add_up_to_the_window(window: Window, changes: list[Change]) -> None:
    within = [change for change in changes if window.begin < change[0] <= window.end]
    assert parts(window.measure(within, changes[-1][2])) == window.end - window.begin


@given(times, times, gaps, histories(), st.none() | st.sampled_from(StatusType))
def test_each_moment_is_counted_where_it_belongs(
    one: int,
    other: int,
    blind: list[tuple[int, int]],
    changes: list[Change],
    status: StatusType | None,
) -> None:
    window = Window(min(one, other), max(one, other), blind)
    ordered = [
        (at, old, new)
        for at, (_, old, new) in zip(sorted(at for at, _, _ in changes), changes, strict=True)
        if window.begin < at <= window.end
    ]
    figures = window.measure(ordered, ordered[-1][2] if ordered else status)
    expected = by_the_moment(window, ordered, status, blind)
    assert {name: getattr(figures, name) for name in expected} == expected


@given(windows(), times)
def test_seen_until_excludes_blind_time(window: Window, time: int) -> None:
    bounds, slopes, offsets = window.seen_until()
    piece = sum(bound <= time for bound in bounds)
    within = min(max(time, window.begin), window.end)
    assert slopes[piece] * time + offsets[piece] == within - window.begin - window.blind_until(
        within
    )
    assert bounds == sorted(bounds)
    assert len(slopes) == len(offsets) == len(bounds) + 1


def test_a_worker_that_never_changed_had_its_status_all_the_time() -> None:
    assert Window(0, 100).measure([], RUNNING) == Figures(active=100)
    assert Window(0, 100).measure([], LOST) == Figures(lost=100, losses=1, longest_loss=100)


def test_first_change_says_what_a_worker_was_before() -> None:
    assert Window(0, 100).measure([(40, LOST, RUNNING)], RUNNING).lost == 40
    assert Window(0, 100).measure([(40, None, RUNNING)], RUNNING).not_known == 40


def test_losses_are_counted_with_their_lengths() -> None:
    changes = [(10, RUNNING, LOST), (30, LOST, RUNNING), (60, RUNNING, LOST), (100, LOST, RUNNING)]
    figures = Window(0, 200).measure(changes, RUNNING)
    assert (figures.losses, figures.lost, figures.longest_loss, figures.mean_loss) == (
        2,
        60,
        40,
        30,
    )
    assert (figures.between_failures, figures.to_repair) == (70, 30)
    assert figures.fraction_active == 0.7


def test_partial_loss_counts_with_its_part() -> None:
    figures = Window(100, 200).measure([(120, LOST, RUNNING), (190, RUNNING, LOST)], LOST)
    assert (figures.losses, figures.lost, figures.failures, figures.repairs, figures.repaired) == (
        2,
        30,
        1,
        1,
        20,
    )


def test_a_lost_worker_that_had_really_ended_was_not_repaired() -> None:
    figures = Window(0, 100).measure([(10, RUNNING, LOST), (30, LOST, COMPLETE)], COMPLETE)
    assert (figures.lost, figures.ended, figures.repairs, figures.to_repair) == (20, 70, 0, None)


def test_blindness_is_no_downtime() -> None:
    """Lost at 20, and nobody saw from 30 to 80: of the loss only what was seen counts."""
    window = Window(0, 100, [(50, 80), (30, 60)])
    figures = window.measure([(20, RUNNING, LOST), (90, LOST, RUNNING)], RUNNING)
    assert (figures.active, figures.lost, figures.blind, figures.longest_loss) == (30, 20, 50, 20)


def test_an_ended_worker_is_not_down() -> None:
    figures = Window(0, 100).measure([(50, RUNNING, CRASHED)], CRASHED)
    assert (figures.active, figures.ended, figures.fraction_active) == (50, 50, 1.0)


def test_nothing_is_said_where_nothing_was_expected() -> None:
    for figures in (
        Window(0, 100).measure([], COMPLETE),
        Window(0, 100, [(0, 100)]).measure([], RUNNING),
        Figures(),
    ):
        assert (
            figures.fraction_active,
            figures.between_failures,
            figures.to_repair,
            figures.mean_loss,
        ) == (None,) * 4


def test_the_newest_life_speaks_for_its_host() -> None:
    """The first life is lost and ended long after the second one began; the third one runs."""
    first = Life([(10, RUNNING, LOST), (50, LOST, COMPLETE)], COMPLETE)
    second = Life([(20, None, RUNNING), (60, RUNNING, LOST)], LOST)
    third = Life([(80, None, RUNNING)], RUNNING)
    changes, now = changes_of_host([first, second, third])
    assert (changes, now) == (
        [
            (10, RUNNING, LOST),
            (20, LOST, RUNNING),
            (60, RUNNING, LOST),
            (80, LOST, RUNNING),
        ],
        RUNNING,
    )
    figures = Window(0, 100).measure(changes, now)
    assert (figures.active, figures.lost, figures.repairs) == (70, 30, 2)


def test_a_host_is_as_its_last_life_before_the_window_was() -> None:
    lost_before = Life([], LOST)
    changes, now = changes_of_host([lost_before, Life([(30, None, RUNNING)], RUNNING)])
    assert changes == [(30, LOST, RUNNING)]
    assert changes_of_host([]) == ([], None)
    assert Window(0, 100).measure(changes, now).lost == 30
