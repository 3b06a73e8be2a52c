"""The message that a person reads: all that is news at once, the worst first.

Workers choose their groups, and people write reasons: such words must mention nobody in a chat,
hide no link, and forge no line of a mail. Services have a hundred markups, so text that any of them
may take for markup is written otherwise for all (`harmless`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from manman_status.alerts.notifying.due import News
from manman_status.alerts.rule import fold_key
from manman_status.domain.alert import WEIGHT, NotifiedAlert, Severity

ALERTS_SHOWN = 20
HEADINGS = {News.OPENED: "", News.WORSE: "worse now", News.REMINDER: "still", News.RESOLVED: "over"}
ORDER = {news: place for place, news in enumerate(News)}


class Tone(StrEnum):
    """The worst of a message; `good` when all of it is over."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"
    GOOD = "good"


class Message(msgspec.Struct, frozen=True):
    """`title` is one line, `body` plain text."""

    title: str
    body: str
    tone: Tone


def compose(due: Sequence[tuple[News, NotifiedAlert]], *, longest: int | None = None) -> Message:
    """Compose one message of at least one alert. Beyond `ALERTS_SHOWN`, and beyond `longest`
    characters with the title, the rest is a number; the worst is always there."""
    ordered = worst_first(due)
    groups = sorted({alert.subject.group for _, alert in ordered if alert.subject.group})
    shown = min(len(ordered), ALERTS_SHOWN)
    ordered[:shown] = [(news, _harmless(alert)) for news, alert in ordered[:shown]]
    title = _title(ordered, groups)
    body = _body(ordered, shown)
    while longest is not None and shown > 1 and len(title) + len(body) > longest:
        shown -= 1
        body = _body(ordered, shown)
    current = [alert.severity for news, alert in ordered if news is not News.RESOLVED]
    tone = Tone(max(current, key=WEIGHT.__getitem__)) if current else Tone.GOOD
    return Message(title, body, tone)


NO_JOINT = "\u200b"
"""A space without width."""
WRITTEN_OTHERWISE = {
    "<": "\u2039",
    ">": "\u203a",
    "[": "(",
    "]": ")",
    "|": "\u00a6",
    "@": f"@{NO_JOINT}",
    "://": f":{NO_JOINT}//",
}


def harmless(text: str) -> str:
    """Put text on one line, without anything that mentions, links, marks up or turns round what
    stands beside it."""
    text = "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
    for written, otherwise in WRITTEN_OTHERWISE.items():
        text = text.replace(written, otherwise)
    return text


def _harmless(alert: NotifiedAlert) -> NotifiedAlert:
    group = alert.subject.group
    return msgspec.structs.replace(
        alert,
        summary=harmless(alert.summary),
        resolution=None if alert.resolution is None else harmless(alert.resolution),
        subject=msgspec.structs.replace(
            alert.subject, group=None if group is None else harmless(group)
        ),
    )


def worst_first(due: Sequence[tuple[News, NotifiedAlert]]) -> list[tuple[News, NotifiedAlert]]:
    return sorted(due, key=_place)


def _body(ordered: Sequence[tuple[News, NotifiedAlert]], shown: int) -> str:
    lines = [_line(news, alert) for news, alert in ordered[:shown]]
    if len(ordered) > shown:
        lines.append(f"and {len(ordered) - shown} more: `manman-status alerts list`")
    return "\n".join(lines)


def _place(due: tuple[News, NotifiedAlert]) -> tuple[int, int, bool, int]:
    """Sort key: of equally bad alerts, the one that stands for many comes first."""
    news, alert = due
    return ORDER[news], -WEIGHT[alert.severity], alert.key != fold_key(alert.rule), alert.alert_id


def _title(ordered: Sequence[tuple[News, NotifiedAlert]], groups: Sequence[str]) -> str:
    """`groups`: the groups of all of them."""
    news, first = ordered[0]
    if len(ordered) == 1:
        return (
            f"[{_mark(news, first.severity)}] {_place_of(first)}{first.summary.partition(':')[0]}"
        )
    current = Counter(alert.severity for news, alert in ordered if news is not News.RESOLVED)
    parts = [f"{current[severity]} {severity}" for severity in Severity if current[severity]]
    over = len(ordered) - current.total()
    parts += [f"{over} over"] if over else []
    where = f" in {', '.join(map(harmless, groups[:3]))}{_and_more(groups)}" if groups else ""
    return f"[{_mark(news, first.severity)}] {len(ordered)} alerts{where}: {', '.join(parts)}"


def _and_more(groups: Sequence[str]) -> str:
    more = len(groups) - 3
    return f" and {more:,} more group{'s' if more > 1 else ''}" if more > 0 else ""


def _mark(news: News, severity: Severity) -> str:
    return "over" if news is News.RESOLVED else severity


def _place_of(alert: NotifiedAlert) -> str:
    return f"{alert.subject.group}: " if alert.subject.group else ""


def _line(news: News, alert: NotifiedAlert) -> str:
    heading = HEADINGS[news]
    mark = _mark(news, alert.severity)
    if heading and news is not News.RESOLVED:
        mark = f"{mark} ({heading})"
    text = alert.summary
    if news is News.RESOLVED:
        text = f"{alert.summary.partition(':')[0]}: {alert.resolution}, after {_duration(alert)}"
    parts = f" (with {alert.parts} alerts that are part of it)" if alert.parts else ""
    return (
        f"{mark}: {_place_of(alert)}{text}{parts} · #{alert.alert_id}, since"
        f" {_readable(alert.opened_at)}"
    )


def _duration(alert: NotifiedAlert) -> str:
    assert alert.resolved_at is not None
    minutes, seconds = divmod(int((alert.resolved_at - alert.opened_at).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {seconds} s"
        if minutes
        else f"{seconds} s"
    )


def _readable(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}"
