"""A server instance ended that should run: with an exit code, or gone from its worker's inventory.

What a lost worker's next life no longer lists was part of that worker's alert already.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.scene import Change, Crash, Scene
from manman_status.domain.alerts.worker_lost import GONE
from manman_status.domain.status import ACTIVE, Entity, Reason, StatusType

QUIET = timedelta(minutes=10)
SAID = (Reason.REPORTED, Reason.EXIT_CODE)
"""Of the reasons of a crash those that its worker gave."""


class ServerCrashed:
    """A crash is no state: over when it runs again, or some minutes later."""

    name = "server_crashed"

    def find(self, scene: Scene) -> Iterator[Finding]:
        return (self._finding(change) for change in scene.changes if is_crash(change))

    def _finding(self, change: Change) -> Finding:
        worker, config = change.worker, change.game_server_config_id
        worker_id = None if worker is None else worker.worker_id
        of = "" if config is None else f" of config {config}"
        on = "" if worker is None else f" on worker {worker_id}"
        match change.reason:
            case Reason.MISSING_FROM_INVENTORY | Reason.SUPERSEDED:
                why = "its worker no longer lists it"
            case Reason.WORKER_LOST:
                why = "its worker ended and left it behind"
            case _:
                why = (
                    "it crashed"
                    if change.exit_code is None
                    else f"it ended with exit code {change.exit_code}"
                )
        loops = f"crash_loop:config:{config}", f"crash_loop:worker:{worker_id}"
        return Finding(
            key=f"{self.name}:{change.entity_id}",
            rule=self.name,
            severity=Severity.WARNING,
            summary=f"server {change.entity_id}{of}{on}: {why}; look at its log on the worker",
            subject=Subject(
                group=None if worker is None else worker.group,
                worker_id=worker_id,
                instance_id=change.entity_id,
                game_server_config_id=config,
                labels={} if worker is None else dict(worker.labels),
            ),
            evidence={"at": change.at, "reason": change.reason, "exit_code": change.exit_code},
            causes=(f"worker_lost:{worker_id}", *loops) if change.was_left else loops,
        )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        status = scene.instances.get(alert.subject.instance_id or 0)
        if status is None:
            return "it is forgotten"
        if status in ACTIVE:
            return "it runs again"
        worker = scene.workers.get(alert.subject.worker_id or 0)
        if (
            alert.part_of == f"worker_lost:{alert.subject.worker_id}"
            and worker is not None
            and worker.status not in GONE
        ):
            return (
                f"its worker is {worker.status} now"  # what went with a worker ends with that alert
            )
        return "it was told long enough" if scene.now - alert.opened_at >= QUIET else None


def is_crash(change: Change) -> bool:
    """Not what was lost with its worker before, and not what a worker that is being emptied has
    dropped."""
    if change.entity is not Entity.SERVER_INSTANCE or change.old_status is StatusType.LOST:
        return False
    if change.new_status is StatusType.CRASHED and change.reason in SAID:
        return True
    dropped = change.new_status is StatusType.CRASHED or change.was_left
    return dropped and not (change.worker is not None and change.worker.is_draining)


def crash_of(change: Change) -> Crash:
    worker_id = None if change.worker is None else change.worker.worker_id
    return Crash(change.at, worker_id, change.game_server_config_id, change.reason not in SAID)
