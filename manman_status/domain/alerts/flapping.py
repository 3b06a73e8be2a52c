"""A worker that is lost and found again and again: its network or its host, and not one more alert
each time.

The measure is that of Nagios and Sensu: of the last 21 states the share of changes, newer ones
weighing more. They take a state with each check; here nobody checks, so the last ten minutes are
cut into 20 equal steps, and a step in which the worker was lost or found is a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.fleet_guard import incident_of
from manman_status.domain.alerts.scene import Flip, Scene
from manman_status.domain.status import Entity, StatusType

STATES = 21
STEPS = STATES - 1
FLAP_WINDOW = timedelta(minutes=10)
OLDEST_WEIGHS, NEWEST_WEIGHS = 0.8, 1.2
HIGH_PERCENT = 25.0
LOW_PERCENT = 10.0


class Flapping:
    """Begins above the high threshold and is over below the low one, so that it does not flap
    itself."""

    name = "flapping"

    def find(self, scene: Scene) -> Iterator[Finding]:
        for change in scene.changes:
            worker = change.worker
            if (
                change.entity is not Entity.WORKER
                or change.new_status is not StatusType.LOST
                or worker is None
            ):
                continue
            percent = changing_percent(scene.flips.get(worker.worker_id, ()), scene.now)
            if percent >= HIGH_PERCENT:
                yield Finding(
                    key=f"{self.name}:{worker.worker_id}",
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
                        "flips": len(scene.flips[worker.worker_id]),
                    },
                    causes=incident_of(change, worker, scene),
                )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        percent = changing_percent(scene.flips.get(alert.subject.worker_id or 0, ()), scene.now)
        return "it is steady" if percent <= LOW_PERCENT else None


def changing_percent(flips: Sequence[Flip], now: datetime) -> float:
    """0 of a steady worker, 100 of one that changed in each step."""
    step = FLAP_WINDOW / STEPS
    changed = {
        int((now - flip.at) / step) for flip in flips if timedelta() <= now - flip.at < FLAP_WINDOW
    }
    weighed = sum(
        NEWEST_WEIGHS - (NEWEST_WEIGHS - OLDEST_WEIGHS) * age / (STEPS - 1) for age in changed
    )
    return weighed / STEPS * 100
