"""When silence counts. Pure arithmetic; every time is an argument.

The same rules stand in SQL in `store/reads.py`; a test holds the two together.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from manman_status.domain.status import ACTIVE, TERMINAL, Health, StatusType

MISSED_BEATS_TO_EXPIRE = 3
MISSED_BEATS_TO_BE_LATE = 1.5
INTERVAL_BOUNDS_SECONDS = (1.0, 3600.0)


def bounded_interval(interval_seconds: float) -> float:
    """The interval a worker announced, within 1 to 3600 seconds."""
    lowest, highest = INTERVAL_BOUNDS_SECONDS
    return min(max(interval_seconds, lowest), highest)


def timeout_seconds(interval_seconds: float, *, minimum_seconds: float) -> float:
    return max(MISSED_BEATS_TO_EXPIRE * interval_seconds, minimum_seconds)


def deadline(last_heartbeat: datetime, interval_seconds: float, *, minimum_timeout_seconds: float) -> datetime:
    """The moment after which silence means death, given that listening is proven until then."""
    timeout = timeout_seconds(interval_seconds, minimum_seconds=minimum_timeout_seconds)
    return last_heartbeat + timedelta(seconds=timeout)


def health(
    status: StatusType,
    last_heartbeat: datetime | None,
    *,
    observed_through: datetime,
    interval_seconds: float,
    minimum_timeout_seconds: float,
) -> Health:
    """A worker's health as far as it was observed. Never beaten: unknown, however long ago."""
    if status in TERMINAL:
        return Health.TERMINATED
    if status is StatusType.LOST:
        return Health.UNHEALTHY
    assert status in ACTIVE
    if last_heartbeat is None:
        return Health.UNKNOWN
    end = deadline(last_heartbeat, interval_seconds, minimum_timeout_seconds=minimum_timeout_seconds)
    if end < observed_through:
        return Health.UNHEALTHY
    late_from = last_heartbeat + timedelta(seconds=MISSED_BEATS_TO_BE_LATE * interval_seconds)
    return Health.LATE if late_from < observed_through else Health.HEALTHY
