"""Much of a group went silent at once: one incident, whatever becomes of each worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

import msgspec

from manman_status.alerts.rule import OPEN_AT_ONCE, Finding, OpenAlert, Rule
from manman_status.alerts.scene import Change, Scene, WorkerNow
from manman_status.domain.alert import Severity, Subject

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class Held(msgspec.Struct, frozen=True):
    """A group that the fleet guard holds."""

    group: str
    held: int
    group_size: int
    is_releasing: bool
    holding_since: datetime


HELD = """
SELECT group_name, held, group_size, releasing_since IS NOT NULL, opened_at
  FROM guards
 ORDER BY opened_at, group_name
 LIMIT $1
"""


class FleetGuard(Rule[Mapping[str, Held]]):
    """The alert is open while the guard holds the group, and after that while workers that were
    lost in it are not back. When the guard holds the group again meanwhile, that is another
    incident."""

    name = "fleet_guard"
    unread: ClassVar[Mapping[str, Held]] = {}

    async def read(self, connection: Connection, scene: Scene) -> dict[str, Held]:  # noqa: ARG002
        """Held groups by name; of very many the oldest: those that have an alert already."""
        held = [Held(*row) for row in await connection.fetch(HELD, 2 * OPEN_AT_ONCE)]
        return {each.group: each for each in held}

    def find(self, scene: Scene) -> Iterator[Finding]:
        for guard in scene.seen(FleetGuard).values():
            group = f"group {guard.group}" if guard.group else "the workers without a group"
            key = _incident(guard)
            # Workers that were marked LOST meanwhile are parts of it.
            silent = guard.held + scene.parts_of(key)
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
        guard = scene.seen(FleetGuard).get(alert.subject.group or "")
        if guard is not None and _incident(guard) == alert.key:
            return None
        return None if scene.parts_of(alert.key) else "all of its workers are back or ended"


def incident_of(change: Change, worker: WorkerNow, scene: Scene) -> tuple[str, ...]:
    """The key of the incident in which this worker was lost, if any. The last workers are lost as
    the guard ceases to hold, when its row is gone; `held_since` names it then. A worker that is
    lost after that was not held, and its loss stands for itself."""
    if change.held_since is not None:
        return (FleetGuard.key(worker.group, change.held_since.isoformat()),)
    guard = scene.seen(FleetGuard).get(worker.group)
    return () if guard is None else (_incident(guard),)


def _incident(guard: Held) -> str:
    return FleetGuard.key(guard.group, guard.holding_since.isoformat())
