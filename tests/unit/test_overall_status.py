from __future__ import annotations

import pytest

from manman_status.domain.fleet import OverallStatus, overall_status


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
def test_what_the_numbers_say(healthy: int, late: int, unhealthy: int, unknown: int, overall: OverallStatus) -> None:
    assert overall_status(healthy=healthy, late=late, unhealthy=unhealthy, unknown=unknown) is overall
