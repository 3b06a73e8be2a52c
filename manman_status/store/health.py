"""Health by time, in SQL: decided here alone, by the rules of `domain/liveness.py`; a test holds
the two together.

The fragments read columns of `workers` and `OBSERVATION`; `Timeouts.values` are the first
parameters of a query that has them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import msgspec

from manman_status.domain.clock import ClockStep
from manman_status.domain.fleet import ObservationState
from manman_status.domain.liveness import (
    MISSED_BEATS_TO_BE_LATE,
    MISSED_BEATS_TO_EXPIRE,
    observation_state,
)
from manman_status.domain.status import ACTIVE, TERMINAL, Health, StatusType

Doubt: TypeAlias = Literal["clock_stepped", "heartbeats_dropped"]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """As in the settings of the same names. `values` are `$1` to `$4`."""

    default_interval_seconds: float
    minimum_timeout_seconds: float
    recovery_grace_seconds: float
    degraded_after_seconds: float
    blind_after_seconds: float

    @property
    def values(self) -> tuple[float, float, float, float]:
        return (
            self.default_interval_seconds,
            self.minimum_timeout_seconds,
            self.recovery_grace_seconds,
            self.blind_after_seconds,
        )


class Observation(msgspec.Struct, frozen=True):
    """How good an answer is: it holds what was known at `as_of`, up to transition `revision`.

    Before anything was observed there is no lag, and `as_of` is when the database was asked.
    """

    as_of: datetime
    lag_seconds: float | None
    revision: int
    epoch: str
    """The history that the revision belongs to (`store/epochs.py`)."""
    clock_step: ClockStep | None = None
    """The last one of the database's clock; only in answers about the observation itself."""
    dropped_at: datetime | None = None
    """When the broker was last found to have dropped heartbeats; likewise."""
    slowest_queue: str | None = None
    """The one that is furthest behind; likewise."""


def state_of(observation: Observation, timeouts: Timeouts) -> ObservationState:
    return observation_state(
        observation.lag_seconds,
        degraded_after_seconds=timeouts.degraded_after_seconds,
        blind_after_seconds=timeouts.blind_after_seconds,
        is_doubtful=doubt_about(observation, timeouts) is not None,
    )


def doubt_about(observation: Observation, timeouts: Timeouts) -> Doubt | None:
    """Why silence says nothing for now: the recovery grace since this was not observed yet."""
    grace = timedelta(seconds=timeouts.recovery_grace_seconds)
    step = observation.clock_step
    if step is not None and observation.as_of < step.at + grace:
        return "clock_stepped"
    if observation.dropped_at is not None and observation.as_of < observation.dropped_at + grace:
        return "heartbeats_dropped"
    return None


def _in(statuses: frozenset[StatusType]) -> str:
    """RUNNING first: nearly every row has it, and they are compared in this order."""
    listed = sorted(statuses, key=lambda status: (status is not StatusType.RUNNING, status))
    return "status IN ({})".format(", ".join(f"'{status}'" for status in listed))


IS_ACTIVE = _in(ACTIVE)
IS_TERMINAL = _in(TERMINAL)
IS_NOT_TERMINAL = _in(frozenset(StatusType) - TERMINAL)

# A watermark that lies ahead is as wrong as one that is behind: the clock stepped back, and no
# processor has seen it.
OBSERVATION = """observed AS (
    SELECT observed_through, resumed_at, coalesce(observed_through, now()) AS as_of,
        abs(extract(epoch FROM now() - observed_through))::float8 AS lag_seconds, revision, epoch,
        CASE WHEN clock_stepped_at IS NOT NULL
            THEN jsonb_build_object('at', clock_stepped_at, 'seconds', clock_step_seconds) END AS
                clock_step,
        dropped_at
    FROM observation, revision_counter WHERE observation.id = 1 AND revision_counter.id = 1
)"""
SLOWEST_QUEUE = """(SELECT queue FROM watermarks WHERE state IN ('active', 'leaving')
    ORDER BY observed_through NULLS FIRST, queue LIMIT 1) AS slowest_queue"""
OBSERVED_THROUGH = "(SELECT observed_through FROM observed)"
RESUMED_AT = "(SELECT resumed_at FROM observed)"
IS_BLIND = "(SELECT coalesce(lag_seconds > $4::float8, true) FROM observed)"
# Whether a leader sweeps, so that `late_workers` is true; while none did for longer, rows are read.
IS_SWEPT = """(SELECT coalesce(abs(extract(epoch FROM observed_through - swept_through)) < 10,
    false)
    FROM observed, sweeps WHERE sweeps.id = 1)"""

INTERVAL = "coalesce(interval_seconds, $1::float8)"
TIMEOUT = f"greatest({MISSED_BEATS_TO_EXPIRE} * {INTERVAL}, $2::float8)"
DEADLINE = f"last_heartbeat + {TIMEOUT} * interval '1 second'"
GRACE_ENDS = f"{RESUMED_AT} + greatest({TIMEOUT}, $3::float8) * interval '1 second'"
LATE_FROM = f"last_heartbeat + {MISSED_BEATS_TO_BE_LATE} * {INTERVAL} * interval '1 second'"
HEALTH = f"""CASE
    WHEN {IS_TERMINAL} THEN '{Health.TERMINATED}'
    WHEN status = '{StatusType.LOST}' THEN '{Health.UNHEALTHY}'
    WHEN last_heartbeat IS NULL OR {IS_BLIND} THEN '{Health.UNKNOWN}'
    WHEN {LATE_FROM} >= {OBSERVED_THROUGH} THEN '{Health.HEALTHY}'
    WHEN greatest({DEADLINE}, {GRACE_ENDS}) < {OBSERVED_THROUGH} THEN '{Health.UNHEALTHY}'
    ELSE '{Health.LATE}'
END"""
