"""When an alert is news to somebody who was told of it before, or was not."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from manman_status.domain.alerts.alert import WEIGHT, AlertState, Severity, Subject
from manman_status.domain.rows import Evidence


class News(StrEnum):
    """In the order in which one message tells them."""

    OPENED = "opened"
    WORSE = "worse"
    REMINDER = "reminder"
    RESOLVED = "resolved"


class ToldAlert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as it is now, and what of it one channel took last: that version and severity, at
    that time; 0 and None before. `part_of` is the id of its cause, `parts` how many have it as
    theirs."""

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
    told_version: int
    told_severity: Severity | None
    told_at: datetime | None

    @property
    def since(self) -> datetime:
        """When its newest state began."""
        return self.resolved_at or self.opened_at


def news_of(alert: ToldAlert, now: datetime, *, remind_seconds: float) -> News | None:
    """None when there is nothing to say. Also of what is over before anybody was told, and of what
    is silenced, unless its end: who was told of it waits for that. Who acknowledged it knows, and
    is only told when it gets worse. `remind_seconds` of 0 never reminds."""
    if alert.state is AlertState.RESOLVED:
        return News.RESOLVED if alert.told_at else None
    if alert.silenced_by is not None:
        return None
    if alert.told_at is None or alert.told_severity is None:
        return News.OPENED
    if WEIGHT[alert.severity] > WEIGHT[alert.told_severity]:
        return News.WORSE
    due = remind_seconds > 0 and now - alert.told_at >= timedelta(seconds=remind_seconds)
    return News.REMINDER if due and alert.state is AlertState.OPEN else None
