"""Health by time, in Python: a model that the views of the database are held to."""

from __future__ import annotations

from datetime import datetime, timedelta

from manman_status.domain.fleet import ObservationState
from manman_status.domain.liveness import Thresholds
from manman_status.domain.status import ACTIVE, TERMINAL, Health, StatusType


def observation_state(
    lag_seconds: float | None, thresholds: Thresholds, *, is_doubtful: bool = False
) -> ObservationState:
    """None is a watermark that there never was."""
    if lag_seconds is None or lag_seconds > thresholds.blind_after_seconds:
        return ObservationState.BLIND
    if is_doubtful or lag_seconds > thresholds.degraded_after_seconds:
        return ObservationState.DEGRADED
    return ObservationState.OK


def health(
    status: StatusType,
    last_heartbeat: datetime | None,
    *,
    interval_seconds: float | None,
    state: ObservationState,
    observed_through: datetime | None,
    resumed_at: datetime | None,
    thresholds: Thresholds,
) -> Health:
    """The observation stands at `observed_through` and has had no gap since `resumed_at`."""
    if status in TERMINAL:
        return Health.TERMINATED
    if status is StatusType.LOST:
        return Health.UNHEALTHY
    assert status in ACTIVE
    if last_heartbeat is None or state is ObservationState.BLIND:
        return Health.UNKNOWN
    assert observed_through is not None
    assert resumed_at is not None
    if last_heartbeat + timedelta(seconds=thresholds.late_after(interval_seconds)) >= (
        observed_through
    ):
        return Health.HEALTHY
    timeout = thresholds.timeout(interval_seconds)
    grace_ends = resumed_at + timedelta(seconds=max(timeout, thresholds.recovery_grace_seconds))
    deadline = last_heartbeat + timedelta(seconds=timeout)
    return Health.UNHEALTHY if max(deadline, grace_ends) < observed_through else Health.LATE
