"""The statuses that the service must show, given the truth, once it has received all that was sent
before `as_of`."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from manman_status.domain.status import Reason, StatusType
from manman_status.lab.simulator.truth import ServerTruth, SilentSpan, WorkerTruth

MARGIN_SECONDS = 1.0
"""Tolerance for the difference of two clocks, and of the times of sending and confirming."""
ALLOWED_DELAY_SECONDS = 10.0
"""Time that a conclusion may take after it is due: monitoring counts as ok up to 5 s behind, and
another processor leads within 5 s of a leader's death."""

Accepted: TypeAlias = tuple[StatusType, frozenset[Reason]]

RUNS: Accepted = (
    StatusType.RUNNING,
    frozenset({Reason.REPORTED, Reason.RECOVERED, Reason.CLOCK_WENT_BACK}),
)
LOST_WITH_ITS_WORKER: Accepted = (StatusType.LOST, frozenset({Reason.WORKER_LOST}))
SUPERSEDED: Accepted = (
    StatusType.CRASHED,
    frozenset({Reason.SUPERSEDED, Reason.WORKER_LOST}),  # the latter when the next life has ended
)
REPORTED_ENDS: dict[StatusType, Accepted] = {
    StatusType.COMPLETE: (StatusType.COMPLETE, frozenset({Reason.GRACEFUL})),
    StatusType.CRASHED: (StatusType.CRASHED, frozenset({Reason.EXIT_CODE})),
}


class Moment(msgspec.Struct, frozen=True):
    """A point in time at which answers are judged. Since `ready_at` neither a recovery grace nor a
    guard holds silent workers back."""

    as_of: float
    ready_at: float
    timeout_seconds: float


def must_live(worker: WorkerTruth, moment: Moment) -> bool:
    received = (
        worker.received_since is not None and worker.received_since < moment.as_of - MARGIN_SECONDS
    )
    return (
        received
        and not worker.is_ending
        and not is_overdue(worker, moment, seconds=-MARGIN_SECONDS)
    )


def is_overdue(worker: WorkerTruth, moment: Moment, *, seconds: float = 0.0) -> bool:
    """True when the worker was silent for its timeout and `seconds` more."""
    return worker.silent_since() + moment.timeout_seconds + seconds < moment.as_of


def must_be_lost(worker: WorkerTruth, moment: Moment) -> bool:
    ready = moment.ready_at + ALLOWED_DELAY_SECONDS < moment.as_of
    return (
        ready and not worker.is_ending and is_overdue(worker, moment, seconds=ALLOWED_DELAY_SECONDS)
    )


def explaining_span(
    worker: WorkerTruth, lost_at: float, *, timeout_seconds: float, lag_seconds: float
) -> SilentSpan | None:
    """The silence that explains a LOST at `lost_at`; None when there was none. Monitoring was
    `lag_seconds` behind, so the silence may have ended that long before."""
    shortest = timeout_seconds - MARGIN_SECONDS
    for span in worker.all_silent_spans():
        if span.seconds >= shortest and (
            span.begun + shortest <= lost_at <= span.ended + lag_seconds + MARGIN_SECONDS
        ):
            return span
    return None


def accepted(server: ServerTruth, worker: WorkerTruth, moment: Moment) -> tuple[Accepted, ...]:
    """The statuses that may be shown now. The last one is final if nothing more happens."""
    if server.status in REPORTED_ENDS:
        return (REPORTED_ENDS[server.status],)
    if server.life < worker.life:
        return _accepted_of_orphan(server, worker, moment)
    if must_live(worker, moment):
        return (RUNS,)
    if _is_lost_with_worker(server, worker, moment):
        return (LOST_WITH_ITS_WORKER,)
    return (
        (RUNS, LOST_WITH_ITS_WORKER) if is_overdue(worker, moment) else (LOST_WITH_ITS_WORKER, RUNS)
    )


def _accepted_of_orphan(
    server: ServerTruth, worker: WorkerTruth, moment: Moment
) -> tuple[Accepted, ...]:
    """The accepted statuses of an instance whose life ended unreported: LOST with its worker or not
    yet, and superseded one timeout after the inventories of the next life began."""
    ends = (LOST_WITH_ITS_WORKER, SUPERSEDED)
    if must_live(worker, moment) and worker.listing_since is not None:
        begun = max(worker.listing_since, moment.ready_at)
        if begun + moment.timeout_seconds + ALLOWED_DELAY_SECONDS < moment.as_of:
            return (SUPERSEDED,)
    return ends if _is_lost_with_worker(server, worker, moment) else (RUNS, *ends)


def _is_lost_with_worker(server: ServerTruth, worker: WorkerTruth, moment: Moment) -> bool:
    """True when the instance must be LOST with its worker. An instance whose start arrived after
    the worker was LOST follows one timeout later."""
    if not must_be_lost(worker, moment):
        return False
    lost_at = worker.silent_since() + moment.timeout_seconds
    came_late = server.since is not None and server.since > lost_at - MARGIN_SECONDS
    return not came_late or max(
        server.since or 0.0, lost_at
    ) + moment.timeout_seconds + ALLOWED_DELAY_SECONDS < (moment.as_of)
