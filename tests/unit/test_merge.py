"""The ordering contract, on the pure domain: any order, any number of times, any mixture, one
end."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from typing import Any

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
from manman_status.domain.rows import Rows
from manman_status.domain.status import ACTIVE, TERMINAL, Entity, StatusType
from manman_status.domain.status_info import REMEMBERED, REORDERED_WITHIN
from tests.builders import BASE, fold, inventory

SHARED = 30
REPORTABLE = [status for status in StatusType if status is not StatusType.LOST]


def seen(rows: Rows) -> tuple[Any, Any]:
    """Everything that people are shown, without the database's own times."""
    workers = {
        w.worker_id: (
            w.status,
            w.reason,
            w.evidence,
            w.labels,
            w.interval_seconds,
            w.last_heartbeat is not None,
        )
        for w in rows.workers.values()
    }
    instances = {
        i.instance_id: (
            i.status,
            i.reason,
            i.evidence,
            # Listings of what has ended are not looked at: who owns it then may depend on the
            # order.
            i.worker_id if i.instance_id != SHARED or i.end_status is None else None,
            i.game_server_config_id,
            i.missing_since is not None,
        )
        for i in rows.instances.values()
    }
    return workers, instances


incarnations = st.sampled_from([BASE, BASE + 1_000_000, BASE + 2_000_000])
orders: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.fixed_dictionaries({"incarnation": incarnations, "seq": st.integers(1, 12)}),
    st.fixed_dictionaries(
        {
            "incarnation": incarnations,
            "seq": st.integers(1, 12),
            "sent_at": st.integers(BASE, BASE + 3_000_000).map(lambda at: at - at % 1_000),
        }
    ),
    st.fixed_dictionaries(
        {"sent_at": st.integers(BASE - 500, BASE + 3_000_000).map(lambda at: at - at % 1_000)}
    ),
    st.fixed_dictionaries({}),
)


@st.composite
def events(draw: Any) -> Any:
    worker = draw(st.integers(1, 2))
    # An instance has one worker for life, but this one is named by both.
    mine = st.one_of(st.integers(worker * 10, worker * 10 + 2), st.just(SHARED))
    order = draw(orders)
    kind = draw(
        st.sampled_from(
            ["beat", "beat", "started", "stopped", "up", "down", "worker_info", "server_info"]
        )
    )
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
                        st.sampled_from(
                            [StatusType.RUNNING, StatusType.RUNNING, StatusType.INITIALIZING]
                        ),
                    )
                ),
                **order,
            )
        case "stopped":
            return WorkerStopped(worker_id=worker, **order)
        case "up":
            config = draw(st.none() | st.just(3))
            return ServerStarted(
                worker_id=worker, instance_id=draw(mine), game_server_config_id=config, **order
            )
        case "down":
            code, named = draw(st.sampled_from([None, 0, 1])), draw(st.sampled_from([worker, None]))
            return ServerStopped(worker_id=named, instance_id=draw(mine), exit_code=code, **order)
        case "worker_info":
            return WorkerStatusReported(
                worker_id=worker,
                status=draw(st.sampled_from(REPORTABLE)),
                sent_at=order.get("sent_at"),
            )
        case _:
            return ServerStatusReported(
                instance_id=draw(mine),
                status=draw(st.sampled_from(StatusType)),
                sent_at=order.get("sent_at"),
            )


def consistent(received: Any) -> Any:
    """Events that one worker can have sent: each count once, and at one moment one inventory,
    labels and interval."""
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


def is_status_info(event: Any) -> Any:
    return isinstance(event, WorkerStatusReported | ServerStatusReported)


def entity(event: Any) -> tuple[Any, Any]:
    return getattr(event, "instance_id", None), getattr(event, "worker_id", None)


def copied(deliveries: Any, rng: random.Random) -> Any:
    """Add copies anywhere, those of a StatusInfo behind it; one without a date is never a copy."""
    deliveries = list(deliveries)
    for index, event in list(deliveries):
        if rng.random() < 0.4 and not (is_status_info(event) and event.sent_at is None):
            first = next(place for place, (other, _) in enumerate(deliveries) if other == index)
            place = rng.randint(first + 1 if is_status_info(event) else 0, len(deliveries))
            deliveries.insert(place, (index, event))
    return deliveries


def mixed_up(received: Any, rng: random.Random) -> Any:
    """Shuffle in any order, but the StatusInfo of each entity in theirs; each with its place in
    `received`."""
    deliveries = list(enumerate(received))
    rng.shuffle(deliveries)
    places = defaultdict(list)
    for place, (_, event) in enumerate(deliveries):
        if is_status_info(event):
            places[entity(event)].append(place)
    for mine in places.values():
        in_order = sorted((deliveries[place] for place in mine), key=lambda delivery: delivery[0])
        for place, delivery in zip(mine, in_order, strict=True):
            deliveries[place] = delivery
    return deliveries


@settings(max_examples=400, deadline=None)
@given(
    st.lists(events(), min_size=1, max_size=14).map(consistent), st.randoms(use_true_random=False)
)
def test_any_order_and_any_number_of_copies_end_in_the_same_rows(
    received: Any, rng: random.Random
) -> None:
    """The order among the StatusInfo of one entity decides, and nothing else does."""
    deliveries = copied(mixed_up(received, rng), rng)
    straight = fold(received)
    shuffled = fold([event for _, event in deliveries], receipts=[index for index, _ in deliveries])
    assert seen(shuffled) == seen(straight)


AHEAD = 600 * 1_000_000


def status_info(ahead: Any) -> Any:
    return st.builds(
        lambda kind, status, ahead, at: kind(1, sent_at=BASE + ahead + at, status=status),
        st.sampled_from(
            [
                lambda entity_id, **fields: WorkerStatusReported(worker_id=entity_id, **fields),
                lambda entity_id, **fields: ServerStatusReported(instance_id=entity_id, **fields),
            ]
        ),
        st.sampled_from(REPORTABLE),
        st.sampled_from(ahead),
        st.integers(0, 30).map(lambda step: step * REORDERED_WITHIN // 20),
    )


def changes(rows: Rows) -> list[Any]:
    return [(transition.entity, transition.new_status) for transition in rows.transitions]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(status_info([0, 0, 0, AHEAD]), min_size=1, max_size=60),
    st.randoms(use_true_random=False),
)
def test_copies_of_status_info_make_no_transition(received: Any, rng: random.Random) -> None:
    """Copies come at any time, dated by any clock, and are more than a row remembers."""
    deliveries = [event for _, event in copied(enumerate(received), rng)]
    assert changes(fold(deliveries)) == changes(fold(received))
    assert changes(fold([*received, *received])) == changes(fold(received))
    for start in rng.sample(range(len(received)), min(3, len(received))):
        redelivered = [*received[: start + 5], *received[start:]]
        assert changes(fold(redelivered)) == changes(fold(received))


@settings(max_examples=400, deadline=None)
@given(st.lists(status_info([0]), min_size=1, max_size=REMEMBERED))
def test_each_status_info_is_a_transition_in_arrival_order(received: Any) -> None:
    """But copies, what is dated long before another or active before an end, and what follows an
    instance's end."""
    rows = fold(received)
    for kind in (WorkerStatusReported, ServerStatusReported):
        applied: list[Any] = []
        for event in (event for event in received if type(event) is kind):
            ends = [other.sent_at for other in applied if other.status in TERMINAL]
            is_revival = event.status in ACTIVE and any(event.sent_at < end for end in ends)
            is_old = any(event.sent_at < other.sent_at - REORDERED_WITHIN for other in applied)
            is_old = is_old and not (kind is ServerStatusReported and event.status in TERMINAL)
            has_ended = kind is ServerStatusReported and ends
            if event not in applied and not is_revival and not is_old and not has_ended:
                applied.append(event)
        expected = [status for status, _ in itertools.groupby(event.status for event in applied)]
        of = Entity.WORKER if kind is WorkerStatusReported else Entity.SERVER_INSTANCE
        assert [status for entity, status in changes(rows) if entity is of] == expected
