"""The ordering contract: any set of reported events, in any order, any number of times, ends in the
same rows.

Invariant: each row is a set of registers, and each register keeps the greatest of what was reported
for it (the first, for the end of an instance). `status`, `reason` and `evidence` are computed from
the registers alone. The greatest of a set depends neither on the order nor on repetition, so the
rows do not either. The order of arrival shows only in the times at which the database saw things
(`created_date`, `status_since`, `end_date`, `last_heartbeat`, `missing_since`).

Two things need the moment of receipt, and there the order of arrival may matter: a life that counts
lower than the one before (`domain/lives.py`), and what is dated too far ahead (`domain/events.py`).
Among the StatusInfo of one entity it decides (`domain/status_info.py`).

An instance has one worker and one configuration for life. Should two workers name it, the later
position owns it; of two configurations the greater id stands.
"""

from __future__ import annotations

from datetime import timedelta
from typing import assert_never

import msgspec

from manman_status.domain.events import (
    SAME_CLOCK,
    Event,
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
    microseconds,
    time_of,
    utc_text,
)
from manman_status.domain.lives import (
    began_at,
    contend,
    counts_lower,
    follow,
    forget_rival,
    of_row,
)
from manman_status.domain.rows import (
    STATUS_RANK,
    Applied,
    Conclusion,
    Evidence,
    Receipt,
    Rows,
    ServerInstance,
    Transition,
    Worker,
    outcome,
)
from manman_status.domain.status import ACTIVE, INFERRED, TERMINAL, Entity, Reason, StatusType
from manman_status.domain.status_info import in_arrival_order


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
    """Add the rows that `merge` needs for this event."""
    match event:
        case Heartbeat():
            concerned.beaten.add(event.worker_id)
            if event.servers is not None:
                concerned.inventories.append((event.worker_id, event.servers))
        case WorkerStopped() | WorkerStatusReported():
            concerned.workers.add(event.worker_id)
        case ServerStopped(worker_id=None) | ServerStatusReported():
            concerned.ownerless.add(event.instance_id)
        case ServerStarted() | ServerStopped():
            assert event.worker_id is not None
            concerned.spoken_of.add(event.worker_id)
            concerned.instances.add(event.instance_id)
        case _:
            assert_never(event)


def merge(rows: Rows, event: ReportedEvent, receipt: Receipt) -> None:
    """Apply one event to the rows of `rows`, which must hold every existing row that the event
    concerns."""
    Merge(rows, receipt).apply(as_received(event, receipt.order))


class Merge:
    """Merges one event, received at `receipt`, into `rows`."""

    def __init__(self, rows: Rows, receipt: Receipt) -> None:
        self.rows = rows
        self.receipt = receipt
        self.at = receipt.at
        self.order = receipt.order
        self.sent_at: int | None = None

    def apply(self, event: ReportedEvent) -> None:
        self.sent_at = event.sent_at
        match event:
            case Heartbeat():
                self._beat(event)
            case WorkerStopped():
                worker = self._know_worker(event.worker_id)
                self._stop(worker, event)
                worker.received_at = self.at
                self.rows.changed_workers.add(worker.worker_id)
                self._settle_worker(worker, fresh=False)
            case WorkerStatusReported():
                worker = self._know_worker(event.worker_id)
                self._report_worker_status(worker, event)
            case ServerStarted():
                event = of_row(self._know_worker(event.worker_id), event)
                instance, new = self._instance_of(event)
                self._configure(instance, event.game_server_config_id)
                self._claim_directly(
                    instance, event.position(self.order), StatusType.RUNNING, new=new
                )
            case ServerStopped():
                if event.worker_id is None:
                    instance = self._ownerless(event)
                else:
                    event = of_row(self._know_worker(event.worker_id), event)
                    instance, _ = self._instance_of(event)
                status, reason = StatusType.COMPLETE, Reason.GRACEFUL
                if event.exit_code:
                    status, reason = StatusType.CRASHED, Reason.EXIT_CODE
                self._end(instance, event.position(self.order), status, reason, event.exit_code)
            case ServerStatusReported():
                instance = self._ownerless(event)
                self._configure(instance, event.game_server_config_id)
                self._report_server_status(instance, event)
            case _:
                assert_never(event)

    def _beat(self, event: Heartbeat) -> None:
        worker = self._know_worker(event.worker_id)
        self.rows.beaten.add(worker.worker_id)
        passed = None
        goes_on = (
            event.incarnation == worker.incarnation != worker.stopped_incarnation
            and (event.seq is None or event.seq >= worker.seq)
        )  # fmt: skip
        if not goes_on or worker.rival_since is not None:
            if worker.rival_since is not None or counts_lower(worker, event):
                passed = contend(self.rows, worker, event, self.receipt)
            event = of_row(worker, event)
        position = event.position(self.order)
        fresh = _is_fresh(worker, event)
        if event.incarnation is None:
            self._begin_by_time(worker, event)
        if fresh or worker.last_heartbeat is None:  # even a stale one promises more
            self._receive(worker)
        place = position
        if event.incarnation is not None:
            # A life that goes on changes nothing, unless it says that it begins later.
            if (not goes_on or event.incarnation > self.order) and follow(
                worker, event.incarnation, self.receipt
            ):
                self.rows.changed_workers.add(worker.worker_id)
            place = (event.incarnation, event.seq or 0)
        worker.incarnation, worker.seq = max((worker.incarnation, worker.seq), place)
        self._take_labels(worker, event.labels, position)
        self._take_interval(worker, event.interval_seconds, position)
        if event.servers is not None:
            self._take_inventory(worker, event.servers, position)
        was_lost = worker.status is StatusType.LOST
        self._settle_worker(worker, fresh=fresh, passed=passed)
        if was_lost and worker.status in ACTIVE and not worker.inventory_seq:
            self._recover_instances(worker)

    def _begin_by_time(self, worker: Worker, event: Heartbeat) -> None:
        """Begin a life at the time of WORKER_STARTED. A mere heartbeat begins the first one only,
        older than any end."""
        if isinstance(event, WorkerStarted):
            report_status(
                worker, event, StatusType.RUNNING, event.time(self.order), Reason.REPORTED
            )
            self.rows.changed_workers.add(worker.worker_id)
        elif worker.begun_at is None:
            worker.begun_at, worker.begun_status = 0, StatusType.RUNNING
            self.rows.changed_workers.add(worker.worker_id)
        elif event.outlives_an_end and worker.status in TERMINAL and worker.ended_at is not None:
            at, timeout = (
                event.time(self.order),
                self.receipt.patience.timeout(worker.interval_seconds),
            )
            if at > worker.ended_at + timeout // timedelta(microseconds=1):
                report_status(worker, event, StatusType.RUNNING, at, Reason.REPORTED)
                self.rows.changed_workers.add(worker.worker_id)

    def _take_labels(
        self, worker: Worker, labels: dict[str, str] | None, position: Position
    ) -> None:
        if labels is None or position <= (worker.labels_incarnation, worker.labels_seq):
            return
        worker.labels_incarnation, worker.labels_seq = position
        if worker.labels != labels:
            worker.labels = labels
            self.rows.changed_workers.add(worker.worker_id)

    def _take_interval(
        self, worker: Worker, interval_seconds: float | None, position: Position
    ) -> None:
        if interval_seconds is None or position <= (
            worker.interval_incarnation,
            worker.interval_seq,
        ):
            return
        worker.interval_incarnation, worker.interval_seq = position
        if worker.interval_seconds != interval_seconds:
            worker.interval_seconds = interval_seconds
            self.rows.changed_workers.add(worker.worker_id)

    def _take_inventory(self, worker: Worker, inventory: Inventory, position: Position) -> None:
        repeated = is_repeated(worker, inventory)
        newest = position > (worker.inventory_incarnation, worker.inventory_seq)
        if newest and not repeated:
            for instance_id in self.rows.instances_of.get(worker.worker_id, ()):
                self.rows.catch_up_with_listing(self.rows.instances[instance_id])
        if newest:
            worker.inventory_incarnation, worker.inventory_seq = position
        if repeated:
            return
        shown = True
        entries = inventory.list_entries()
        for entry in entries:
            instance = self._know_instance(entry.instance_id)
            new = self._own(instance, worker.worker_id, position)
            if not newest and not new:
                self.rows.catch_up_with_listing(instance)
            self._configure(instance, entry.game_server_config_id)
            if entry.status in ACTIVE:
                self._claim(instance, position, entry.status, new=new)
            else:
                self._end(instance, position, entry.status, Reason.REPORTED, None)
            said = (claimed_at(instance), instance.claim_status) == (position, entry.status)
            shown = shown and (said or instance.status not in ACTIVE)
        if newest:
            listed = {entry.instance_id for entry in entries}
            shown = self._miss_unlisted(worker, listed, position) and shown
            worker.inventory_digest = inventory.digest if shown else 0
            self.rows.changed_workers.add(worker.worker_id)

    def _miss_unlisted(self, worker: Worker, listed: set[int], position: Position) -> bool:
        """Mark instances that are not listed as missing. False when one is too young to be listed,
        so that the next inventory must be looked at."""
        settled = True
        for instance_id in self.rows.instances_of.get(worker.worker_id, set()) - listed:
            instance = self.rows.instances[instance_id]
            if instance.worker_id != worker.worker_id or not (
                instance.status in ACTIVE or instance.status is StatusType.LOST
            ):
                continue
            if claimed_at(instance) >= position:
                settled = False
            elif instance.missing_since is None:
                instance.missing_since = self.at
                self.rows.changed_instances.add(instance.instance_id)
        return settled

    def _recover_instances(self, worker: Worker) -> None:
        """Bring back what was lost with a worker that never lists its instances, and so cannot do
        it one by one."""
        for instance_id in sorted(self.rows.instances_of.get(worker.worker_id, ())):
            instance = self.rows.instances[instance_id]
            same_life = instance.claim_incarnation in {0, worker.incarnation}
            if instance.reason is Reason.WORKER_LOST and same_life:
                self._settle_instance(instance, fresh=True)

    def _report_worker_status(self, worker: Worker, event: WorkerStatusReported) -> None:
        """Merge a StatusInfo. It lifts LOST only when it is dated after that conclusion: one that
        was merely late does not."""
        worker.received_at = self.at
        self.rows.changed_workers.add(worker.worker_id)
        counted = in_arrival_order(worker, event, self.order)
        if counted is None:
            return
        fresh = report_status(
            worker, counted, event.status, counted.time(self.order), Reason.REPORTED
        )
        if worker.status is StatusType.LOST:
            fresh = fresh and event.time(self.order) > microseconds(worker.status_since)
            if fresh:
                self._receive(worker)  # still promised to beat
        self._settle_worker(worker, fresh=fresh)

    def _stop(self, worker: Worker, event: WorkerStopped) -> None:
        if event.incarnation is None:
            report_status(
                worker, event, StatusType.COMPLETE, event.time(self.order), Reason.GRACEFUL
            )
            return
        if event.incarnation == worker.rival_incarnation != worker.incarnation:
            forget_rival(worker)
        event = of_row(worker, event)
        assert event.incarnation is not None
        follow(worker, event.incarnation, self.receipt)
        # Without a time of its own the end is as old as its life, so that a late copy cannot end a
        # later one.
        ended_at = min(event.incarnation, self.order) if event.sent_at is None else event.sent_at
        stopped = (event.incarnation, ended_at, event.seq or 0)
        stopped = max((worker.stopped_incarnation, worker.stopped_at, worker.stopped_seq), stopped)
        worker.stopped_incarnation, worker.stopped_at, worker.stopped_seq = stopped

    def _know_worker(self, worker_id: int) -> Worker:
        worker = self.rows.workers.get(worker_id)
        if worker is None:
            worker = Worker(
                worker_id=worker_id,
                created_date=self.at,
                status_since=self.at,
                received_at=self.at,
            )
            self.rows.workers[worker_id] = worker
            self.rows.changed_workers.add(worker_id)
        return worker

    def _receive(self, worker: Worker) -> None:
        """Move the last heartbeat on to this receipt. Transactions do not end in the order in which
        they began: one that hung takes nothing back."""
        worker.last_heartbeat = max(worker.last_heartbeat or self.at, self.at)

    def _settle_worker(
        self, worker: Worker, *, fresh: bool, passed: Evidence | None = None
    ) -> None:
        """Bring the status up to the registers. `passed` is evidence of the life that the row's own
        has just taken it over from."""
        reported = conclude_worker(worker)
        if passed is not None and reported[0] in ACTIVE:
            reported = (reported[0], Reason.CLOCK_WENT_BACK, reported[2] | passed)
        settled = outcome(worker, reported, fresh=fresh)
        if settled is None:
            return
        status, reason, evidence = settled
        self.rows.changed_workers.add(worker.worker_id)
        if status != worker.status:
            if worker.status in TERMINAL and worker.last_heartbeat is not None:
                self._receive(worker)  # the silence before a new life is not this life's
            self._append(Entity.WORKER, worker.worker_id, worker.status, settled)
            worker.status = status
            worker.status_since = self.at
            worker.end_date = self.at if status in TERMINAL else None
        worker.reason, worker.evidence = reason, evidence

    def _ownerless(self, event: ServerStopped | ServerStatusReported) -> ServerInstance:
        """Return the instance of an event that names no worker. Who owns it stays as it was."""
        instance = self._know_instance(event.instance_id)
        instance.received_at = self.at
        self.rows.changed_instances.add(instance.instance_id)
        return instance

    def _instance_of(self, event: ServerStarted | ServerStopped) -> tuple[ServerInstance, bool]:
        """Return the event's instance, and whether its worker is new to it. Make the worker known
        too: a later incarnation seen here begins a life."""
        assert event.worker_id is not None
        worker = self._know_worker(event.worker_id)
        if event.incarnation is not None and follow(worker, event.incarnation, self.receipt):
            self.rows.changed_workers.add(worker.worker_id)
        self._settle_worker(worker, fresh=False)
        instance = self._know_instance(event.instance_id)
        instance.received_at = self.at
        self.rows.changed_instances.add(instance.instance_id)
        return instance, self._own(instance, worker.worker_id, event.position(self.order))

    def _report_server_status(self, instance: ServerInstance, event: ServerStatusReported) -> None:
        """Merge a StatusInfo. An end is never too old for an instance, which has one life; the end
        that came first stands. A reported LOST is no end: it is a claim that a later one lifts."""
        is_final = event.status in TERMINAL
        counted = in_arrival_order(instance, event, self.order, is_final=is_final)
        if counted is None:
            return
        position = counted.position(self.order)
        if not is_final:
            self._claim_directly(instance, position, event.status, new=False)
            return
        crashed = event.status is StatusType.CRASHED and event.exit_code
        reason = Reason.EXIT_CODE if crashed else Reason.REPORTED
        self._end(instance, position, event.status, reason, event.exit_code)

    def _know_instance(self, instance_id: int) -> ServerInstance:
        instance = self.rows.instances.get(instance_id)
        if instance is None:
            instance = ServerInstance(
                instance_id=instance_id,
                created_date=self.at,
                status_since=self.at,
                received_at=self.at,
            )
            self.rows.put(instance)
            self.rows.changed_instances.add(instance_id)
        return instance

    def _own(self, instance: ServerInstance, worker_id: int, position: Position) -> bool:
        """Name the instance's worker. True when the instance was not this worker's until now.

        The later position owns the instance, of two at one position the greater worker id. The
        former owner's next inventory is compared with the rows again: it may name the instance
        later still.
        """
        former = instance.worker_id
        if former not in {None, worker_id}:
            self.rows.catch_up_with_listing(instance)
        if (*position, worker_id) <= (instance.owner_incarnation, instance.owner_seq, former or 0):
            return False
        instance.owner_incarnation, instance.owner_seq = position
        self.rows.changed_instances.add(instance.instance_id)
        if former == worker_id:
            return False
        instance.worker_id = worker_id
        self.rows.put(instance)
        if former is not None:
            self.rows.instances_of[former].discard(instance.instance_id)
            loser = self.rows.workers[former]
            if loser.inventory_digest:
                loser.inventory_digest = 0
                self.rows.changed_workers.add(former)
        return True

    def _configure(self, instance: ServerInstance, config_id: int | None) -> None:
        if config_id is not None and config_id > (instance.game_server_config_id or 0):
            instance.game_server_config_id = config_id
            self.rows.changed_instances.add(instance.instance_id)

    def _claim(
        self,
        instance: ServerInstance,
        position: Position,
        status: StatusType,
        *,
        new: bool,
    ) -> None:
        """Take a claim that the instance is active: the greatest position wins, then the further
        status."""
        rank = STATUS_RANK.get(instance.claim_status, -1) if instance.claim_status else -1
        known = claimed_at(instance)
        if (*position, STATUS_RANK.get(status, -1)) > (*known, rank):
            instance.claim_incarnation, instance.claim_seq = position
            instance.claim_status = status
            self.rows.changed_instances.add(instance.instance_id)
        self._settle_instance(instance, fresh=position > known)
        self._compare_with_inventory(instance, new=new)

    def _claim_directly(
        self,
        instance: ServerInstance,
        position: Position,
        status: StatusType,
        *,
        new: bool,
    ) -> None:
        """Take a claim from outside its worker's inventories. Inventories that repeat themselves
        leave the rows alone, so the listing's position is caught up with first, and the next
        inventory is compared with the rows again."""
        if not new:
            self.rows.catch_up_with_listing(instance)
        self._claim(instance, position, status, new=new)
        worker = self.rows.workers.get(instance.worker_id or 0)
        if worker is not None and worker.inventory_digest:
            worker.inventory_digest = 0
            self.rows.changed_workers.add(worker.worker_id)

    def _compare_with_inventory(self, instance: ServerInstance, *, new: bool) -> None:
        """Mark an instance missing from the start when it is `new` to its worker and was claimed
        before the worker's newest inventory: it was absent from that. A newer claim clears the
        mark. (A listed instance keeps no position of its listing: that it was known and not missing
        says enough.)"""
        worker = self.rows.workers.get(instance.worker_id or 0)
        if worker is None or instance.status not in ACTIVE:
            return
        older = claimed_at(instance) < (worker.inventory_incarnation, worker.inventory_seq)
        if older and new:
            instance.missing_since = self.at
        elif not older and (new or instance.missing_since is not None):
            # The newest inventory did not list it: the next one must be compared with the rows,
            # though it may say the same. Two processes that repeat an incarnation can differ at
            # one position.
            worker.inventory_digest = 0
            self.rows.changed_workers.add(worker.worker_id)
            if instance.missing_since is not None:
                instance.missing_since = None
                self.rows.changed_instances.add(instance.instance_id)

    def _end(
        self,
        instance: ServerInstance,
        position: Position,
        status: StatusType,
        reason: Reason,
        exit_code: int | None,
    ) -> None:
        """Take a reported end, which absorbs everything after it: the first stands, and a counted
        one before a dated one."""
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
        self.rows.changed_instances.add(instance.instance_id)
        self._settle_instance(instance, fresh=True)

    def _settle_instance(self, instance: ServerInstance, *, fresh: bool) -> None:
        """Bring the status up to the registers."""
        settled = outcome(instance, conclude_instance(instance), fresh=fresh)
        if settled is None:
            return
        status, reason, evidence = settled
        self.rows.changed_instances.add(instance.instance_id)
        if status != instance.status:
            self._append(Entity.SERVER_INSTANCE, instance.instance_id, instance.status, settled)
            instance.status = status
            instance.status_since = self.at
            instance.end_date = self.at if status in TERMINAL else None
        if status not in ACTIVE:
            instance.missing_since = None
        instance.reason, instance.evidence = reason, evidence

    def _append(
        self, entity: Entity, entity_id: int, old_status: StatusType | None, settled: Conclusion
    ) -> None:
        as_of = None if self.sent_at is None else time_of(self.sent_at)
        self.rows.transitions.append(Transition(entity, entity_id, old_status, *settled, as_of))


def _is_fresh(worker: Worker, event: Heartbeat) -> bool:
    """True when the heartbeat shows life now: it is neither of an older incarnation nor passed by a
    later heartbeat."""
    if event.incarnation is None:
        return True
    if event.incarnation != worker.incarnation:
        return event.incarnation > worker.incarnation
    return event.seq is None or event.seq > worker.seq


def is_repeated(worker: Worker, inventory: Inventory) -> bool:
    """True when the rows already show what the inventory says, so that they need not be read."""
    return inventory.digest == worker.inventory_digest and worker.reason not in INFERRED


def report_status(
    worker: Worker, event: Event, status: StatusType, at: int, reason: Reason
) -> bool:
    """Begin or end a life by time. True when nothing newer of its kind was known."""
    if event.ahead_at is not None:
        # It counts at its receipt, so a copy of it would count again, and later.
        if 0 <= worker.ahead_at - event.ahead_at < SAME_CLOCK:
            return False
        worker.ahead_at = event.ahead_at
    if status in TERMINAL:
        known = (worker.ended_at or 0, worker.ended_status or "", worker.ended_reason or "")
        if worker.ended_at is not None and (at, status, reason) <= known:
            return False
        worker.ended_at, worker.ended_status, worker.ended_reason = at, status, reason
        return True
    rank = STATUS_RANK.get(worker.begun_status, -1) if worker.begun_status else -1
    if worker.begun_at is not None and (at, STATUS_RANK[status]) <= (worker.begun_at, rank):
        return False
    worker.begun_at, worker.begun_status = at, status
    return True


def conclude_worker(worker: Worker) -> Conclusion:
    """The conclusion from the reports alone, whatever the processor may have inferred from silence.

    A life counted by incarnation ends with that incarnation's stop or with an end dated after its
    start; a life begun by time ends with an end not dated before it. The worker lives while any of
    its lives does.
    """
    incarnation, begun_at, ended_at = worker.incarnation, worker.begun_at, worker.ended_at
    stopped = 0 < incarnation <= worker.stopped_incarnation
    if incarnation and not stopped and (ended_at is None or ended_at < began_at(worker)):
        return StatusType.RUNNING, Reason.REPORTED, {"incarnation": incarnation}
    if (
        begun_at is not None
        and (ended_at is None or ended_at < begun_at)
        and not (stopped and worker.stopped_at >= begun_at)
    ):
        beaten_since = not incarnation and worker.seq >= begun_at
        status = StatusType.RUNNING if beaten_since else worker.begun_status
        assert status is not None
        return status, Reason.REPORTED, _dated(worker, begun_at) if begun_at else {}
    if stopped and (ended_at is None or worker.stopped_at >= ended_at):
        return StatusType.COMPLETE, Reason.GRACEFUL, {"incarnation": incarnation}
    if ended_at is not None:
        assert worker.ended_status is not None
        assert worker.ended_reason is not None
        return worker.ended_status, worker.ended_reason, _dated(worker, ended_at)
    return StatusType.CREATED, Reason.NEVER_BEAT, {}


def _dated(row: Worker | ServerInstance, at: int) -> Evidence:
    """The evidence of what counts at this time: its date as it was sent, since a StatusInfo may
    count later than that."""
    applied = row.reported.dated if row.reported else ()
    return {"as_of": utc_text(next((one.as_of for one in applied if one.counted_at == at), at))}


def claimed_at(instance: ServerInstance) -> Position:
    return (instance.claim_incarnation, instance.claim_seq)


def conclude_instance(instance: ServerInstance) -> Conclusion:
    """The conclusion from the reports alone, whatever the processor may have inferred."""
    evidence: Evidence
    if instance.end_status is not None:
        assert instance.end_reason is not None
        evidence = {} if instance.end_incarnation else _dated(instance, instance.end_seq)
        if instance.exit_code is not None:
            evidence["exit_code"] = instance.exit_code
        return instance.end_status, instance.end_reason, evidence
    assert instance.claim_status is not None
    said = _status_info_that_claims(instance)
    if said is None:
        return instance.claim_status, Reason.REPORTED, {}
    evidence = _dated(instance, instance.claim_seq)
    if said.reported_as:
        evidence["reported_as"] = said.reported_as
    return instance.claim_status, Reason.REPORTED, evidence


def _status_info_that_claims(instance: ServerInstance) -> Applied | None:
    """Return the StatusInfo that the claim is from. None for a claim by an inventory: those that
    repeat themselves move its position only when something else is merged, so it is no evidence."""
    if instance.reported is None or instance.claim_incarnation:
        return None
    applied = (*instance.reported.dated, *instance.reported.ahead)
    return next((one for one in applied if one.counted_at == instance.claim_seq), None)
