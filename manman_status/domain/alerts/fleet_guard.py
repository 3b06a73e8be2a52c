"""Much of a group fell silent at once: one incident, whatever becomes of each worker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.scene import Change, Scene, WorkerNow


class FleetGuard:
    """Open while the guard holds the group, and after that while workers that were lost in it are
    not back. When it holds the group again meanwhile, that is another incident."""

    name = "fleet_guard"

    def find(self, scene: Scene) -> Iterator[Finding]:
        for guard in scene.guards:
            group = f"group {guard.group}" if guard.group else "the workers without a group"
            key = _incident(guard.group, guard.opened_at)
            silent = guard.held + scene.parts_of(
                key
            )  # those that were given up meanwhile are parts of it
            yield Finding(
                key=key,
                rule=self.name,
                severity=Severity.CRITICAL,
                summary=(
                    f"{silent} of {guard.group_size} workers of {group} fell silent at once: look"
                    " at what they share (network, power, a deploy); if they are really gone,"
                    " `manman-status guard release`"
                ),
                subject=Subject(group=guard.group),
                evidence={
                    "silent": silent,
                    "held": guard.held,
                    "group_size": guard.group_size,
                    "is_releasing": guard.is_releasing,
                },
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        since = scene.holding_since.get(alert.subject.group or "")
        if since is not None and _incident(alert.subject.group or "", since) == alert.key:
            return None
        return None if scene.parts_of(alert.key) else "all of its workers are back or ended"


def incident_of(change: Change, worker: WorkerNow, scene: Scene) -> tuple[str, ...]:
    """The key of the incident in which this worker was lost, if any. The last of them are lost as
    the guard opens, so that it is no longer seen; one that is lost after that was not held, and its
    loss stands for itself."""
    since = change.held_since or scene.holding_since.get(worker.group)
    return () if since is None else (_incident(worker.group, since),)


def _incident(group: str, since: datetime) -> str:
    return f"{FleetGuard.name}:{group}:{since.isoformat()}"
