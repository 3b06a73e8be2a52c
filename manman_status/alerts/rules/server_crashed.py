"""A server instance ended that should run: with an exit code, or gone from its worker's inventory.

Servers of a lost worker that its next life no longer lists were part of that worker's alert.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from manman_status.alerts.rule import Finding, OpenAlert, Rule
from manman_status.alerts.rules.crash_loop import CrashLoop
from manman_status.alerts.rules.crashes import SERVER_CRASHED, is_crash
from manman_status.alerts.rules.worker_lost import GONE, WorkerLost
from manman_status.alerts.scene import Change, Scene
from manman_status.domain.alert import Severity, Subject
from manman_status.domain.status import ACTIVE, Reason, StatusType

QUIET = timedelta(minutes=10)


class ServerCrashed(Rule[None]):
    """A crash is no state: its alert is over when the server runs again, or some minutes later."""

    name = SERVER_CRASHED
    causes = WorkerLost, CrashLoop

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
            case _ if change.new_status is StatusType.LOST:
                why = "it was reported lost"
            case _:
                why = (
                    "it crashed"
                    if change.exit_code is None
                    else f"it ended with exit code {change.exit_code}"
                )
        loops = CrashLoop.key("config", config), CrashLoop.key("worker", worker_id)
        return Finding(
            key=self.key(change.entity_id),
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
            causes=(WorkerLost.key(worker_id), *loops) if change.was_left else loops,
        )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        status = scene.instances.get(alert.subject.instance_id or 0)
        if status is None:
            return "it is forgotten"
        if status in ACTIVE:
            return "it runs again"
        worker = scene.workers.get(alert.subject.worker_id or 0)
        if (
            alert.part_of == WorkerLost.key(alert.subject.worker_id)
            and worker is not None
            and worker.status not in GONE
        ):
            return f"its worker is {worker.status} now"
        return "it was told long enough" if scene.now - alert.opened_at >= QUIET else None
