"""Counts of a processor, as they stand in its row."""

from __future__ import annotations

from typing import Any

import msgspec

from manman_status.api.responses import Processor
from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.processor.statistics import BATCH_SECONDS, Histogram, Statistics
from tests.builders import heartbeat


def lost(entity_id: Any) -> Any:
    return Transition(
        Entity.WORKER,
        entity_id,
        StatusType.RUNNING,
        StatusType.LOST,
        Reason.HEARTBEAT_EXPIRED,
        evidence={},
    )


def test_number_is_counted_under_its_least_bound() -> None:
    histogram = Histogram((1, 10))
    for number in (0, 1, 1.5, 10, 10.1, 99):
        histogram.observe(number)
    assert histogram.as_row() == {"bounds": (1, 10), "counts": [2, 2, 2], "sum": 121.6}


def test_batch_counts_events_transitions_and_time() -> None:
    statistics = Statistics()
    statistics.add_batch([heartbeat(), heartbeat()], [lost(1)], ms=3.0)
    statistics.add_batch([], [], ms=1.0)
    row = statistics.as_row()
    assert row["events"]["Heartbeat"] == {"stored": 2}
    assert (row["batches"], row["transitions"], row["last_batch_ms"], row["longest_batch_ms"]) == (
        2,
        1,
        1.0,
        3.0,
    )
    assert row["transitions_by"] == {"worker": {"LOST": {"heartbeat_expired": 1}}}
    assert row["batch_events"]["counts"][:3] == [1, 0, 1]
    assert sum(row["batch_seconds"]["counts"]) == 2
    assert row["batch_seconds"]["counts"][BATCH_SECONDS.index(0.001)] == 1
    assert row["batch_seconds"]["sum"] == 0.004


def test_what_can_come_is_0_from_the_start() -> None:
    events = Statistics().as_row()["events"]
    assert events["ServerStopped"] == {"stored": 0}
    assert events["poison"] == {"dead_lettered": 0, "only_counted": 0}
    assert events["command"] == {"ignored": 0}
    statistics = Statistics()
    statistics.add_channel("mail")
    assert statistics.as_row()["notifications"] == {"mail": {"sent": 0, "failed": 0}}


def test_the_row_has_the_documented_shape_and_nothing_else() -> None:
    statistics = Statistics()
    statistics.add_transitions([lost(1)])
    statistics.count_notification("mail", "sent")
    row = msgspec.json.decode(msgspec.json.encode(statistics.as_row()))
    of_the_row = {"processor_id": "p", "host": "h", "version": "1"}
    times = dict.fromkeys(("started_at", "last_seen"), "2026-11-24T12:00:00Z")
    shown = msgspec.to_builtins(msgspec.convert(row | of_the_row | times, Processor))
    assert row.keys() | of_the_row.keys() | times.keys() == shown.keys()
    assert {name: shown[name] for name in row} == row
