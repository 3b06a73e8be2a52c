from __future__ import annotations

import pytest

from manman_status.domain.fleet import ObservationState, OverallStatus, overall_status


@pytest.mark.parametrize(
    ("healthy", "late", "unhealthy", "unknown", "overall"),
    [
        (0, 0, 0, 0, OverallStatus.EMPTY),
        (0, 0, 0, 2, OverallStatus.UNKNOWN),
        (3, 0, 0, 0, OverallStatus.HEALTHY),
        (3, 0, 0, 2, OverallStatus.HEALTHY),
        (3, 1, 0, 0, OverallStatus.DEGRADED),
        (3, 0, 1, 0, OverallStatus.DEGRADED),
        (0, 1, 0, 0, OverallStatus.DEGRADED),
        (0, 0, 1, 0, OverallStatus.DOWN),
        (0, 0, 1, 5, OverallStatus.DOWN),
    ],
)
def test_what_the_numbers_say(
    healthy: int, late: int, unhealthy: int, unknown: int, overall: OverallStatus
) -> None:
    state = ObservationState.DEGRADED
    assert (
        overall_status(state, healthy=healthy, late=late, unhealthy=unhealthy, unknown=unknown)
        is overall
    )


@pytest.mark.parametrize("healthy", [0, 3])
def test_who_is_blind_says_nothing_about_the_fleet(healthy: int) -> None:
    overall = overall_status(
        ObservationState.BLIND, healthy=healthy, late=0, unhealthy=0, unknown=0
    )
    assert overall is OverallStatus.UNKNOWN
