"""When silence counts. Pure arithmetic; every time is an argument.

The same rules stand in SQL in `store/health.py`; a test holds the two together.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from manman_status.domain.fleet import ObservationState
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


def deadline(
    last_heartbeat: datetime, interval_seconds: float, *, minimum_timeout_seconds: float
) -> datetime:
    """The moment after which silence means death, given that listening is proven until then."""
    timeout = timeout_seconds(interval_seconds, minimum_seconds=minimum_timeout_seconds)
    return last_heartbeat + timedelta(seconds=timeout)


def observation_state(
    lag_seconds: float | None,
    *,
    degraded_after_seconds: float,
    blind_after_seconds: float,
    is_doubtful: bool = False,
) -> ObservationState:
    """How good the observation is when its watermark is so old; None is a watermark that there
    never was. It is never ok while it `is_doubtful` what silence says."""
    if lag_seconds is None or lag_seconds > blind_after_seconds:
        return ObservationState.BLIND
    if is_doubtful or lag_seconds > degraded_after_seconds:
        return ObservationState.DEGRADED
    return ObservationState.OK


def health(
    status: StatusType,
    last_heartbeat: datetime | None,
    *,
    state: ObservationState,
    observed_through: datetime | None,
    resumed_at: datetime | None,
    interval_seconds: float,
    minimum_timeout_seconds: float,
    recovery_grace_seconds: float,
) -> Health:
    """A worker's health as far as it was observed. Never beaten, or nobody looks: unknown, however
    long ago.

    The observation stands at `observed_through` and has had no gap since `resumed_at`.
    """
    if status in TERMINAL:
        return Health.TERMINATED
    if status is StatusType.LOST:
        return Health.UNHEALTHY
    assert status in ACTIVE
    if last_heartbeat is None or state is ObservationState.BLIND:
        return Health.UNKNOWN
    assert observed_through is not None
    assert resumed_at is not None
    if (
        last_heartbeat + timedelta(seconds=MISSED_BEATS_TO_BE_LATE * interval_seconds)
        >= observed_through
    ):
        return Health.HEALTHY
    end = deadline(
        last_heartbeat, interval_seconds, minimum_timeout_seconds=minimum_timeout_seconds
    )
    timeout = timeout_seconds(interval_seconds, minimum_seconds=minimum_timeout_seconds)
    grace_ends = resumed_at + timedelta(seconds=max(timeout, recovery_grace_seconds))
    # Overdue within the grace is late only: the gap was ours, and the sweep does not give such a
    # worker up either.
    return Health.UNHEALTHY if max(end, grace_ends) < observed_through else Health.LATE
