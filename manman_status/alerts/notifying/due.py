"""The decision whether a channel is to be notified of an alert now."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from manman_status.domain.alert import WEIGHT, AlertState, NotifiedAlert


class News(StrEnum):
    """The reason of a notification, in the order in which one message lists them."""

    OPENED = "opened"
    WORSE = "worse"
    REMINDER = "reminder"
    RESOLVED = "resolved"


def due_notification(alert: NotifiedAlert, now: datetime, *, remind_seconds: float) -> News | None:
    """None if no notification is due: resolved before the channel was ever notified, or silenced.
    A resolution is sent even while silenced if the channel was notified of the alert. An
    acknowledged alert is only news when it gets worse. `remind_seconds` of 0 never reminds."""
    if alert.state is AlertState.RESOLVED:
        return News.RESOLVED if alert.notified_at else None
    if alert.silenced_by is not None:
        return None
    if alert.notified_at is None or alert.notified_severity is None:
        return News.OPENED
    if WEIGHT[alert.severity] > WEIGHT[alert.notified_severity]:
        return News.WORSE
    due = remind_seconds > 0 and now - alert.notified_at >= timedelta(seconds=remind_seconds)
    return News.REMINDER if due and alert.state is AlertState.OPEN else None
