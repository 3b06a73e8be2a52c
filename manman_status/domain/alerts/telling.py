"""When an alert is news to somebody who was told of it before, or was not."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from manman_status.domain.alerts.alert import WEIGHT, AlertState, Severity


class News(StrEnum):
    """In the order in which one message tells them."""

    OPENED = "opened"
    WORSE = "worse"
    REMINDER = "reminder"
    RESOLVED = "resolved"


class Told(msgspec.Struct, frozen=True):
    """What somebody took last: the alert at this severity, at this time."""

    severity: Severity
    at: datetime


def news(
    state: AlertState, severity: Severity, told: Told | None, *, now: datetime, remind_seconds: float
) -> News | None:
    """None when there is nothing to say: also of what is over before anybody was told. Whoever acknowledged it knows;
    only a greater severity is news then. `remind_seconds` of 0 never reminds."""
    if state is AlertState.RESOLVED:
        return News.RESOLVED if told else None
    if told is None:
        return News.OPENED
    if WEIGHT[severity] > WEIGHT[told.severity]:
        return News.WORSE
    due = remind_seconds > 0 and now - told.at >= timedelta(seconds=remind_seconds)
    return News.REMINDER if due and state is AlertState.OPEN else None
