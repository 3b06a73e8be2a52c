"""A worker is silent, or reported its own crash. Its servers went with it and are part of this one
alert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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


class Aftermath(msgspec.Struct, frozen=True):
    """Facts about workers that are gone, beyond the scene.

    `unlisted` is None while each has an alert of its own. `next_lives` are, by the id of a worker
    with an open alert, the workers that run on its host now: each start there has an id of its own.
    """

    unlisted: Unlisted | None = None
    next_lives: Mapping[int, int] = {}


# The next life may have begun before the last one was found to be silent. Hosts without the label
# are not read.
NEXT_LIVES = """
SELECT gone.worker_id, max(following.worker_id) AS next_id
  FROM unnest($1::bigint[]) AS open (worker_id)
  JOIN workers gone USING (worker_id)
  JOIN workers following
    ON following.labels @> jsonb_build_object('host', gone.labels ->> 'host')
   AND is_active(following.status) AND following.worker_id <> gone.worker_id
   AND following.created_date > gone.last_heartbeat
 GROUP BY gone.worker_id
"""


class WorkerLost(Rule[Aftermath]):
    """Critical when servers went with it: at once with a silent worker, a timeout later with one
    that crashed. Over when its events are received again, it stopped normally after all, or the
    next life of its host runs."""

    name = "worker_lost"
    causes = FleetGuard, Flapping
    unread = Aftermath()

    async def read(self, connection: Connection, scene: Scene) -> Aftermath:
        return Aftermath(
            await self._read_unlisted(connection, scene),
            await self._read_next_lives(connection, scene),
        )

    async def _read_unlisted(self, connection: Connection, scene: Scene) -> Unlisted | None:
        """Count the workers without an alert of their own since about when the alert that stands
        for them opened."""
        fold = scene.open.get(fold_key(self.name))
        if fold is None:
            return None
        row = await connection.fetchrow(
            UNLISTED, GONE, list(NOT_DRAINING), fold.opened_at, self.key("")
        )
        assert row is not None
        return Unlisted(*row)

    async def _read_next_lives(self, connection: Connection, scene: Scene) -> dict[int, int]:
        if not scene.has_open(WorkerLost):
            return {}
        on_hosts = [
            alert.subject.worker_id
            for alert in scene.open.values()
            if alert.rule == self.name and "host" in alert.subject.labels
        ]
        rows = await connection.fetch(NEXT_LIVES, on_hosts) if on_hosts else []
        return {row["worker_id"]: row["next_id"] for row in rows}

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
        if worker.status not in GONE:
            return f"it is {worker.status} now"
        following = scene.seen(WorkerLost).next_lives.get(worker.worker_id)
        return None if following is None else f"worker {following} runs on its host now"
