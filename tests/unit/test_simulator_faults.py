"""Faults to order: how they are written, and what they do to the fleet and to its messages."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

import pytest

from manman_status.cli.ordered_faults import kill, kill_group, pause, seconds
from manman_status.domain.events import Heartbeat, WorkerStarted
from manman_status.lab.simulator.delivery import (
    COPIES_WITHIN_SECONDS,
    Delivery,
    longest_hold_seconds,
)
from manman_status.lab.simulator.faults import Kill, KillGroup, Pause
from manman_status.lab.simulator.fleet import Fleet, FleetPlan
from manman_status.lab.simulator.messages import Message, Said
from manman_status.wire.inbound import decode

BEGUN = datetime(2026, 11, 23, 8, tzinfo=UTC)


def fleet(*faults: Kill | KillGroup | Pause, **plan: Any) -> Fleet:
    defaults = {"workers": 40, "servers": 2, "interval_seconds": 2.0, "seed": 1}
    return Fleet(FleetPlan(faults=faults, **{**defaults, **plan}), begun=BEGUN)


def beating(some: Fleet, since: float, until: float) -> Counter[int]:
    some.due(since)
    return Counter(message.worker_id for message in some.due(until) if message.said is Said.BEAT)


def test_the_killed_never_say_anything_again() -> None:
    some = fleet(Kill(3, 10.0), Kill(2, 20.0))
    assert len(beating(some, 6.0, 10.0)) == 40
    assert len(beating(some, 12.0, 20.0)) == 37
    assert len(beating(some, 20.0, 600.0)) == 35
    assert some.killed == 5
    stopped = [message for message in some.stop(600.0) if message.said is Said.ENDED]
    assert len(stopped) == 35


def test_ordered_share_of_a_group_dies_and_nobody_else() -> None:
    some = fleet(KillGroup("eu-1", 40.0, 10.0))
    groups = Counter(some.workers[worker_id - 1].group for worker_id in beating(some, 10.0, 14.0))
    assert groups == {"eu-1": 6, "eu-2": 10, "us-1": 10, "asia-1": 10}


def test_more_kills_than_workers_kill_them_all() -> None:
    some = fleet(Kill(1000, 5.0))
    assert len(beating(some, 5.0, 100.0)) == 0
    assert some.next_due() == float("inf")


def test_paused_workers_go_on_as_the_same_life() -> None:
    some = fleet(Pause(5, 10.0, 20.0))
    some.due(9.0)
    before = {worker.worker_id: (worker.incarnation, worker.servers) for worker in some.workers}
    silent = before.keys() - beating(some, 10.0, 29.9).keys()
    assert len(silent) == 5
    resumed = some.due(32.0)
    assert silent <= {message.worker_id for message in resumed}
    assert {message.said for message in resumed} == {Said.BEAT}
    for worker in some.workers:
        assert (worker.incarnation, worker.servers) == before[worker.worker_id]


def test_frozen_workers_of_a_calm_fleet_go_on() -> None:
    """And nobody crashes, churns or comes back."""
    some = fleet(Pause(5, 10.0, 1000.0), Kill(5, 50.0), crash=0.05, churn=0.1)
    some.due(40.0)
    down = {worker.worker_id for worker in some.workers if worker.incarnation is None}
    assert down
    some.calm(40.0)
    after = some.due(400.0)
    assert {message.said for message in after} == {Said.BEAT}
    assert {message.worker_id for message in after} == {
        worker.worker_id for worker in some.workers
    } - down


def test_wrong_clock_changes_only_dates() -> None:
    offs = defaultdict(set)
    for message in fleet(clock_skew_seconds=3600.0, crash=0.05).due(60.0):
        [event] = decode(message.report.body).events
        assert isinstance(event, Heartbeat) or event.sent_at is not None
        if isinstance(event, WorkerStarted):
            assert event.incarnation is not None
            offs[event.worker_id].add(round((event.incarnation / 1e6 - BEGUN.timestamp()) / 120))
    assert all(max(some) - min(some) <= 1 for some in offs.values())
    assert min(min(some) for some in offs.values()) < -15
    assert max(max(some) for some in offs.values()) > 15
    straight, skewed = fleet().due(60.0), fleet(clock_skew_seconds=3600.0).due(60.0)
    assert [(m.said, m.worker_id, m.instance_id) for m in straight] == [
        (m.said, m.worker_id, m.instance_id) for m in skewed
    ]


def test_a_large_fleet_begins_slowly() -> None:
    begun = [
        message for message in fleet(workers=2000, servers=5).due(3.0) if message.said is Said.BEGUN
    ]
    assert 500 < len(begun) < 1500


def delivered(delivery: Delivery, messages: list[Message]) -> list[tuple[float, Message]]:
    delivery.put(messages, 100.0)
    return [
        (at / 100, message) for at in range(10_000, 11_000) for message in delivery.due(at / 100)
    ]


def some_messages() -> list[Message]:
    return fleet().due(4.0)


def test_messages_pass_as_they_are_when_nothing_was_ordered() -> None:
    delivery = Delivery(interval_seconds=2.0)
    messages = some_messages()
    delivery.put(messages, 100.0)
    assert delivery.due(100.0) == messages
    assert delivery.next_due() == float("inf")


def test_reordered_messages_overtake_each_other_within_the_bound() -> None:
    messages = some_messages()
    arrived = delivered(Delivery(reorder=True, interval_seconds=2.0), messages)
    assert [message for _, message in arrived] != messages
    assert sorted(message.report.body for _, message in arrived) == sorted(
        message.report.body for message in messages
    )
    assert max(at for at, _ in arrived) <= 100.0 + longest_hold_seconds(2.0) + 0.01


@pytest.mark.parametrize("interval", [1.0, 2.0, 10.0, 3600.0])
def test_held_back_at_worst_a_beat_is_far_from_late(interval: float) -> None:
    assert interval + longest_hold_seconds(interval) <= 1.2 * interval


def test_every_message_is_there_twice_and_many_a_copy_comes_late() -> None:
    messages = some_messages()
    arrived = delivered(Delivery(duplicate=True, interval_seconds=2.0), messages)
    assert set(Counter(message.report.body for _, message in arrived).values()) == {2}
    late = [at for at, _ in arrived if at > 100.01]
    assert 0.3 < len(late) / len(messages) < 0.7
    assert max(late) <= 100.0 + COPIES_WITHIN_SECONDS + 0.01


def test_faults_are_read_as_they_are_written() -> None:
    assert kill("3@30s") == Kill(3, 30.0)
    assert kill("3@1.5m") == Kill(3, 90.0)
    assert kill_group("eu-1@40%@60s") == KillGroup("eu-1", 40.0, 60.0)
    assert kill_group("us-1@100@500ms") == KillGroup("us-1", 100.0, 0.5)
    assert pause("5@30s:20s") == Pause(5, 30.0, 20.0)
    assert seconds("1h") == 3600.0


@pytest.mark.parametrize(
    ("read", "text", "problem"),
    [
        (kill, "3", "COUNT@TIME"),
        (kill, "@3s", "no number of workers"),
        (kill, "0@3s", "no number of workers"),
        (kill, "-1@3s", "no number of workers"),
        (kill, "3@", "no time"),
        (kill, "3@3x", "no time"),
        (kill, "3@-3s", "no time"),
        (kill, "3@3s@4s", "no time"),
        (kill_group, "eu-1@40%", "GROUP@SHARE@TIME"),
        (kill_group, "eu-9@40%@60s", "eu-1, eu-2, us-1, asia-1"),
        (kill_group, "eu-1@0%@60s", "share"),
        (kill_group, "eu-1@101%@60s", "share"),
        (kill_group, "eu-1@nan@60s", "share"),
        (pause, "5@30s", "COUNT@TIME:DURATION"),
        (pause, "5@30s:0s", "no time is none"),
        (seconds, "", "no time"),
        (seconds, "inf", "no time"),
    ],
)
def test_unreadable_fault_is_refused(read: Any, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        read(text)
