"""What reports make of a worker: lives that begin and end, and the one conclusion from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from manman_status.domain.events import Event, WorkerStopped
from manman_status.domain.lives import began_at, follow, forget_rival, of_row
from manman_status.domain.rows import (
    STATUS_RANK,
    Conclusion,
    Evidence,
    Receipt,
    Rows,
    Transition,
    Worker,
    outcome,
)
from manman_status.domain.status import ACTIVE, TERMINAL, Entity, Reason, StatusType

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def know_worker(rows: Rows, worker_id: int, receipt: Receipt) -> Worker:
    worker = rows.workers.get(worker_id)
    if worker is None:
        worker = Worker(
            worker_id=worker_id,
            created_date=receipt.at,
            status_since=receipt.at,
            received_at=receipt.at,
        )
        rows.workers[worker_id] = worker
        rows.changed_workers.add(worker_id)
    return worker


def hear(worker: Worker, receipt: Receipt) -> None:
    """Transactions do not end in the order in which they began: one that hung takes nothing
    back."""
    worker.last_heartbeat = max(worker.last_heartbeat or receipt.at, receipt.at)


def stop(worker: Worker, event: WorkerStopped, receipt: Receipt) -> None:
    if event.incarnation is None:
        report_status(
            worker, event, StatusType.COMPLETE, event.time(receipt.order), Reason.GRACEFUL
        )
        return
    if event.incarnation == worker.rival_incarnation != worker.incarnation:
        forget_rival(worker)
    event = of_row(worker, event)
    assert event.incarnation is not None
    follow(worker, event.incarnation, receipt)
    # Without a time of its own the end is as old as its life, so that a late copy cannot end a
    # later one.
    ended_at = min(event.incarnation, receipt.order) if event.sent_at is None else event.sent_at
    stopped = (event.incarnation, ended_at, event.seq or 0)
    stopped = max((worker.stopped_incarnation, worker.stopped_at, worker.stopped_seq), stopped)
    worker.stopped_incarnation, worker.stopped_at, worker.stopped_seq = stopped


SAME_CLOCK = 3_600 * 1_000_000
"""µs. Dates that are too far ahead are of one clock, and comparable, when they differ by less."""


def report_status(
    worker: Worker, event: Event, status: StatusType, at: int, reason: Reason
) -> bool:
    """A life begun or ended by time. True when nothing newer of its kind was known."""
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
    """What the reports say, whatever the processor itself may have inferred from silence.

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
        return status, Reason.REPORTED, {"as_of": _as_of(worker, begun_at)} if begun_at else {}
    if stopped and (ended_at is None or worker.stopped_at >= ended_at):
        return StatusType.COMPLETE, Reason.GRACEFUL, {"incarnation": incarnation}
    if ended_at is not None:
        assert worker.ended_status is not None
        assert worker.ended_reason is not None
        return worker.ended_status, worker.ended_reason, {"as_of": _as_of(worker, ended_at)}
    return StatusType.CREATED, Reason.NEVER_BEAT, {}


def microseconds(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def _as_of(worker: Worker, at: int) -> str:
    """The date as it was sent: a StatusInfo may count later than that."""
    applied = worker.reported.dated if worker.reported else ()
    at = next((one.as_of for one in applied if one.counted_at == at), at)
    return (EPOCH + timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")


def settle_worker(
    rows: Rows, worker: Worker, receipt: Receipt, *, fresh: bool, passed: Evidence | None = None
) -> None:
    """Bring the status up to the registers. `passed` is the life that the row's own has just taken
    it over from."""
    reported = conclude_worker(worker)
    if passed is not None and reported[0] in ACTIVE:
        reported = (reported[0], Reason.CLOCK_WENT_BACK, reported[2] | passed)
    settled = outcome(worker, reported, fresh=fresh)
    if settled is None:
        return
    status, reason, evidence = settled
    rows.changed_workers.add(worker.worker_id)
    if status != worker.status:
        if worker.status in TERMINAL and worker.last_heartbeat is not None:
            hear(worker, receipt)  # the silence before a new life is not this life's
        rows.transitions.append(
            Transition(Entity.WORKER, worker.worker_id, worker.status, status, reason, evidence)
        )
        worker.status = status
        worker.status_since = receipt.at
        worker.end_date = receipt.at if status in TERMINAL else None
    worker.reason, worker.evidence = reason, evidence
