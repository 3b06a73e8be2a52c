"""Much of a group fell silent at once: one incident, whatever becomes of each worker."""

from __future__ import annotations

from collections.abc import Iterator

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.scene import Scene


class FleetGuard:
    """Open while the guard holds the group, and after that while workers that were lost in it are not back."""

    name = "fleet_guard"

    def find(self, scene: Scene) -> Iterator[Finding]:
        for guard in scene.guards:
            group = f"group {guard.group}" if guard.group else "the workers without a group"
            key = f"{self.name}:{guard.group}"
            silent = guard.held + scene.parts_of(key)  # those that were given up meanwhile are parts of it
            yield Finding(
                key=key,
                rule=self.name,
                severity=Severity.CRITICAL,
                summary=f"{silent} of {guard.group_size} workers of {group} fell silent at once: look at what they"
                " share (network, power, a deploy); if they are really gone, `manman-status guard release`",
                subject=Subject(group=guard.group),
                evidence={
                    "silent": silent,
                    "held": guard.held,
                    "group_size": guard.group_size,
                    "is_releasing": guard.is_releasing,
                },
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        if any(guard.group == alert.subject.group for guard in scene.guards):
            return None
        return None if scene.parts_of(alert.key) else "all of its workers are back or ended"
