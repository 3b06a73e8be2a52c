"""The state of a fleet as a whole, from its numbers."""

from __future__ import annotations

from enum import StrEnum


class OverallStatus(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"
    EMPTY = "empty"


class ObservationState(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    BLIND = "blind"


def overall_status(
    state: ObservationState, *, healthy: int, late: int, unhealthy: int, unknown: int
) -> OverallStatus:
    """Judge the fleet: `down` when no worker sends heartbeats, `degraded` when some do not send
    them in time. Ended workers do not count, and unknown ones neither help nor harm. While
    monitoring is blind nothing is known, not even that the fleet is empty."""
    if state is ObservationState.BLIND:
        return OverallStatus.UNKNOWN
    if healthy + late + unhealthy == 0:
        return OverallStatus.UNKNOWN if unknown else OverallStatus.EMPTY
    if healthy + late == 0:
        return OverallStatus.DOWN
    return OverallStatus.DEGRADED if late + unhealthy else OverallStatus.HEALTHY


UNWATCHED_AT_MOST = 5_000
"""Unwatched workers are counted up to here."""


def unwatched_text(number: int) -> str:
    """Say how many workers are not watched, as the beginning of a sentence."""
    many = f"{number:,}{' or more' if number >= UNWATCHED_AT_MOST else ''}"
    return f"{many} worker{' reports' if number == 1 else 's report'} but never sent a heartbeat"
