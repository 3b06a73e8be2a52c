"""An alert: one thing that a person should know of, from when it begins until it is over."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from manman_status.domain.rows import Evidence


class Severity(StrEnum):
    """Worst first. `critical` wakes somebody, `warning` is for today, `info` to be found when
    looked for."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


WEIGHT = {severity: weight for weight, severity in enumerate(reversed(Severity))}
"""Greater is worse."""


class AlertState(StrEnum):
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The group, worker, server instance or config that an alert is about; None where it is not
    about one. A `group` of None is the whole fleet, an empty one the workers without a group.
    `labels` are the worker's."""

    group: str | None = None
    worker_id: int | None = None
    instance_id: int | None = None
    game_server_config_id: int | None = None
    labels: dict[str, str] = {}


class NotifiedAlert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as it is now, with the version and severity that one channel was last notified of,
    and when; 0 and None before. `part_of` is the id of its cause, `parts` counts the alerts whose
    cause it is."""

    alert_id: int
    key: str
    rule: str
    severity: Severity
    state: AlertState
    version: int
    summary: str
    subject: Subject
    evidence: Evidence
    part_of: int | None
    parts: int
    opened_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None
    resolution: str | None
    silenced_by: str | None
    notified_version: int
    notified_severity: Severity | None
    notified_at: datetime | None

    @property
    def since(self) -> datetime:
        """The time at which its newest state began."""
        return self.resolved_at or self.opened_at
