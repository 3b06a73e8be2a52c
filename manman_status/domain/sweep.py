"""The sweep over rows in memory: what silence leads to, given how far the fleet was observed.

The same rules stand in SQL in `store/sweep.py`, which `processor/leader/sweep.py` drives; a test
holds the two together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

from manman_status.domain.conclusions import crash_missing, lose_instance, lose_worker
from manman_status.domain.guard import Group, GuardRules, GuardState, judge_groups
from manman_status.domain.liveness import MISSED_BEATS_TO_BE_LATE, timeout_seconds
from manman_status.domain.rows import Evidence, Rows, Worker
from manman_status.domain.status import ACTIVE, Reason, StatusType


class SweepRules(msgspec.Struct, frozen=True):
    """Seconds, as in the settings of the same names."""

    default_interval: float
    minimum_timeout: float
    grace: float
    guard: GuardRules

    def interval(self, worker: Worker) -> float:
        return self.default_interval if worker.interval_seconds is None else worker.interval_seconds

    def timeout(self, worker: Worker) -> float:
        return timeout_seconds(self.interval(worker), minimum_seconds=self.minimum_timeout)


class Horizon(msgspec.Struct, frozen=True):
    """Up to when the fleet was observed, and since when without a gap."""

    observed_through: datetime
    resumed_at: datetime

    def is_silence(self, since: datetime, timeout: float, *, grace: float) -> bool:
        """Whether nothing since then counts: observed to the end of the timeout, and long enough
        since observing resumed."""
        longest = max(timeout, grace)
        return (
            since + timedelta(seconds=timeout) < self.observed_through
            and self.resumed_at + timedelta(seconds=longest) < self.observed_through
        )


Guards = Mapping[str, GuardState]


def sweep(
    rows: Rows, guards: Guards, horizon: Horizon, *, at: datetime, rules: SweepRules
) -> dict[str, GuardState]:
    """Conclude all that is due at this time of the database; the guards that hold afterwards, by
    group."""
    guards = sweep_workers(rows, guards, horizon, at=at, rules=rules)
    sweep_instances(rows, horizon, at=at, rules=rules)
    return guards


def sweep_workers(
    rows: Rows, guards: Guards, horizon: Horizon, *, at: datetime, rules: SweepRules
) -> dict[str, GuardState]:
    overdue = [
        worker
        for worker in watched(rows.workers.values())
        if worker.last_heartbeat is not None
        and horizon.is_silence(worker.last_heartbeat, rules.timeout(worker), grace=rules.grace)
    ]
    if not overdue and not guards:
        return {}
    recently = at - timedelta(
        seconds=max(map(rules.timeout, overdue), default=rules.minimum_timeout)
    )
    silent: dict[str, list[Worker]] = {}
    for worker in sorted(overdue, key=lambda worker: (deadline(worker, rules), worker.worker_id)):
        silent.setdefault(group_of(worker), []).append(worker)
    groups = _count_groups(rows, horizon, recently=recently, rules=rules)
    for name, workers in silent.items():
        groups[name].overdue = len(workers)
        groups[name].draining = sum(worker.is_draining for worker in workers)
    observed = horizon.observed_through
    verdicts = judge_groups(groups, guards, observed=observed, rules=rules.guard)
    for worker in [
        one for name, verdict in verdicts.items() for one in silent.get(name, ())[: verdict.lose]
    ]:
        evidence: Evidence = {
            "last_heartbeat": worker.last_heartbeat,
            "deadline": deadline(worker, rules),
        }
        if (guard := guards.get(group_of(worker))) is not None:
            evidence["held_since"] = guard.opened_at
        lose_worker(rows, worker, at, {**evidence, "observed_through": observed})
    return {name: verdict.guard for name, verdict in verdicts.items() if verdict.guard is not None}


def sweep_instances(rows: Rows, horizon: Horizon, *, at: datetime, rules: SweepRules) -> None:
    observed: Evidence = {"observed_through": horizon.observed_through}
    for instance in list(rows.instances.values()):
        worker = rows.workers.get(instance.worker_id or 0)
        if worker is None:
            continue
        timeout = rules.timeout(worker)
        since = max(worker.status_since, instance.status_since)
        is_abandoned = instance.status in ACTIVE and worker.status not in ACTIVE
        if is_abandoned and horizon.is_silence(since, timeout, grace=rules.grace):
            evidence: Evidence = {"worker_id": worker.worker_id, "worker_status": worker.status}
            lose_instance(rows, instance, at, evidence | observed)
            continue
        missing = instance.missing_since
        if has_rival(worker, horizon, rules):
            continue  # what one of two processes does not list may run on the other
        if missing is not None and horizon.is_silence(missing, timeout, grace=rules.grace):
            evidence = {"missing_since": missing, "deadline": missing + timedelta(seconds=timeout)}
            crash_missing(rows, instance, at, evidence | observed)


def watched(workers: Iterable[Worker]) -> Iterable[Worker]:
    """Those who live and have promised to beat."""
    return (
        worker
        for worker in workers
        if worker.status in ACTIVE and worker.last_heartbeat is not None
    )


def has_rival(worker: Worker, horizon: Horizon, rules: SweepRules) -> bool:
    """Whether another life of this worker beats too, or the row's own from its start
    (`domain/lives.py`)."""
    if worker.rival_beat_at is None or worker.rival_beat_at == worker.rival_since:
        return False
    return (
        worker.rival_beat_at + timedelta(seconds=rules.timeout(worker)) >= horizon.observed_through
    )


def deadline(worker: Worker, rules: SweepRules) -> datetime:
    """Of a watched worker."""
    assert worker.last_heartbeat is not None
    return worker.last_heartbeat + timedelta(seconds=rules.timeout(worker))


def group_of(worker: Worker) -> str:
    return worker.labels.get("group", "")


def _count_groups(
    rows: Rows, horizon: Horizon, *, recently: datetime, rules: SweepRules
) -> defaultdict[str, Group]:
    groups: defaultdict[str, Group] = defaultdict(Group)
    for worker in rows.workers.values():
        if worker.is_draining:
            continue
        group = groups[group_of(worker)]
        if worker.status in ACTIVE and worker.last_heartbeat is not None:
            late = timedelta(seconds=MISSED_BEATS_TO_BE_LATE * rules.interval(worker))
            group.alive += 1
            group.silent += worker.last_heartbeat + late < horizon.observed_through
        elif (
            worker.status is StatusType.LOST
            and worker.reason is Reason.HEARTBEAT_EXPIRED
            and "held_since" not in worker.evidence
        ):
            group.lost_recently += worker.status_since > recently
    return groups
