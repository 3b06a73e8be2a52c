"""The ordering contract, on the pure domain: any order, any number of times, any mixture, one end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from manman_status.domain.events import (
    Heartbeat,
    ServerStarted,
    ServerStatusReported,
    ServerStopped,
    WorkerStarted,
    WorkerStatusReported,
    WorkerStopped,
)
from manman_status.domain.status import StatusType
from tests.builders import BASE, fold, inventory

SHARED = 30
REPORTABLE = [status for status in StatusType if status is not StatusType.LOST]


def seen(rows):
    """What people are shown, without the times at which the database saw it."""
    workers = {
        w.worker_id: (w.status, w.reason, w.evidence, w.labels, w.interval_seconds, w.last_heartbeat is not None)
        for w in rows.workers.values()
    }
    instances = {
        i.instance_id: (
            i.status,
            i.reason,
            i.evidence,
            # Listings of what has ended are not looked at: who owns it then may depend on the order.
            i.worker_id if i.instance_id != SHARED or i.end_status is None else None,
            i.game_server_config_id,
            i.missing_since is not None,
        )
        for i in rows.instances.values()
    }
    return workers, instances


incarnations = st.sampled_from([BASE, BASE + 1_000_000, BASE + 2_000_000])
orders = st.one_of(
    st.fixed_dictionaries({"incarnation": incarnations, "seq": st.integers(1, 12)}),
    st.fixed_dictionaries(
        {
            "incarnation": incarnations,
            "seq": st.integers(1, 12),
            "sent_at": st.integers(BASE, BASE + 3_000_000).map(lambda at: at - at % 1_000),
        }
    ),
    st.fixed_dictionaries({"sent_at": st.integers(BASE - 500, BASE + 3_000_000).map(lambda at: at - at % 1_000)}),
    st.fixed_dictionaries({}),
)


@st.composite
def events(draw):
    worker = draw(st.integers(1, 2))
    # An instance has one worker for life, but this one is named by both.
    mine = st.one_of(st.integers(worker * 10, worker * 10 + 2), st.just(SHARED))
    order = draw(orders)
    kind = draw(st.sampled_from(["beat", "beat", "started", "stopped", "up", "down", "worker_info", "server_info"]))
    match kind:
        case "beat" | "started":
            cls = Heartbeat if kind == "beat" else WorkerStarted
            return cls(
                worker_id=worker,
                labels=draw(st.none() | st.sampled_from([{"group": "a"}, {"group": "b"}, {}])),
                interval_seconds=draw(st.none() | st.sampled_from([2.0, 10.0])),
                servers=draw(
                    st.none()
                    | st.builds(
                        lambda ids, status: inventory(*ids, status=status),
                        st.lists(mine, max_size=3),
                        st.sampled_from([StatusType.RUNNING, StatusType.RUNNING, StatusType.INITIALIZING]),
                    )
                ),
                **order,
            )
        case "stopped":
            return WorkerStopped(worker_id=worker, **order)
        case "up":
            config = draw(st.none() | st.just(3))
            return ServerStarted(worker_id=worker, instance_id=draw(mine), game_server_config_id=config, **order)
        case "down":
            code = draw(st.sampled_from([None, 0, 1]))
            return ServerStopped(worker_id=worker, instance_id=draw(mine), exit_code=code, **order)
        case "worker_info":
            return WorkerStatusReported(
                worker_id=worker, status=draw(st.sampled_from(REPORTABLE)), sent_at=order.get("sent_at")
            )
        case _:
            return ServerStatusReported(
                instance_id=draw(mine), status=draw(st.sampled_from(REPORTABLE)), sent_at=order.get("sent_at")
            )


def consistent(received):
    """What one worker can have sent: each count once, and at one moment one inventory, labels and interval."""
    known = set()
    kept = []
    for order, event in enumerate(received):
        kind = "beat" if isinstance(event, Heartbeat) else ""
        key = (getattr(event, "worker_id", None), event.position(-order), "" if event.seq else kind)
        if (event.seq is not None or kind) and key in known:
            continue
        known.add(key)
        kept.append(event)
    return kept


@settings(max_examples=400, deadline=None)
@given(st.lists(events(), min_size=1, max_size=14).map(consistent), st.randoms(use_true_random=False))
def test_any_order_and_any_number_of_copies_end_in_the_same_rows(received, rng):
    deliveries = list(enumerate(received)) + [(i, e) for i, e in enumerate(received) if rng.random() < 0.4]
    rng.shuffle(deliveries)
    straight = fold(received)
    shuffled = fold([event for _, event in deliveries], receipts=[index for index, _ in deliveries])
    assert seen(shuffled) == seen(straight)
