"""What reports make of a server instance: claims that it is active, and the end that absorbs
them."""

from __future__ import annotations

from manman_status.domain.events import Position
from manman_status.domain.rows import (
    STATUS_RANK,
    Conclusion,
    Receipt,
    Rows,
    ServerInstance,
    Transition,
    outcome,
)
from manman_status.domain.status import ACTIVE, TERMINAL, Entity, Reason, StatusType


def know_instance(rows: Rows, instance_id: int, receipt: Receipt) -> ServerInstance:
    instance = rows.instances.get(instance_id)
    if instance is None:
        instance = ServerInstance(
            instance_id=instance_id,
            created_date=receipt.at,
            status_since=receipt.at,
            received_at=receipt.at,
        )
        rows.put(instance)
        rows.changed_instances.add(instance_id)
    return instance


def own(rows: Rows, instance: ServerInstance, worker_id: int, position: Position) -> bool:
    """Name the instance's worker. True when the instance was not this worker's until now.

    The later position owns the instance, of two at one position the greater worker id. The former
    owner's next inventory is compared with the rows again: it may name the instance later still.
    """
    former = instance.worker_id
    if former not in {None, worker_id}:
        catch_up_with_listing(rows, instance)
    if (*position, worker_id) <= (instance.owner_incarnation, instance.owner_seq, former or 0):
        return False
    instance.owner_incarnation, instance.owner_seq = position
    rows.changed_instances.add(instance.instance_id)
    if former == worker_id:
        return False
    instance.worker_id = worker_id
    rows.put(instance)
    if former is not None:
        rows.instances_of[former].discard(instance.instance_id)
        loser = rows.workers[former]
        if loser.inventory_digest:
            loser.inventory_digest = 0
            rows.changed_workers.add(former)
    return True


def configure(rows: Rows, instance: ServerInstance, config_id: int | None) -> None:
    if config_id is not None and config_id > (instance.game_server_config_id or 0):
        instance.game_server_config_id = config_id
        rows.changed_instances.add(instance.instance_id)


def claimed_at(instance: ServerInstance) -> Position:
    return (instance.claim_incarnation, instance.claim_seq)


def claim(
    rows: Rows,
    instance: ServerInstance,
    position: Position,
    status: StatusType,
    receipt: Receipt,
    *,
    new: bool,
) -> None:
    """Evidence that the instance is active: the greatest position wins, then the further status."""
    rank = STATUS_RANK.get(instance.claim_status, -1) if instance.claim_status else -1
    known = claimed_at(instance)
    if (*position, STATUS_RANK.get(status, -1)) > (*known, rank):
        instance.claim_incarnation, instance.claim_seq = position
        instance.claim_status = status
        rows.changed_instances.add(instance.instance_id)
    settle_instance(rows, instance, receipt, fresh=position > known)
    _hold_against_inventory(rows, instance, receipt, new=new)


def claim_directly(
    rows: Rows,
    instance: ServerInstance,
    position: Position,
    status: StatusType,
    receipt: Receipt,
    *,
    new: bool,
) -> None:
    """A claim from outside its worker's inventories. Inventories that repeat themselves leave the
    rows alone, so the listing's position is caught up with first, and the next inventory is made to
    be held against the rows."""
    if not new:
        catch_up_with_listing(rows, instance)
    claim(rows, instance, position, status, receipt, new=new)
    worker = rows.workers.get(instance.worker_id or 0)
    if worker is not None and worker.inventory_digest:
        worker.inventory_digest = 0
        rows.changed_workers.add(worker.worker_id)


def catch_up_with_listing(rows: Rows, instance: ServerInstance) -> None:
    """What is active, known, older than its worker's newest inventory and not missing is listed
    there."""
    worker = rows.workers.get(instance.worker_id or 0)
    if worker is None or instance.status not in ACTIVE or instance.missing_since is not None:
        return
    inventory = (worker.inventory_incarnation, worker.inventory_seq)
    if claimed_at(instance) < inventory:
        instance.claim_incarnation, instance.claim_seq = inventory
        owned = (instance.owner_incarnation, instance.owner_seq)
        instance.owner_incarnation, instance.owner_seq = max(owned, inventory)
        rows.changed_instances.add(instance.instance_id)


def _hold_against_inventory(
    rows: Rows, instance: ServerInstance, receipt: Receipt, *, new: bool
) -> None:
    """What is `new` to its worker and older than its newest inventory is not listed there, so it is
    missing from the start; evidence newer than that inventory ends this. (A listed instance keeps
    no position of its listing: that it was known and not missing says enough.)"""
    worker = rows.workers.get(instance.worker_id or 0)
    if worker is None or instance.status not in ACTIVE:
        return
    older = claimed_at(instance) < (worker.inventory_incarnation, worker.inventory_seq)
    if older and new:
        instance.missing_since = receipt.at
    elif not older:
        if new:
            worker.inventory_digest = (
                0  # not listed there yet: the next inventory must be looked at
            )
        if instance.missing_since is not None:
            instance.missing_since = None
            rows.changed_instances.add(instance.instance_id)


def end(
    rows: Rows,
    instance: ServerInstance,
    position: Position,
    status: StatusType,
    reason: Reason,
    exit_code: int | None,
    receipt: Receipt,
) -> None:
    """A reported end absorbs everything after it: the first stands, and a counted one before a
    dated one."""
    end = (position[0] == 0, *position, status, reason, exit_code is None, exit_code or 0)
    known = instance.end_status and (
        instance.end_incarnation == 0,
        instance.end_incarnation,
        instance.end_seq,
        instance.end_status,
        instance.end_reason or "",
        instance.exit_code is None,
        instance.exit_code or 0,
    )
    if known and known <= end:
        return
    instance.end_incarnation, instance.end_seq = position
    instance.end_status, instance.end_reason, instance.exit_code = status, reason, exit_code
    rows.changed_instances.add(instance.instance_id)
    settle_instance(rows, instance, receipt, fresh=True)


def conclude_instance(instance: ServerInstance) -> Conclusion:
    """What the reports say, whatever the processor itself may have inferred."""
    if instance.end_status is not None:
        assert instance.end_reason is not None
        evidence = {} if instance.exit_code is None else {"exit_code": instance.exit_code}
        return instance.end_status, instance.end_reason, evidence
    assert instance.claim_status is not None
    return instance.claim_status, Reason.REPORTED, {}


def settle_instance(rows: Rows, instance: ServerInstance, receipt: Receipt, *, fresh: bool) -> None:
    """Bring the status up to the registers."""
    settled = outcome(instance, conclude_instance(instance), fresh=fresh)
    if settled is None:
        return
    status, reason, evidence = settled
    rows.changed_instances.add(instance.instance_id)
    if status != instance.status:
        rows.transitions.append(
            Transition(
                Entity.SERVER_INSTANCE,
                instance.instance_id,
                instance.status,
                status,
                reason,
                evidence,
            )
        )
        instance.status = status
        instance.status_since = receipt.at
        instance.end_date = receipt.at if status in TERMINAL else None
    if status not in ACTIVE:
        instance.missing_since = None
    instance.reason, instance.evidence = reason, evidence
