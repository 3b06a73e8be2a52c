"""The ordering contract: any set of reported events, in any order, any number of times, ends in the
same rows.

Each row is a set of registers that only ever keep the greatest (or, for an instance's end, the
first) of what was said; `status`, `reason` and `evidence` are computed from the registers alone. So
the order of arrival cannot matter: it shows only in the times at which the database saw things
(`created_date`, `status_since`, `end_date`, `last_heartbeat`, `missing_since`). Two things need the
moment of receipt, and there the order of arrival may matter: a life that counts lower than the one
before (`domain/lives.py`), and what is dated too far ahead (`domain/events.py`). Among the
StatusInfo of one entity it decides (`domain/status_info.py`).

An instance has one worker and one configuration for life. Should two workers name it, the later
position owns it; of two configurations the greater id stands.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from manman_status.domain.events import (
    Heartbeat,
    Inventory,
    Position,
    ReportedEvent,
    ServerStarted,
    ServerStatusReported,
    ServerStopped,
    WorkerStarted,
    WorkerStatusReported,
    WorkerStopped,
    as_received,
)
from manman_status.domain.instances import (
    catch_up_with_listing,
    claim,
    claim_directly,
    claimed_at,
    configure,
    end,
    know_instance,
    own,
    settle_instance,
)
from manman_status.domain.lives import contend, counts_lower, follow, of_row
from manman_status.domain.rows import Receipt, Rows, ServerInstance, Worker
from manman_status.domain.status import ACTIVE, INFERRED, TERMINAL, Reason, StatusType
from manman_status.domain.status_info import in_arrival_order
from manman_status.domain.workers import (
    hear,
    know_worker,
    microseconds,
    report_status,
    settle_worker,
    stop,
)


class Concerned(msgspec.Struct):
    """The rows that events concern, collected by `concerns` and loaded before they are merged.

    `inventories` are listings by worker: the instances that they name are concerned when they say
    something new. `beaten` workers may bring back what had been marked LOST with them. `spoken_of`
    are workers whose instances an event names directly. The instances in `ownerless` were named
    without their worker.
    """

    workers: set[int] = msgspec.field(default_factory=set)
    beaten: set[int] = msgspec.field(default_factory=set)
    spoken_of: set[int] = msgspec.field(default_factory=set)
    instances: set[int] = msgspec.field(default_factory=set)
    ownerless: set[int] = msgspec.field(default_factory=set)
    inventories: list[tuple[int, Inventory]] = msgspec.field(default_factory=list)


def concerns(event: ReportedEvent, concerned: Concerned) -> None:
    """Add the rows that `merge` needs for this event. A kind of event that is missing here is a
    type error."""
    match event:
        case Heartbeat():
            concerned.beaten.add(event.worker_id)
            if event.servers is not None:
                concerned.inventories.append((event.worker_id, event.servers))
        case WorkerStopped() | WorkerStatusReported():
            concerned.workers.add(event.worker_id)
        case ServerStarted() | ServerStopped():
            concerned.spoken_of.add(event.worker_id)
            concerned.instances.add(event.instance_id)
        case ServerStatusReported():
            concerned.ownerless.add(event.instance_id)
        case _:
            assert_never(event)


def merge(rows: Rows, event: ReportedEvent, receipt: Receipt) -> None:
    """Apply one event to the rows of `rows`, which must hold every existing row that the event
    concerns."""
    event = as_received(event, receipt.order)
    match event:
        case Heartbeat():
            _beat(rows, event, receipt)
        case WorkerStopped():
            worker = know_worker(rows, event.worker_id, receipt)
            stop(worker, event, receipt)
            worker.received_at = receipt.at
            rows.changed_workers.add(worker.worker_id)
            settle_worker(rows, worker, receipt, fresh=False)
        case WorkerStatusReported():
            worker = know_worker(rows, event.worker_id, receipt)
            _report_worker_status(rows, worker, event, receipt)
        case ServerStarted():
            event = of_row(know_worker(rows, event.worker_id, receipt), event)
            instance, new = _instance_of(rows, event, receipt)
            configure(rows, instance, event.game_server_config_id)
            claim_directly(
                rows, instance, event.position(receipt.order), StatusType.RUNNING, receipt, new=new
            )
        case ServerStopped():
            event = of_row(know_worker(rows, event.worker_id, receipt), event)
            instance, _ = _instance_of(rows, event, receipt)
            crashed = event.exit_code is not None and event.exit_code != 0
            status, reason = (
                (StatusType.CRASHED, Reason.EXIT_CODE)
                if crashed
                else (StatusType.COMPLETE, Reason.GRACEFUL)
            )
            end(
                rows,
                instance,
                event.position(receipt.order),
                status,
                reason,
                event.exit_code,
                receipt,
            )
        case ServerStatusReported():
            instance = know_instance(rows, event.instance_id, receipt)
            instance.received_at = receipt.at
            rows.changed_instances.add(instance.instance_id)
            _report_server_status(rows, instance, event, receipt)
        case _:
            assert_never(event)


def _report_worker_status(
    rows: Rows, worker: Worker, event: WorkerStatusReported, receipt: Receipt
) -> None:
    """A StatusInfo lifts LOST only when it is dated after that conclusion: one that was merely late
    does not."""
    worker.received_at = receipt.at
    rows.changed_workers.add(worker.worker_id)
    counted = in_arrival_order(worker, event, receipt.order)
    if counted is None:
        return
    fresh = report_status(
        worker, counted, event.status, counted.time(receipt.order), Reason.REPORTED
    )
    if worker.status is StatusType.LOST:
        fresh = fresh and event.time(receipt.order) > microseconds(worker.status_since)
        if fresh:
            hear(worker, receipt)  # still promised to beat
    settle_worker(rows, worker, receipt, fresh=fresh)


def _report_server_status(
    rows: Rows, instance: ServerInstance, event: ServerStatusReported, receipt: Receipt
) -> None:
    """An end is never too old for an instance, which has one life; the end that came first
    stands."""
    counted = in_arrival_order(instance, event, receipt.order, is_final=event.status in TERMINAL)
    if counted is None:
        return
    position = counted.position(receipt.order)
    if event.status in ACTIVE:
        claim_directly(rows, instance, position, event.status, receipt, new=False)
    else:
        end(rows, instance, position, event.status, Reason.REPORTED, None, receipt)


def _beat(rows: Rows, event: Heartbeat, receipt: Receipt) -> None:
    worker = know_worker(rows, event.worker_id, receipt)
    rows.beaten.add(worker.worker_id)
    passed = None
    goes_on = (
        event.incarnation == worker.incarnation != worker.stopped_incarnation
        and (event.seq is None or event.seq >= worker.seq)
    )  # fmt: skip
    if not goes_on or worker.rival_since is not None:
        if worker.rival_since is not None or counts_lower(worker, event):
            passed = contend(rows, worker, event, receipt)
        event = of_row(worker, event)
    position = event.position(receipt.order)
    fresh = _is_fresh(worker, event)
    if event.incarnation is None:
        _begin_by_time(rows, worker, event, receipt)
    if fresh or worker.last_heartbeat is None:  # even a stale beat tells that beats are promised
        hear(worker, receipt)
    place = position
    if event.incarnation is not None:
        # A life that goes on changes nothing, unless it says that it begins later.
        if (not goes_on or event.incarnation > receipt.order) and follow(
            worker, event.incarnation, receipt
        ):
            rows.changed_workers.add(worker.worker_id)
        place = (event.incarnation, event.seq or 0)
    worker.incarnation, worker.seq = max((worker.incarnation, worker.seq), place)
    _take_labels(rows, worker, event.labels, position)
    _take_interval(rows, worker, event.interval_seconds, position)
    if event.servers is not None:
        _take_inventory(rows, worker, event.servers, position, receipt)
    was_lost = worker.status is StatusType.LOST
    settle_worker(rows, worker, receipt, fresh=fresh, passed=passed)
    if was_lost and worker.status in ACTIVE and not worker.inventory_seq:
        _recover_instances(rows, worker, receipt)


def _recover_instances(rows: Rows, worker: Worker, receipt: Receipt) -> None:
    """A worker that never lists its instances cannot bring them back one by one: they were lost
    with it alone."""
    for instance_id in sorted(rows.instances_of.get(worker.worker_id, ())):
        instance = rows.instances[instance_id]
        same_life = instance.claim_incarnation in {0, worker.incarnation}
        if instance.reason is Reason.WORKER_LOST and same_life:
            settle_instance(rows, instance, receipt, fresh=True)


def _begin_by_time(rows: Rows, worker: Worker, event: Heartbeat, receipt: Receipt) -> None:
    """WORKER_STARTED begins a life at its time. A mere heartbeat begins the first one only, older
    than any end."""
    if isinstance(event, WorkerStarted):
        report_status(worker, event, StatusType.RUNNING, event.time(receipt.order), Reason.REPORTED)
        rows.changed_workers.add(worker.worker_id)
    elif worker.begun_at is None:
        worker.begun_at, worker.begun_status = 0, StatusType.RUNNING
        rows.changed_workers.add(worker.worker_id)


def _take_labels(
    rows: Rows, worker: Worker, labels: dict[str, str] | None, position: Position
) -> None:
    if labels is None or position <= (worker.labels_incarnation, worker.labels_seq):
        return
    worker.labels_incarnation, worker.labels_seq = position
    if worker.labels != labels:
        worker.labels = labels
        rows.changed_workers.add(worker.worker_id)


def _take_interval(
    rows: Rows, worker: Worker, interval_seconds: float | None, position: Position
) -> None:
    if interval_seconds is None or position <= (worker.interval_incarnation, worker.interval_seq):
        return
    worker.interval_incarnation, worker.interval_seq = position
    if worker.interval_seconds != interval_seconds:
        worker.interval_seconds = interval_seconds
        rows.changed_workers.add(worker.worker_id)


def _is_fresh(worker: Worker, event: Heartbeat) -> bool:
    """Whether the beat tells of life now: not of an older incarnation, not one already passed by a
    later beat."""
    if event.incarnation is None:
        return True
    if event.incarnation != worker.incarnation:
        return event.incarnation > worker.incarnation
    return event.seq is None or event.seq > worker.seq


def is_repeated(worker: Worker, inventory: Inventory) -> bool:
    """Whether the inventory says what the rows already show, so that they need not be looked at."""
    return inventory.digest == worker.inventory_digest and worker.reason not in INFERRED


def _take_inventory(
    rows: Rows, worker: Worker, inventory: Inventory, position: Position, receipt: Receipt
) -> None:
    repeated = is_repeated(worker, inventory)
    newest = position > (worker.inventory_incarnation, worker.inventory_seq)
    if newest and not repeated:
        for instance_id in rows.instances_of.get(worker.worker_id, ()):
            catch_up_with_listing(rows, rows.instances[instance_id])
    if newest:
        worker.inventory_incarnation, worker.inventory_seq = position
    if repeated:
        return
    shown = True
    entries = inventory.list_entries()
    for entry in entries:
        instance = know_instance(rows, entry.instance_id, receipt)
        new = own(rows, instance, worker.worker_id, position)
        if not newest and not new:
            catch_up_with_listing(rows, instance)
        configure(rows, instance, entry.game_server_config_id)
        if entry.status in ACTIVE:
            claim(rows, instance, position, entry.status, receipt, new=new)
        else:
            end(rows, instance, position, entry.status, Reason.REPORTED, None, receipt)
        said = (claimed_at(instance), instance.claim_status) == (position, entry.status)
        shown = shown and (said or instance.status not in ACTIVE)
    if newest:
        listed = {entry.instance_id for entry in entries}
        shown = _miss_unlisted(rows, worker, listed, position, receipt) and shown
        worker.inventory_digest = inventory.digest if shown else 0
        rows.changed_workers.add(worker.worker_id)


def _miss_unlisted(
    rows: Rows, worker: Worker, listed: set[int], position: Position, receipt: Receipt
) -> bool:
    """False when an instance is too young to be listed here, so that the next inventory must be
    looked at."""
    settled = True
    for instance_id in rows.instances_of.get(worker.worker_id, set()) - listed:
        instance = rows.instances[instance_id]
        if instance.worker_id != worker.worker_id or not (
            instance.status in ACTIVE or instance.status is StatusType.LOST
        ):
            continue
        if claimed_at(instance) >= position:
            settled = False
        elif instance.missing_since is None:
            instance.missing_since = receipt.at
            rows.changed_instances.add(instance.instance_id)
    return settled


def _instance_of(
    rows: Rows, event: ServerStarted | ServerStopped, receipt: Receipt
) -> tuple[ServerInstance, bool]:
    """The event's instance and whether its worker is new to it. The worker is made known too: a
    later incarnation seen here begins a life."""
    worker = know_worker(rows, event.worker_id, receipt)
    if event.incarnation is not None and follow(worker, event.incarnation, receipt):
        rows.changed_workers.add(worker.worker_id)
    settle_worker(rows, worker, receipt, fresh=False)
    instance = know_instance(rows, event.instance_id, receipt)
    instance.received_at = receipt.at
    rows.changed_instances.add(instance.instance_id)
    return instance, own(rows, instance, worker.worker_id, event.position(receipt.order))
