"""The sweep of workers over rows in memory, for `what-if` and the model of the tests.

The leader sweeps in SQL (`store/sweep.py`) by the same rules; a test holds the two together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

from manman_status.domain.conclusions import lose_worker
from manman_status.domain.guard import Group, GuardRules, GuardState, judge_groups
from manman_status.domain.liveness import Thresholds
from manman_status.domain.rows import Evidence, Rows, Worker
from manman_status.domain.status import ACTIVE, Reason, StatusType


class SweepRules(msgspec.Struct, frozen=True):
    """The rules of the sweep: when a worker is overdue, and when the guard holds it all the
    same."""

    thresholds: Thresholds
    guard: GuardRules

    def timeout(self, worker: Worker) -> float:
        return self.thresholds.timeout(worker.interval_seconds)


class Horizon(msgspec.Struct, frozen=True):
    """The time up to which the fleet was observed, and since when without a gap."""

    observed_through: datetime
    resumed_at: datetime

    def is_silence(self, since: datetime, timeout: float, *, grace: float) -> bool:
        """True when silence since then counts: it was observed to the end of the timeout, and the
        observation has had no gap for long enough."""
        longest = max(timeout, grace)
        return (
            since + timedelta(seconds=timeout) < self.observed_through
            and self.resumed_at + timedelta(seconds=longest) < self.observed_through
        )


Guards = Mapping[str, GuardState]


def sweep_workers(
    rows: Rows, guards: Guards, horizon: Horizon, *, at: datetime, rules: SweepRules
) -> dict[str, GuardState]:
    overdue = [
        worker
        for worker in watched(rows.workers.values())
        if worker.last_heartbeat is not None
        and horizon.is_silence(
            worker.last_heartbeat,
            rules.timeout(worker),
            grace=rules.thresholds.recovery_grace_seconds,
        )
    ]
    if not overdue and not guards:
        return {}
    recently = at - timedelta(seconds=max(map(rules.timeout, overdue), default=0.0))
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
            evidence["held_since"] = guard.holding_since
        lose_worker(rows, worker, at, {**evidence, "observed_through": observed})
    return {name: verdict.guard for name, verdict in verdicts.items() if verdict.guard is not None}


def watched(workers: Iterable[Worker]) -> Iterable[Worker]:
    """The active workers that have sent a heartbeat."""
    return (
        worker
        for worker in workers
        if worker.status in ACTIVE and worker.last_heartbeat is not None
    )


def deadline(worker: Worker, rules: SweepRules) -> datetime:
    """The end of a watched worker's timeout."""
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
            late = timedelta(seconds=rules.thresholds.late_after(worker.interval_seconds))
            group.alive += 1
            group.silent += worker.last_heartbeat + late < horizon.observed_through
        elif (
            worker.status is StatusType.LOST
            and worker.reason is Reason.HEARTBEAT_EXPIRED
            and "held_since" not in worker.evidence
        ):
            group.lost_recently += worker.status_since > recently
    return groups
