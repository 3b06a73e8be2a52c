"""More workers are reported for the first time than a fleet of this size ever gets in a minute: a
sender invents ids.

Each id is a row that readers and rules look at, until the retention ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from manman_status.alerts.rule import Finding, OpenAlert, Rule
from manman_status.alerts.scene import Memory, Minute, Scene
from manman_status.domain.alert import Severity

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

MANY = 1_000
WINDOW = timedelta(minutes=10)


class Arrivals(msgspec.Struct, frozen=True):
    """The minutes of the last ten with new workers, oldest first, and how many workers were known
    before them; None when too few are new for it to matter."""

    minutes: Sequence[Minute] = ()
    workers_before: int | None = None


NEW_WORKERS = """
SELECT date_trunc('minute', at) AS at, count(*) AS new_workers
  FROM transitions
 WHERE revision > $1 AND revision <= $2 AND entity = 'worker' AND old_status IS NULL
 GROUP BY 1
"""
WORKERS_BEFORE = "SELECT count(*) FROM workers WHERE created_date < $1"


class NewWorkers(Rule[Arrivals]):
    """Opens when a minute brought more than `MANY` new workers, and more than were known before. A
    fleet that is reported for the very first time is no news. Over when no minute of the last ten
    did."""

    name = "new_workers"
    unread = Arrivals()

    async def read(self, connection: Connection, scene: Scene) -> Arrivals:
        new = (
            await connection.fetch(NEW_WORKERS, scene.after, scene.through)
            if scene.through > scene.after
            else ()
        )
        minutes = recent(scene.memory.minutes, (Minute(*row) for row in new), scene.now)
        if busiest(minutes) <= MANY:
            return Arrivals(minutes)
        return Arrivals(minutes, await connection.fetchval(WORKERS_BEFORE, minutes[0].at))

    def find(self, scene: Scene) -> Iterator[Finding]:
        seen = scene.seen(NewWorkers)
        most = busiest(seen.minutes)
        if is_flood(most, seen.workers_before):
            yield Finding(
                key=self.key(),
                rule=self.name,
                severity=Severity.WARNING,
                summary=(
                    f"{most:,} new workers within a minute, where {seen.workers_before:,} were"
                    " known: unless many were added on purpose, a sender invents ids. Find it in"
                    " RabbitMQ, and remove its user's rights"
                ),
                evidence={"new_workers": most, "workers_before": seen.workers_before},
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:  # noqa: ARG002
        seen = scene.seen(NewWorkers)
        if is_flood(busiest(seen.minutes), seen.workers_before):
            return None
        return f"no more than usual for {WINDOW.seconds // 60} minutes"

    def remember(self, memory: Memory, scene: Scene) -> Memory:
        return msgspec.structs.replace(memory, minutes=tuple(scene.seen(NewWorkers).minutes))


def is_flood(most: int, workers_before: int | None) -> bool:
    return bool(workers_before) and most > max(MANY, workers_before or 0)


def busiest(minutes: Iterable[Minute]) -> int:
    return max((minute.new_workers for minute in minutes), default=0)


def recent(known: Iterable[Minute], new: Iterable[Minute], now: datetime) -> list[Minute]:
    """Add both up, oldest first; minutes before the last `WINDOW` are dropped."""
    numbers: dict[datetime, int] = {}
    for minute in (*known, *new):
        if abs(now - minute.at) < WINDOW:
            numbers[minute.at] = numbers.get(minute.at, 0) + minute.new_workers
    return [Minute(at, numbers[at]) for at in sorted(numbers)]
