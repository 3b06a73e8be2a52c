"""The whole sweep over rows in memory: a model that `store/sweep.py` is held to."""

from __future__ import annotations

from datetime import datetime, timedelta

from manman_status.domain.conclusions import crash_missing, is_abandoned, lose_instance
from manman_status.domain.guard import GuardState
from manman_status.domain.rows import Evidence, Rows, Worker
from manman_status.domain.status import TERMINAL, StatusType
from manman_status.domain.sweep import Guards, Horizon, SweepRules, sweep_workers


def sweep(
    rows: Rows, guards: Guards, horizon: Horizon, *, at: datetime, rules: SweepRules
) -> dict[str, GuardState]:
    """Conclude all that is due at this time of the database; the guards that hold afterwards, by
    group."""
    guards = sweep_workers(rows, guards, horizon, at=at, rules=rules)
    sweep_instances(rows, horizon, at=at, rules=rules)
    return guards


def sweep_instances(rows: Rows, horizon: Horizon, *, at: datetime, rules: SweepRules) -> None:
    observed: Evidence = {"observed_through": horizon.observed_through}
    for instance in list(rows.instances.values()):
        worker = rows.workers.get(instance.worker_id or 0)
        if worker is None:
            continue
        timeout = rules.timeout(worker)
        since = max(worker.status_since, instance.status_since)
        waited = instance.status is StatusType.LOST or horizon.is_silence(
            since, timeout, grace=rules.thresholds.recovery_grace_seconds
        )
        if is_abandoned(instance, worker) and waited:
            evidence: Evidence = {"worker_id": worker.worker_id, "worker_status": worker.status}
            has_ended = worker.status in TERMINAL
            lose_instance(rows, instance, at, evidence | observed, has_ended=has_ended)
            continue
        missing = instance.missing_since
        if has_rival(worker, horizon, rules):
            continue  # what one of two processes does not list may run on the other
        if missing is not None and horizon.is_silence(
            missing, timeout, grace=rules.thresholds.recovery_grace_seconds
        ):
            evidence = {"missing_since": missing, "deadline": missing + timedelta(seconds=timeout)}
            crash_missing(rows, instance, at, evidence | observed)


def has_rival(worker: Worker, horizon: Horizon, rules: SweepRules) -> bool:
    """True when another life of this worker beats too, or the row's own from its start
    (`domain/lives.py`)."""
    if worker.rival_beat_at is None or worker.rival_beat_at == worker.rival_since:
        return False
    return (
        worker.rival_beat_at + timedelta(seconds=rules.timeout(worker)) >= horizon.observed_through
    )
