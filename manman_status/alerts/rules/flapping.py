"""A worker that is lost and found again and again: its network or its host, and not one more alert
each time.

The measure is that of Nagios and Sensu: of the last 21 states the share of changes, newer ones
weighing more. They take a state with each check; here nobody checks, so the last ten minutes are
cut into 20 equal steps, and a step in which the worker was lost or found is a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

import msgspec

from manman_status.alerts.rule import Finding, OpenAlert, Rule
from manman_status.alerts.rules.fleet_guard import FleetGuard, incident_of
from manman_status.alerts.scene import Scene
from manman_status.domain.alert import Severity, Subject
from manman_status.domain.status import Entity, StatusType

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

STATES = 21
STEPS = STATES - 1
FLAP_WINDOW = timedelta(minutes=10)
OLDEST_WEIGHS, NEWEST_WEIGHS = 0.8, 1.2
HIGH_PERCENT = 25.0
LOW_PERCENT = 10.0


class Flip(msgspec.Struct, frozen=True):
    """A worker became active, or was lost."""

    at: datetime
    is_up: bool


FLIPS = """
SELECT entity_id, at, new_status <> 'LOST' AS is_up
  FROM transitions
 WHERE entity = 'worker' AND entity_id = ANY($1::bigint[]) AND at > now() - $2::interval
   AND (old_status = 'LOST') <> (new_status = 'LOST')
 ORDER BY revision
"""


class Flapping(Rule[Mapping[int, Sequence[Flip]]]):
    """Begins above the high threshold and is over below the low one, so that the alert itself does
    not flap."""

    name = "flapping"
    causes = (FleetGuard,)
    unread: ClassVar[Mapping[int, Sequence[Flip]]] = {}

    async def read(self, connection: Connection, scene: Scene) -> dict[int, list[Flip]]:
        """Flips within `FLAP_WINDOW` of the workers that were lost now or flap, oldest first."""
        lost = {
            change.entity_id
            for change in scene.changes
            if change.entity is Entity.WORKER and change.new_status is StatusType.LOST
        }
        worker_ids = lost | {
            alert.subject.worker_id
            for alert in scene.open.values()
            if alert.rule == self.name and alert.subject.worker_id is not None
        }
        flips: dict[int, list[Flip]] = {}
        if worker_ids:
            for row in await connection.fetch(FLIPS, list(worker_ids), FLAP_WINDOW):
                flips.setdefault(row["entity_id"], []).append(Flip(row["at"], row["is_up"]))
        return flips

    def find(self, scene: Scene) -> Iterator[Finding]:
        flips = scene.seen(Flapping)
        for change in scene.changes:
            worker = change.worker
            if (
                change.entity is not Entity.WORKER
                or change.new_status is not StatusType.LOST
                or worker is None
            ):
                continue
            percent = changing_percent(flips.get(worker.worker_id, ()), scene.now)
            if percent >= HIGH_PERCENT:
                yield Finding(
                    key=self.key(worker.worker_id),
                    rule=self.name,
                    severity=Severity.WARNING,
                    summary=(
                        f"worker {worker.worker_id} is lost and found again and again: look at its"
                        " network and its load. Its losses are not told one by one until that is"
                        " over"
                    ),
                    subject=Subject(
                        group=worker.group, worker_id=worker.worker_id, labels=dict(worker.labels)
                    ),
                    evidence={
                        "changing_percent": round(percent, 1),
                        "flips": len(flips[worker.worker_id]),
                    },
                    causes=incident_of(change, worker, scene),
                )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        flips = scene.seen(Flapping).get(alert.subject.worker_id or 0, ())
        percent = changing_percent(flips, scene.now)
        return "it is steady" if percent <= LOW_PERCENT else None


def changing_percent(flips: Sequence[Flip], now: datetime) -> float:
    """The share of changes: 0 for a steady worker, 100 for one that changed in each step."""
    step = FLAP_WINDOW / STEPS
    changed = {
        int((now - flip.at) / step) for flip in flips if timedelta() <= now - flip.at < FLAP_WINDOW
    }
    weighed = sum(
        NEWEST_WEIGHS - (NEWEST_WEIGHS - OLDEST_WEIGHS) * age / (STEPS - 1) for age in changed
    )
    return weighed / STEPS * 100
