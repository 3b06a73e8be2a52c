"""A worker is silent, or said itself that it crashed. Its servers went with it and are part of this
one alert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.fleet_guard import incident_of
from manman_status.domain.alerts.scene import Scene, WorkerNow
from manman_status.domain.rows import Evidence
from manman_status.domain.status import Entity, Reason, StatusType

GONE = (StatusType.LOST, StatusType.CRASHED)


class WorkerLost:
    """Critical when servers went with it: at once with a silent one, a timeout later with one that
    crashed. Over when it is heard again, or ended in good order after all."""

    name = "worker_lost"

    def find(self, scene: Scene) -> Iterator[Finding]:
        left: Counter[int] = Counter()
        for change in scene.changes:
            worker = change.worker
            if worker is None or worker.is_draining:
                continue
            if change.was_left and worker.status is StatusType.CRASHED:
                left[worker.worker_id] += 1
            if (
                change.entity is Entity.WORKER and change.old_status is not StatusType.LOST
            ):  # that one's end is no news
                what = "crashed" if change.new_status is StatusType.CRASHED else "is silent"
                evidence: Evidence = {"since": change.at, "reason": change.reason}
                causes = (*incident_of(change, worker, scene), f"flapping:{worker.worker_id}")
                yield self._finding(worker, what, change.lost_servers, evidence, causes)
        for worker_id, servers in left.items():
            key = f"{self.name}:{worker_id}"
            if (known := scene.open.get(key)) is not None:
                evidence = {"since": known.opened_at, "reason": Reason.REPORTED}
                before = scene.parts_of(key)
                yield self._finding(scene.workers[worker_id], "crashed", before + servers, evidence)

    def _finding(
        self,
        worker: WorkerNow,
        what: str,
        servers: int,
        evidence: Evidence,
        causes: tuple[str, ...] = (),
    ) -> Finding:
        cost = f", and {servers} of its servers with it" if servers else ""
        return Finding(
            key=f"{self.name}:{worker.worker_id}",
            rule=self.name,
            severity=Severity.CRITICAL if servers else Severity.WARNING,
            summary=(
                f"worker {worker.worker_id} {what}{cost}: look at its host and process, and start"
                " it again"
            ),
            subject=Subject(
                group=worker.group, worker_id=worker.worker_id, labels=dict(worker.labels)
            ),
            evidence=evidence | {"lost_servers": servers},
            causes=causes,
        )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        worker = scene.workers.get(alert.subject.worker_id or 0)
        if worker is None:
            return "it is forgotten"
        return None if worker.status in GONE else f"it is {worker.status} now"
