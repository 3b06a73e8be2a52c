"""The observation that an answer rests on, and fragments of SQL about it.

The rules themselves stand once, in the database: the views `observation_now` and `worker_health`,
with the thresholds in the row of `observation` (`store/thresholds.py`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from manman_status.domain.clock import ClockStep
from manman_status.domain.fleet import ObservationState

Doubt: TypeAlias = Literal["clock_stepped", "heartbeats_dropped"]


class Observation(msgspec.Struct, frozen=True):
    """The quality of an answer: it holds what was known at `as_of`, up to transition `revision`.

    Before anything was observed there is no lag, and `as_of` is the time of the query.
    """

    as_of: datetime
    lag_seconds: float | None
    revision: int
    epoch: str
    """The history that the revision belongs to (`store/epochs.py`)."""
    state: ObservationState = ObservationState.BLIND
    """Only in answers about the observation itself, like all that follows."""
    doubt: Doubt | None = None
    """The reason why no silence counts for now: the recovery grace since then was not observed
    yet."""
    clock_step: ClockStep | None = None
    """The last step of the database's clock."""
    dropped_at: datetime | None = None
    """The last time that the broker was found to have dropped heartbeats."""
    slowest_source: str | None = None
    """The queue or the bridge that is furthest behind."""


OBSERVATION = """observed AS (
    SELECT observed_through, as_of, lag_seconds, is_blind, state, doubt, clock_step, dropped_at,
        revision, epoch
    FROM observation_now, revision_counter WHERE revision_counter.id = 1
)"""
OBSERVATION_ITSELF = """as_of, lag_seconds, revision, epoch, state, doubt, clock_step, dropped_at,
    (SELECT source FROM (
            SELECT 'queue ' || queue AS source, observed_through FROM watermarks
            WHERE watermarks.state IN ('active', 'leaving')
            UNION ALL SELECT 'bridge ' || name, observed_through FROM bridges
        ) sources ORDER BY observed_through NULLS FIRST, source LIMIT 1) AS slowest_source"""
OBSERVED_THROUGH = "(SELECT observed_through FROM observed)"
IS_BLIND = "(SELECT is_blind FROM observed)"
# Whether a leader sweeps, so that `late_workers` is true; while none did for longer, rows are read.
IS_SWEPT = """(SELECT coalesce(abs(extract(epoch FROM observed_through - swept_through)) < 10,
    false)
    FROM observed, sweeps WHERE sweeps.id = 1)"""
