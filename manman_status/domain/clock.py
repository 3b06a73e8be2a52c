"""Steps of the database's clock, found by a clock that cannot step.

All times in the rows are the database's, so the age of anything is a difference of two of its
readings. Such a difference is elapsed time only while that clock runs evenly. NTP may step it, and
after a failover another server's clock counts. So each processor compares the database's clock with
its own monotonic one.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

STEP_SECONDS = 2.0
"""A smaller difference is the network's or a slew's, and shortens or lengthens a timeout by no more
than that."""
DRIFT = 0.001
"""Clocks may run apart by this share of the time between two readings: twice what ntpd slews."""


class ClockReading(msgspec.Struct, frozen=True):
    """The database's time `at`, read between two moments of a monotonic clock, in seconds."""

    at: datetime
    earliest: float
    latest: float


class ClockStep(msgspec.Struct, frozen=True):
    """The clock stepped by `seconds`, negative for a step back. `at` is when that was found, in the
    new time."""

    at: datetime
    seconds: float


def step_between(before: ClockReading, now: ClockReading) -> float:
    """The seconds that the clock stepped between two readings, negative for a step back; 0.0 if it
    did not.

    However long a reading took, by the network or a frozen process, that only widens what counts as
    no step.
    """
    passed = (now.at - before.at).total_seconds()
    shortest, longest = now.earliest - before.latest, now.latest - before.earliest
    tolerance = STEP_SECONDS + DRIFT * longest
    if shortest - tolerance <= passed <= longest + tolerance:
        return 0.0
    return passed - (shortest + longest) / 2
