"""A worker is silent, or reported its own crash. Its servers went with it and are part of this one
alert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from manman_status.alerts.rule import Finding, OpenAlert, Rule, fold_key
from manman_status.alerts.rules.flapping import Flapping
from manman_status.alerts.rules.fleet_guard import FleetGuard, incident_of
from manman_status.alerts.scene import Scene, WorkerNow
from manman_status.domain.alert import Severity, Subject
from manman_status.domain.labels import NOT_DRAINING
from manman_status.domain.rows import Evidence
from manman_status.domain.status import Entity, Reason, StatusType

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

GONE = (StatusType.LOST, StatusType.CRASHED)


class Unlisted(msgspec.Struct, frozen=True):
    """Workers that are lost or crashed without an alert of their own, and in how many groups."""

    workers: int
    groups: int


# Workers that were lost long before were judged before too.
UNLISTED = """
SELECT count(*) AS workers, count(DISTINCT coalesce(labels ->> 'group', '')) AS groups
  FROM workers w
 WHERE status = ANY($1::text[]) AND lower(coalesce(labels ->> 'drain', '')) = ANY($2::text[])
   AND status_since > $3::timestamptz - interval '1 hour'
   AND NOT EXISTS (SELECT FROM alerts a WHERE a.resolved_at IS NULL AND a.key = $4 || w.worker_id)
"""


class WorkerLost(Rule[Unlisted | None]):
    """Critical when servers went with it: at once with a silent worker, a timeout later with one
    that crashed. Over when its events are received again, or it stopped normally after all."""

    name = "worker_lost"
    causes = FleetGuard, Flapping

    async def read(self, connection: Connection, scene: Scene) -> Unlisted | None:
        """Lost and crashed workers without an alert of their own, since about when the alert that
        stands for them opened; None while each has its own."""
        fold = scene.open.get(fold_key(self.name))
        if fold is None:
            return None
        row = await connection.fetchrow(
            UNLISTED, GONE, list(NOT_DRAINING), fold.opened_at, self.key("")
        )
        assert row is not None
        return Unlisted(*row)

    def find(self, scene: Scene) -> Iterator[Finding]:
        left: Counter[int] = Counter()
        for change in scene.changes:
            worker = change.worker
            if worker is None or worker.is_draining:
                continue
            if change.was_left and worker.status is StatusType.CRASHED:
                left[worker.worker_id] += 1
            # The end of a worker that is LOST already is no news.
            if change.entity is Entity.WORKER and change.old_status is not StatusType.LOST:
                what = "crashed" if change.new_status is StatusType.CRASHED else "is silent"
                evidence: Evidence = {"since": change.at, "reason": change.reason}
                causes = (*incident_of(change, worker, scene), Flapping.key(worker.worker_id))
                yield self._finding(worker, what, change.lost_servers, evidence, causes)
        for worker_id, servers in left.items():
            key = self.key(worker_id)
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
            key=self.key(worker.worker_id),
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
