"""The simulated fleet behaves like workers do."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from manman_status.domain.events import (
    Heartbeat,
    ServerStarted,
    ServerStopped,
    WorkerStarted,
    WorkerStopped,
)
from manman_status.lab.simulator.fleet import Fleet, FleetPlan
from manman_status.wire.inbound import decode

BEGUN = datetime(2026, 11, 23, 8, tzinfo=UTC)


def fleet(**plan: Any) -> Fleet:
    defaults = {
        "workers": 5,
        "servers": 3,
        "interval_seconds": 2.0,
        "churn": 0.1,
        "crash": 0.05,
        "seed": 1,
    }
    return Fleet(FleetPlan(**{**defaults, **plan}), begun=BEGUN)


def test_same_seed_lives_the_same_life() -> None:
    often, seldom, other = fleet(), fleet(), fleet(seed=2)
    ten_a_second = [message for tenth in range(1, 601) for message in often.due(tenth / 10)]
    at_once = seldom.due(60.0)
    assert ten_a_second == at_once
    assert other.due(60.0) != at_once


def test_nothing_is_due_before_the_time_it_names() -> None:
    some = fleet()
    assert some.due(some.next_due() - 0.001) == []
    assert some.due(some.next_due()) != []


def test_beats_list_exactly_what_was_started_and_not_stopped() -> None:
    running: dict[int, set[int]] = defaultdict(set)
    lives: dict[int, int] = {}
    crashed = stopped = 0
    for message in fleet().due(600.0):
        (event,) = decode(message.report.body).events
        match event:
            case WorkerStarted(worker_id=worker_id, incarnation=int(incarnation)):
                crashed += worker_id in lives
                assert incarnation > lives.get(worker_id, 0)
                lives[worker_id] = incarnation
                running[worker_id].clear()
            case ServerStarted():
                running[event.worker_id].add(event.instance_id)
            case ServerStopped(worker_id=int(worker_id)):
                stopped += 1
                running[worker_id].remove(event.instance_id)
            case Heartbeat(servers=inventory):
                assert inventory is not None
                assert {entry.instance_id for entry in inventory.list_entries()} == running[
                    event.worker_id
                ]
                assert event.incarnation == lives[event.worker_id]
                assert event.labels is not None
                assert "group" in event.labels
    assert lives.keys() == {1, 2, 3, 4, 5}
    assert crashed > 5
    assert stopped > 50


def test_it_ends_every_server_and_every_worker_that_lives() -> None:
    some = fleet(churn=0.0, crash=0.0)
    some.due(10.0)
    events = [decode(message.report.body).events[0] for message in some.stop(10.0)]
    assert sum(isinstance(event, ServerStopped) for event in events) == 15
    assert sum(isinstance(event, WorkerStopped) for event in events) == 5
    assert some.stop(11.0) == []


def ids_used(begun: datetime, **plan: Any) -> tuple[set[int], set[int]]:
    """Ids of workers and of server instances."""
    some = Fleet(
        FleetPlan(**{"workers": 100, "servers": 10, "interval_seconds": 2.0} | plan), begun=begun
    )
    some.due(3.0)
    instances = {server.instance_id for worker in some.workers for server in worker.servers}
    return {worker.worker_id for worker in some.workers}, instances


def test_a_later_run_uses_other_instance_ids() -> None:
    _, instances = ids_used(BEGUN)
    _, later = ids_used(BEGUN.replace(second=10))
    assert len(instances) == len(later) == 1_000
    assert not instances & later


def test_fleets_side_by_side_share_no_worker_and_no_instance() -> None:
    """Even when they begin at once."""
    workers, instances = ids_used(BEGUN)
    other_workers, other_instances = ids_used(BEGUN, first_worker=101)
    assert workers == set(range(1, 101))
    assert other_workers == set(range(101, 201))
    assert not instances & other_instances


def test_the_largest_ids_are_still_ids() -> None:
    workers, instances = ids_used(BEGUN, workers=1, first_worker=1_000_000 + 100_000)
    assert max(*workers, *instances) < 2**63
