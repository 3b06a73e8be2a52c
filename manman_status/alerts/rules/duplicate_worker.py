"""Two processes beat as one worker: a host was copied, or a worker started twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

import msgspec

from manman_status.alerts.rule import OPEN_AT_ONCE, Finding, OpenAlert, Rule
from manman_status.alerts.scene import Scene, WorkerNow
from manman_status.domain.alert import Severity, Subject
from manman_status.domain.rows import Evidence
from manman_status.domain.status import StatusType

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class Duplicate(msgspec.Struct, frozen=True):
    """A worker as which two processes have beaten for one timeout, and still do, `since` the second
    was received."""

    worker: WorkerNow
    incarnation: int
    rival_incarnation: int
    rival_labels: Mapping[str, str]
    since: datetime


# Both have beaten for a timeout, and neither has been silent for one since.
DUPLICATES = """
SELECT worker_id, status, labels, incarnation, rival_incarnation, rival_labels, rival_since
  FROM (
        SELECT *, least(rival_beat_at, own_beat_at) AS both_until,
               interval '1 second' * (
                   SELECT timeout_seconds FROM worker_health h WHERE h.worker_id = w.worker_id
               ) AS timeout
          FROM workers w
         WHERE rival_since IS NOT NULL AND own_beat_at IS NOT NULL
           AND rival_incarnation <> incarnation AND least(rival_incarnation, incarnation) > 0
       ) AS rivals
 WHERE both_until - rival_since >= timeout
   AND both_until + timeout >= coalesce((SELECT observed_through FROM observation WHERE id = 1),
       now())
 ORDER BY rival_since, worker_id
 LIMIT $1
"""


class DuplicateWorker(Rule[Mapping[int, Duplicate]]):
    """Opens when both have beaten for one timeout. Over when only one has beaten for one
    timeout."""

    name = "duplicate_worker"
    unread: ClassVar[Mapping[int, Duplicate]] = {}

    async def read(
        self,
        connection: Connection,
        scene: Scene,  # noqa: ARG002
    ) -> dict[int, Duplicate]:
        """Duplicates by worker; of very many the oldest: those that have an alert already."""
        rows = await connection.fetch(DUPLICATES, 2 * OPEN_AT_ONCE)
        return {
            row["worker_id"]: Duplicate(
                WorkerNow(row["worker_id"], StatusType(row["status"]), row["labels"]),
                row["incarnation"],
                row["rival_incarnation"],
                row["rival_labels"],
                row["rival_since"],
            )
            for row in rows
        }

    def find(self, scene: Scene) -> Iterator[Finding]:
        for duplicate in scene.seen(DuplicateWorker).values():
            worker = duplicate.worker
            differing = differing_labels(duplicate)
            where = "".join(
                f", {name} {' and '.join(values)}"
                for name, values in differing.items()
                if all(values)
            )
            evidence: Evidence = {
                "incarnation": duplicate.incarnation,
                "other_incarnation": duplicate.rival_incarnation,
                "differing_labels": differing,
                "since": duplicate.since,
            }
            yield Finding(
                key=self.key(worker.worker_id),
                rule=self.name,
                severity=Severity.WARNING,
                summary=(
                    f"two processes beat as worker {worker.worker_id} (incarnations"
                    f" {duplicate.incarnation} and {duplicate.rival_incarnation}{where}): stop one,"
                    " or give it an id of its own"
                ),
                subject=Subject(
                    group=worker.group, worker_id=worker.worker_id, labels=dict(worker.labels)
                ),
                evidence=evidence,
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        return (
            None
            if (alert.subject.worker_id or 0) in scene.seen(DuplicateWorker)
            else "no two processes beat as it now"
        )


def differing_labels(duplicate: Duplicate) -> dict[str, tuple[str, str]]:
    """Labels with different values in the two processes: the row's process first, "" where a
    process has none."""
    own, other = duplicate.worker.labels, duplicate.rival_labels
    pairs = {name: (own.get(name, ""), other.get(name, "")) for name in sorted({*own, *other})}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}
