"""The arithmetic of silence. It is pure: every time is an argument.

A worker is late once 1.5 of its intervals have passed without a heartbeat. It is overdue after 3,
or after the minimum timeout if that is longer. Both are counted in observed time, so an outage of
monitoring is never a worker's silence.

The service itself decides by the same rules in SQL (the views `worker_health` and
`observation_now`); a test holds the two together. This module serves what has no database: `what-
if`, the merge of rival lives, the model of the tests.
"""

from __future__ import annotations

from typing import Any

import msgspec

INTERVAL_BOUNDS_SECONDS = (1.0, 3600.0)
LATE_AFTER_INTERVALS = 1.5
LOST_AFTER_INTERVALS = 3.0


def timeout_seconds(interval_seconds: float, *, minimum_seconds: float) -> float:
    return max(LOST_AFTER_INTERVALS * interval_seconds, minimum_seconds)


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """The thresholds by which everybody reads; the leader writes them to the database.

    Seconds, as in the settings of the same names.
    """

    default_interval_seconds: float = 10.0
    minimum_timeout_seconds: float = 15.0
    recovery_grace_seconds: float = 30.0
    degraded_after_seconds: float = 5.0
    blind_after_seconds: float = 30.0

    def interval(self, announced: float | None) -> float:
        """The interval of a worker that announced this one, or none."""
        return self.default_interval_seconds if announced is None else announced

    def timeout(self, announced: float | None) -> float:
        """Seconds of observed silence after which a worker is overdue."""
        return timeout_seconds(
            self.interval(announced), minimum_seconds=self.minimum_timeout_seconds
        )

    def late_after(self, announced: float | None) -> float:
        """Seconds of observed silence after which a worker is late."""
        return LATE_AFTER_INTERVALS * self.interval(announced)


def differing(before: Thresholds, after: Thresholds) -> dict[str, Any]:
    """The names of the thresholds that differ, each with its value before and after."""
    return {
        name: [getattr(before, name), getattr(after, name)]
        for name in Thresholds.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    }


def bounded_interval(interval_seconds: float) -> float:
    """The interval a worker announced, within 1 to 3600 seconds."""
    lowest, highest = INTERVAL_BOUNDS_SECONDS
    return min(max(interval_seconds, lowest), highest)
