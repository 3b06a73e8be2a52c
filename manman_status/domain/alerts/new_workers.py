"""More workers are reported for the first time than a fleet of this size ever gets in a minute: a
sender invents ids.

Each id is a row that readers and rules look at, until the retention ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity
from manman_status.domain.alerts.scene import Minute, Scene

MANY = 1_000
WINDOW = timedelta(minutes=10)


class NewWorkers:
    """Opens when a minute brought more than `MANY` new workers, and more than were known before. A
    fleet that is reported for the very first time is no news. Over when no minute of the last ten
    did."""

    name = "new_workers"

    def find(self, scene: Scene) -> Iterator[Finding]:
        most = busiest(scene.minutes)
        if is_flood(most, scene.workers_before):
            yield Finding(
                key=self.name,
                rule=self.name,
                severity=Severity.WARNING,
                summary=(
                    f"{most:,} new workers within a minute, where {scene.workers_before:,} were"
                    " known: unless many were added on purpose, a sender invents ids. Find it in"
                    " RabbitMQ, and remove its user's rights"
                ),
                evidence={"new_workers": most, "workers_before": scene.workers_before},
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:  # noqa: ARG002
        if is_flood(busiest(scene.minutes), scene.workers_before):
            return None
        return f"no more than usual for {WINDOW.seconds // 60} minutes"


def is_flood(most: int, workers_before: int | None) -> bool:
    return bool(workers_before) and most > max(MANY, workers_before or 0)


def busiest(minutes: Iterable[Minute]) -> int:
    return max((minute.new_workers for minute in minutes), default=0)


def recent(known: Iterable[Minute], new: Iterable[Minute], now: datetime) -> list[Minute]:
    """Both together, those of the last `WINDOW` alone, oldest first."""
    numbers: dict[datetime, int] = {}
    for minute in (*known, *new):
        if abs(now - minute.at) < WINDOW:
            numbers[minute.at] = numbers.get(minute.at, 0) + minute.new_workers
    return [Minute(at, numbers[at]) for at in sorted(numbers)]
