"""Lives of one worker id: which one owns the row, and how one that counts lower comes to own it.

The row belongs to one incarnation, and a greater one takes it over with its first event: nothing
but its position is needed, so the order of arrival does not matter. A position below the row's may
be a late copy, or a process that lives now though it counts lower: its host's clock went back, its
counter began again, or it counts no more (that is incarnation 0). Only time distinguishes them.

Such a *rival* is therefore watched, one at a time. It takes the row over when its own positions
have risen for one timeout, never more than one timeout apart, while no beat of the row's life was
received. (All by the database's clock at receipt.) One late beat, or many that come at once, never
do that. Until then a rising rival keeps the worker from being marked LOST, since somebody does
beat. If both beat for a timeout they are two processes with one id: the row stays with its life,
and an alert says so (`alerts/rules/duplicate_worker.py`).

Invariant: every position in the rows of a worker and of its instances was counted by the row's own
life, by an older one, or not counted at all. A takeover keeps it: it sets back what the former life
had counted higher, and from then on an event of the former life counts as one of an older life.
"""

from __future__ import annotations

import msgspec

from manman_status.domain.events import AnyEvent, Heartbeat
from manman_status.domain.rows import Evidence, Receipt, Rows, Worker

NO_RIVAL: dict[str, object] = {
    "rival_incarnation": 0,
    "rival_seq": 0,
    "rival_labels": {},
    "rival_since": None,
    "rival_beat_at": None,
    "own_beat_at": None,
}


def is_newer(worker: Worker, incarnation: int | None) -> bool:
    """True when this incarnation owns the row from now on, whatever it had before."""
    return incarnation is not None and worker.incarnation < incarnation != worker.passed_incarnation


def follow(worker: Worker, incarnation: int, receipt: Receipt) -> bool:
    """Give the row to this incarnation when it is a newer one. True when something changed."""
    newer = is_newer(worker, incarnation)
    if newer:
        worker.incarnation, worker.seq, worker.first_received_at = incarnation, 0, 0
    if incarnation == worker.incarnation and receipt.order < began_at(worker):
        worker.first_received_at = receipt.order
        return True
    return newer


def began_at(worker: Worker) -> int:
    """The µs at which the row's life began: no later than it was first received, however its host's
    clock was."""
    return worker.first_received_at or worker.incarnation


def of_row(worker: Worker, event: AnyEvent) -> AnyEvent:
    """The event as one of an older life, when it is of the life that the row's own has passed."""
    if (
        event.incarnation is not None
        and worker.incarnation < event.incarnation == worker.passed_incarnation
    ):
        return msgspec.structs.replace(event, incarnation=max(worker.incarnation - 1, 0))
    return event


def counts_lower(worker: Worker, event: Heartbeat) -> bool:
    """True when the heartbeat is of a life below the row's, or of the one that this has passed, or
    goes back in it, or comes after its end.

    WORKER_STARTED is never one: it waits in another queue, perhaps for hours.
    """
    if type(event) is not Heartbeat:
        return False
    if event.incarnation is None:
        return worker.incarnation > 0 or (event.sent_at is not None and event.sent_at < worker.seq)
    if event.incarnation == worker.incarnation:
        if event.seq is None:
            return False
        beats_on = (
            event.incarnation == worker.stopped_incarnation and 0 < worker.stopped_seq < event.seq
        )
        return event.seq < worker.seq or beats_on
    return not is_newer(worker, event.incarnation)


def goes_on(worker: Worker, event: Heartbeat) -> bool:
    """True when the heartbeat is the next of the row's life, or of a newer one."""
    if event.incarnation is None:
        return worker.incarnation == 0 and (event.sent_at is None or event.sent_at > worker.seq)
    if event.incarnation == worker.incarnation:
        return event.seq is None or event.seq > worker.seq
    return is_newer(worker, event.incarnation)


def contend(rows: Rows, worker: Worker, event: Heartbeat, receipt: Receipt) -> Evidence | None:
    """Watch a rival by a heartbeat of either side. Return the evidence when the heartbeat's life
    has taken the row over."""
    timeout = receipt.patience.timeout(worker.interval_seconds, event.interval_seconds)
    rival_beat_at = worker.rival_beat_at
    # A clock that was set back makes what it said before worthless.
    is_gone = rival_beat_at is None or not -timeout <= receipt.at - rival_beat_at <= timeout
    if not counts_lower(worker, event):
        if rival_beat_at is not None and goes_on(worker, event):
            _note_own_beat(rows, worker, receipt, rival_is_gone=is_gone)
        return None
    incarnation = event.incarnation or 0
    if not is_gone and incarnation < worker.rival_incarnation:
        return None  # of two rivals the greater one is watched
    rows.changed_workers.add(worker.worker_id)
    _, seq = event.position(receipt.order)
    if event.labels is not None:
        worker.rival_labels = event.labels
    if is_gone or incarnation != worker.rival_incarnation:
        worker.rival_incarnation, worker.rival_seq = incarnation, seq
        worker.rival_labels = event.labels or {}
        worker.rival_since = worker.rival_beat_at = receipt.at
        worker.own_beat_at = None
        return None
    if seq <= worker.rival_seq:
        return None
    assert worker.rival_since is not None
    assert rival_beat_at is not None
    worker.rival_seq = seq
    worker.rival_beat_at = max(rival_beat_at, receipt.at)
    worker.last_heartbeat = max(worker.last_heartbeat or receipt.at, receipt.at)
    if (
        worker.rival_beat_at - max(worker.rival_since, worker.own_beat_at or worker.rival_since)
        < timeout
    ):
        return None
    return _take_over(rows, worker, event, receipt)


def _note_own_beat(rows: Rows, worker: Worker, receipt: Receipt, *, rival_is_gone: bool) -> None:
    rows.changed_workers.add(worker.worker_id)
    if rival_is_gone:
        forget_rival(worker)
    else:
        worker.own_beat_at = max(worker.own_beat_at or receipt.at, receipt.at)


def forget_rival(worker: Worker) -> None:
    for name, value in NO_RIVAL.items():
        setattr(worker, name, value)


def _take_over(rows: Rows, worker: Worker, event: Heartbeat, receipt: Receipt) -> Evidence:
    """Give the row to the beat's life, and set back what the former one had counted higher.

    Its instances are left as they were claimed by an older incarnation, so the new life's
    inventories decide: what they do not list is superseded. `rows` must hold those that are active
    or LOST.
    """
    incarnation = event.incarnation or 0
    evidence = {"passed_incarnation": worker.incarnation, "passed_seq": worker.seq}
    worker.passed_incarnation = worker.incarnation
    worker.incarnation, worker.seq = incarnation, 0
    worker.first_received_at = receipt.order if incarnation > receipt.order else 0
    worker.labels_incarnation = worker.labels_seq = 0
    worker.interval_incarnation = worker.interval_seq = 0
    worker.inventory_incarnation = worker.inventory_seq = worker.inventory_digest = 0
    worker.stopped_incarnation = worker.stopped_at = worker.stopped_seq = 0
    if worker.ended_at is not None and worker.ended_at >= began_at(worker):
        worker.ended_at = worker.ended_status = worker.ended_reason = None
        worker.begun_at = worker.begun_status = None
    position = event.position(receipt.order)
    is_counted = position[0] > 0
    older = (incarnation - 1, 0) if is_counted else (0, position[1] - 1)
    for instance_id in sorted(rows.instances_of.get(worker.worker_id, ())):
        instance = rows.instances[instance_id]
        if instance.worker_id != worker.worker_id:
            continue
        claimed = (instance.claim_incarnation, instance.claim_seq)
        may_be_own = is_counted and incarnation != worker.passed_incarnation
        if instance.claim_incarnation > incarnation or (claimed >= position and not may_be_own):
            instance.claim_incarnation, instance.claim_seq = older
        claimed = (instance.claim_incarnation, instance.claim_seq)
        owned = (instance.owner_incarnation, instance.owner_seq)
        instance.owner_incarnation, instance.owner_seq = min(owned, claimed)
        instance.missing_since = None
        rows.changed_instances.add(instance_id)
    forget_rival(worker)
    return evidence
