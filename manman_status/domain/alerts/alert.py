"""What an alert is: one thing that a person should know of, from when it begins until it is
over."""

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
    """What an alert is about, as far as it is about one. A `group` of None is the whole fleet, an
    empty one the workers without a group. `labels` are the worker's."""

    group: str | None = None
    worker_id: int | None = None
    instance_id: int | None = None
    game_server_config_id: int | None = None
    labels: dict[str, str] = {}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule has found wrong. The same `key` is the same alert until that is over.

    `causes` are keys of alerts of which this would be a part: the first that is open counts.
    """

    key: str
    rule: str
    severity: Severity
    summary: str
    subject: Subject = Subject()
    evidence: Evidence = {}
    causes: tuple[str, ...] = ()


class OpenAlert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that is not over. `part_of` is the key of the one that is its cause."""

    key: str
    rule: str
    severity: Severity
    summary: str
    subject: Subject
    opened_at: datetime
    part_of: str | None = None
