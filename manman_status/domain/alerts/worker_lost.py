"""A worker is silent, or said itself that it crashed. Its servers went with it and are part of this one alert."""

from __future__ import annotations

from collections.abc import Iterator

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.fleet_guard import incident_of
from manman_status.domain.alerts.scene import Change, Scene, WorkerNow
from manman_status.domain.status import Entity, StatusType

GONE = (StatusType.LOST, StatusType.CRASHED)


class WorkerLost:
    """Critical when servers went with it. Over when it is heard again, or ended in good order after all."""

    name = "worker_lost"

    def find(self, scene: Scene) -> Iterator[Finding]:
        for change in scene.changes:
            worker = change.worker
            if change.entity is not Entity.WORKER or worker is None or worker.is_draining:
                continue
            if change.old_status is not StatusType.LOST:  # its end, said late, is nothing new of one that is lost
                yield self._finding(change, worker, scene)

    def _finding(self, change: Change, worker: WorkerNow, scene: Scene) -> Finding:
        what = "crashed" if change.new_status is StatusType.CRASHED else "is silent"
        servers = change.lost_servers
        cost = f", and {servers} of its servers with it" if servers else ""
        return Finding(
            key=f"{self.name}:{worker.worker_id}",
            rule=self.name,
            severity=Severity.CRITICAL if servers else Severity.WARNING,
            summary=f"worker {worker.worker_id} {what}{cost}: look at its host and process, and start it again",
            subject=Subject(group=worker.group, worker_id=worker.worker_id, labels=dict(worker.labels)),
            evidence={"since": change.at, "reason": change.reason, "lost_servers": servers},
            causes=(*incident_of(change, worker, scene), f"flapping:{worker.worker_id}"),
        )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        worker = scene.workers.get(alert.subject.worker_id or 0)
        if worker is None:
            return "it is forgotten"
        return None if worker.status in GONE else f"it is {worker.status} now"
