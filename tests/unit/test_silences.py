"""The silence that covers an alert is found without looking at each."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manman_status.alerts.silences import Silence, Silences
from manman_status.domain.alert import Subject

words = st.sampled_from(["", "a", "b"])
labels = st.dictionaries(words, words, max_size=3)
ids = st.none() | st.integers(1, 2)
silences = st.lists(
    st.builds(
        Silence,
        st.uuids().map(str),
        group=st.none() | words,
        worker_id=ids,
        rule=st.none() | words,
        labels=labels,
    ),
    max_size=12,
)
subjects = st.builds(Subject, group=st.none() | words, worker_id=ids, labels=labels)


@given(silences, words, subjects)
def test_what_is_found_is_the_first_of_all_that_cover(
    lasting: Any, rule: Any, subject: Any
) -> None:
    """They come in the order in which they end, the last one first."""
    covering = [silence.silence_id for silence in lasting if silence.covers(rule, subject)]
    assert Silences(lasting).covering(rule, subject) == (covering[0] if covering else None)


def test_a_whole_fleet_is_not_the_group_of_a_silence() -> None:
    silence = Silences([Silence("s", group="eu")])
    assert silence.covering("observer", Subject()) is None
    assert silence.covering("worker_lost", Subject(group="eu", worker_id=1)) == "s"


@pytest.mark.parametrize(
    "silence_of",
    [
        lambda n: Silence(str(n), group=f"g{n}"),
        lambda n: Silence(str(n), worker_id=n),
        lambda n: Silence(str(n), labels={"env": "prod", "host": f"h{n}"}),
        lambda n: Silence(str(n), rule="worker_lost"),
    ],
)
def test_thousands_cost_an_alert_little_more_than_one(silence_of: Any) -> None:
    alerts = [
        Subject(group="eu", worker_id=-i, labels={"env": "prod", "host": f"x{i}"})
        for i in range(200)
    ]

    def seconds(number: int) -> Any:
        found = Silences([silence_of(n) for n in range(number)])
        begun = perf_counter()
        for alert in alerts:
            found.covering("crash_loop", alert)
        return perf_counter() - begun

    few, many = (min(seconds(number) for _ in range(5)) for number in (1, 5_000))
    assert many < 20 * few
