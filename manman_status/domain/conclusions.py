"""The processor's conclusions from silence. Each has its evidence, and any newer report lifts
it."""

from __future__ import annotations

from datetime import datetime

from manman_status.domain.rows import Evidence, Rows, ServerInstance, Transition, Worker
from manman_status.domain.status import ACTIVE, TERMINAL, Entity, Reason, StatusType


def lose_worker(rows: Rows, worker: Worker, at: datetime, evidence: Evidence) -> None:
    """Mark a worker LOST, and its active instances with it: they must be in `rows`."""
    for instance_id in sorted(rows.instances_of.get(worker.worker_id, ())):
        instance = rows.instances[instance_id]
        if instance.worker_id == worker.worker_id and instance.status in ACTIVE:
            lose_instance(rows, instance, at, {"worker_id": worker.worker_id, **evidence})
    rows.transitions.append(
        Transition(
            Entity.WORKER,
            worker.worker_id,
            worker.status,
            StatusType.LOST,
            Reason.HEARTBEAT_EXPIRED,
            evidence,
        )
    )
    worker.status, worker.reason, worker.evidence = (
        StatusType.LOST,
        Reason.HEARTBEAT_EXPIRED,
        evidence,
    )
    worker.status_since = at
    worker.inventory_digest = (
        0  # the next inventory brings its instances back, however often it was repeated
    )
    rows.changed_workers.add(worker.worker_id)


def is_abandoned(instance: ServerInstance, worker: Worker) -> bool:
    """True for an instance whose worker is gone: an active one, or one that was lost with a worker
    that has ended since."""
    if worker.status in TERMINAL:
        return instance.status in ACTIVE or instance.status is StatusType.LOST
    return worker.status is StatusType.LOST and instance.status in ACTIVE


def lose_instance(
    rows: Rows,
    instance: ServerInstance,
    at: datetime,
    evidence: Evidence,
    *,
    has_ended: bool = False,
) -> None:
    """Mark an instance LOST with its worker, or CRASHED when its worker `has_ended`: that one will
    never report it again."""
    status = StatusType.CRASHED if has_ended else StatusType.LOST
    _conclude(rows, instance, status, Reason.WORKER_LOST, at, evidence)


def crash_missing(rows: Rows, instance: ServerInstance, at: datetime, evidence: Evidence) -> None:
    """Mark an instance CRASHED: its worker's inventories have not listed it for one timeout."""
    worker = rows.workers[instance.worker_id or 0]
    superseded = 0 < instance.claim_incarnation < worker.inventory_incarnation
    reason = Reason.SUPERSEDED if superseded else Reason.MISSING_FROM_INVENTORY
    position = (worker.inventory_incarnation, worker.inventory_seq)
    instance.claim_incarnation, instance.claim_seq = max(
        (instance.claim_incarnation, instance.claim_seq), position
    )
    _conclude(rows, instance, StatusType.CRASHED, reason, at, evidence)


def _conclude(
    rows: Rows,
    instance: ServerInstance,
    status: StatusType,
    reason: Reason,
    at: datetime,
    evidence: Evidence,
) -> None:
    rows.catch_up_with_listing(instance)  # so that only what is newer than the listing lifts it
    rows.transitions.append(
        Transition(
            Entity.SERVER_INSTANCE, instance.instance_id, instance.status, status, reason, evidence
        )
    )
    instance.status, instance.reason, instance.evidence = status, reason, evidence
    instance.status_since = at
    instance.end_date = at if status is StatusType.CRASHED else None
    instance.missing_since = None
    rows.changed_instances.add(instance.instance_id)
