"""What the service must show, by the truth, once it has observed all that was sent before
`as_of`."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from manman_status.domain.status import Reason, StatusType
from manman_status.lab.simulator.truth import ServerTruth, Silence, WorkerTruth

MARGIN_SECONDS = 1.0
"""How far the two clocks, and the moments of sending and confirming, are trusted."""
ALLOWED_DELAY_SECONDS = 10.0
"""For a conclusion, after it is due: an observation counts as good up to 5 s behind, and when the
leader dies another follows within 5 s."""

Accepted: TypeAlias = tuple[StatusType, frozenset[Reason]]

RUNS: Accepted = (
    StatusType.RUNNING,
    frozenset({Reason.REPORTED, Reason.RECOVERED, Reason.CLOCK_WENT_BACK}),
)
LOST_WITH_ITS_WORKER: Accepted = (StatusType.LOST, frozenset({Reason.WORKER_LOST}))
SUPERSEDED: Accepted = (StatusType.CRASHED, frozenset({Reason.SUPERSEDED}))
REPORTED_ENDS: dict[StatusType, Accepted] = {
    StatusType.COMPLETE: (StatusType.COMPLETE, frozenset({Reason.GRACEFUL})),
    StatusType.CRASHED: (StatusType.CRASHED, frozenset({Reason.EXIT_CODE})),
}


class Moment(msgspec.Struct, frozen=True):
    """`ready_at` is since when neither a grace nor a guard holds back who is silent."""

    as_of: float
    ready_at: float
    timeout_seconds: float


def must_live(worker: WorkerTruth, moment: Moment) -> bool:
    heard = worker.heard_since is not None and worker.heard_since < moment.as_of - MARGIN_SECONDS
    return (
        heard and not worker.is_ending and not is_overdue(worker, moment, seconds=-MARGIN_SECONDS)
    )


def is_overdue(worker: WorkerTruth, moment: Moment, *, seconds: float = 0.0) -> bool:
    """Silent for its timeout and so many seconds."""
    return worker.silent_since() + moment.timeout_seconds + seconds < moment.as_of


def must_be_lost(worker: WorkerTruth, moment: Moment) -> bool:
    ready = moment.ready_at + ALLOWED_DELAY_SECONDS < moment.as_of
    return (
        ready and not worker.is_ending and is_overdue(worker, moment, seconds=ALLOWED_DELAY_SECONDS)
    )


def explaining_silence(
    worker: WorkerTruth, lost_at: float, *, timeout_seconds: float, lag_seconds: float
) -> Silence | None:
    """The silence that a LOST of that time was concluded from; None when there was none. It was
    concluded from what had been observed, so the silence may have ended up to `lag_seconds`
    before."""
    shortest = timeout_seconds - MARGIN_SECONDS
    for silence in worker.all_silences():
        if silence.seconds >= shortest and (
            silence.begun + shortest <= lost_at <= silence.ended + lag_seconds + MARGIN_SECONDS
        ):
            return silence
    return None


def accepted(server: ServerTruth, worker: WorkerTruth, moment: Moment) -> tuple[Accepted, ...]:
    """What may be shown now, and nothing else. Of several the last is what it will be, if nothing
    more happens."""
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
    """Left behind by a life that ended without a word: LOST with it or not yet, and given up one
    timeout after the next life's inventories began."""
    ends = (LOST_WITH_ITS_WORKER, SUPERSEDED)
    if must_live(worker, moment) and worker.listing_since is not None:
        begun = max(worker.listing_since, moment.ready_at)
        if begun + moment.timeout_seconds + ALLOWED_DELAY_SECONDS < moment.as_of:
            return (SUPERSEDED,)
    return ends if _is_lost_with_worker(server, worker, moment) else (RUNS, *ends)


def _is_lost_with_worker(server: ServerTruth, worker: WorkerTruth, moment: Moment) -> bool:
    """Its start may have arrived when the worker was lost already: then it is given up one timeout
    later."""
    if not must_be_lost(worker, moment):
        return False
    lost_at = worker.silent_since() + moment.timeout_seconds
    came_late = server.since is not None and server.since > lost_at - MARGIN_SECONDS
    return not came_late or max(
        server.since or 0.0, lost_at
    ) + moment.timeout_seconds + ALLOWED_DELAY_SECONDS < (moment.as_of)
