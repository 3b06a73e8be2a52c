"""What a person reads: one message for all that is news at once, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from manman_status.domain.alerts.alert import WEIGHT, Severity
from manman_status.domain.alerts.telling import News, ToldAlert

ALERTS_SHOWN = 20
HEADINGS = {News.OPENED: "", News.WORSE: "worse now", News.REMINDER: "still", News.RESOLVED: "over"}
ORDER = {news: place for place, news in enumerate(News)}


class Tone(StrEnum):
    """How bad a message is at most; `good` when all of it is over."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"
    GOOD = "good"


class Message(msgspec.Struct, frozen=True):
    """`title` is one line, `body` plain text."""

    title: str
    body: str
    tone: Tone


def compose(told: Sequence[tuple[News, ToldAlert]]) -> Message:
    """At least one. Beyond `ALERTS_SHOWN` the rest is a number."""
    ordered = sorted(told, key=_place)
    lines = [_line(news, alert) for news, alert in ordered[:ALERTS_SHOWN]]
    if len(ordered) > ALERTS_SHOWN:
        lines.append(f"and {len(ordered) - ALERTS_SHOWN} more: `manman-status alerts list`")
    current = [alert.severity for news, alert in ordered if news is not News.RESOLVED]
    tone = Tone(max(current, key=WEIGHT.__getitem__)) if current else Tone.GOOD
    return Message(_title(ordered), "\n".join(lines), tone)


def _place(told: tuple[News, ToldAlert]) -> tuple[int, int, int]:
    news, alert = told
    return ORDER[news], -WEIGHT[alert.severity], alert.alert_id


def _title(ordered: Sequence[tuple[News, ToldAlert]]) -> str:
    news, first = ordered[0]
    if len(ordered) == 1:
        return f"[{_mark(news, first.severity)}] {_place_of(first)}{first.summary.partition(':')[0]}"
    current = Counter(alert.severity for news, alert in ordered if news is not News.RESOLVED)
    parts = [f"{current[severity]} {severity}" for severity in Severity if current[severity]]
    over = len(ordered) - current.total()
    parts += [f"{over} over"] if over else []
    groups = sorted({alert.subject.group for _, alert in ordered if alert.subject.group})
    where = f" in {', '.join(groups[:3])}{', …' if len(groups) > 3 else ''}" if groups else ""
    return f"[{_mark(news, first.severity)}] {len(ordered)} alerts{where}: {', '.join(parts)}"


def _mark(news: News, severity: Severity) -> str:
    return "over" if news is News.RESOLVED else severity


def _place_of(alert: ToldAlert) -> str:
    return f"{alert.subject.group}: " if alert.subject.group else ""


def _line(news: News, alert: ToldAlert) -> str:
    heading = HEADINGS[news]
    mark = f"{_mark(news, alert.severity)}{f' ({heading})' if heading and news is not News.RESOLVED else ''}"
    text = alert.summary
    if news is News.RESOLVED:
        text = f"{alert.summary.partition(':')[0]}: {alert.resolution}, after {_duration(alert)}"
    parts = f" (with {alert.parts} alerts that are part of it)" if alert.parts else ""
    return f"{mark}: {_place_of(alert)}{text}{parts} · #{alert.alert_id}, since {_readable(alert.opened_at)}"


def _duration(alert: ToldAlert) -> str:
    assert alert.resolved_at is not None
    minutes, seconds = divmod(int((alert.resolved_at - alert.opened_at).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _readable(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}"
