"""Health by time, in SQL: decided here alone, by the rules of `domain/liveness.py`; a test holds the two together.

The fragments read columns of `workers`. `$1` is the default interval and `$2` the minimum timeout, in seconds.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from manman_status.domain.liveness import MISSED_BEATS_TO_BE_LATE, MISSED_BEATS_TO_EXPIRE
from manman_status.domain.status import ACTIVE, TERMINAL, Health, StatusType


class Timeouts(msgspec.Struct, frozen=True):
    """What is assumed of a worker that announced no interval, and how long silence is always allowed."""

    default_interval_seconds: float
    minimum_timeout_seconds: float


class Observation(msgspec.Struct, frozen=True):
    """How good an answer is: it holds what was known at `observed_through`, up to transition `revision`."""

    observed_through: datetime
    lag_seconds: float
    revision: int


def _in(statuses: frozenset[StatusType]) -> str:
    return "status IN ({})".format(", ".join(sorted(f"'{status}'" for status in statuses)))


IS_ACTIVE = _in(ACTIVE)
IS_TERMINAL = _in(TERMINAL)

OBSERVATION = """observation AS (
    SELECT now() AS observed_through, 0::float8 AS lag_seconds, revision FROM revision_counter WHERE id = 1
)"""
OBSERVED_THROUGH = "(SELECT observed_through FROM observation)"

INTERVAL = "coalesce(interval_seconds, $1::float8)"
DEADLINE = f"last_heartbeat + greatest({MISSED_BEATS_TO_EXPIRE} * {INTERVAL}, $2::float8) * interval '1 second'"
LATE_FROM = f"last_heartbeat + {MISSED_BEATS_TO_BE_LATE} * {INTERVAL} * interval '1 second'"
HEALTH = f"""CASE
    WHEN {IS_TERMINAL} THEN '{Health.TERMINATED}'
    WHEN status = '{StatusType.LOST}' THEN '{Health.UNHEALTHY}'
    WHEN last_heartbeat IS NULL THEN '{Health.UNKNOWN}'
    WHEN {DEADLINE} < {OBSERVED_THROUGH} THEN '{Health.UNHEALTHY}'
    WHEN {LATE_FROM} < {OBSERVED_THROUGH} THEN '{Health.LATE}'
    ELSE '{Health.HEALTHY}'
END"""
