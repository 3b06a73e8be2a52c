"""What the numbers of a fleet say about it as a whole."""

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
    """`down` when nobody beats, `degraded` when some do not beat in time. Ended workers do not
    count, and those of which nothing is known neither help nor harm. Who is blind cannot tell, not
    even that the fleet is empty."""
    if state is ObservationState.BLIND:
        return OverallStatus.UNKNOWN
    if healthy + late + unhealthy == 0:
        return OverallStatus.UNKNOWN if unknown else OverallStatus.EMPTY
    if healthy + late == 0:
        return OverallStatus.DOWN
    return OverallStatus.DEGRADED if late + unhealthy else OverallStatus.HEALTHY
