"""The answers of the api about workers, server instances and the state of monitoring."""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from manman_status.domain.fleet import ObservationState
from manman_status.domain.status import Reason, StatusType

CLOCK_SAMPLES = 60
UNSEEN_SECONDS = 5.0
"""After so long without a query, monitoring may have been in any state meanwhile."""


class SeenWorker(msgspec.Struct, frozen=True):
    worker_id: int
    status: StatusType
    status_since: datetime
    reason: Reason
    evidence: dict[str, Any] = {}

    @property
    def id(self) -> int:
        return self.worker_id


class SeenServer(msgspec.Struct, frozen=True):
    instance_id: int
    status: StatusType
    reason: Reason
    evidence: dict[str, Any] = {}

    @property
    def id(self) -> int:
        return self.instance_id


Seen = TypeVar("Seen", SeenWorker, SeenServer)


class Page(msgspec.Struct, Generic[Seen], frozen=True):
    items: list[Seen]
    next_cursor: str | None
    as_of: datetime


class SeenGuard(msgspec.Struct, frozen=True):
    group: str


class SeenObservation(msgspec.Struct, frozen=True):
    state: ObservationState
    observed_through: datetime | None
    lag_seconds: float | None
    guard: list[SeenGuard] | None = None


class SeenSystem(msgspec.Struct, frozen=True):
    observation: SeenObservation


class Observation:
    """The state of monitoring over time, and the service's clock by ours.

    `longest_lag_seconds` is how far it ever was behind. `ready_at` is the time since which it must
    mark silent workers LOST.
    """

    def __init__(self, *, grace_seconds: float) -> None:
        self.longest_lag_seconds = 0.0
        self.is_ok = False
        self._grace_seconds = grace_seconds
        self._queried_at = -math.inf
        self._resumed_at = math.inf
        self._held_at: dict[str, float] = {}
        self._offsets: deque[float] = deque(maxlen=CLOCK_SAMPLES)

    def answered(self, system: SeenSystem, at: float) -> None:
        """`at` is when the answer was here. Its time is older than that by the way it took, and by
        how long the api keeps an answer: so of several the largest offset is the nearest."""
        seen = system.observation
        self.is_ok = seen.state is ObservationState.OK
        if seen.observed_through is not None and seen.lag_seconds is not None:
            self._offsets.append(seen.observed_through.timestamp() + seen.lag_seconds - at)
            self.longest_lag_seconds = max(self.longest_lag_seconds, seen.lag_seconds)
        if not self.is_ok:
            self._resumed_at = math.inf
        elif math.isinf(self._resumed_at) or at - self._queried_at > UNSEEN_SECONDS:
            self._resumed_at = at
        self._queried_at = at
        self._held_at |= {guard.group: at for guard in seen.guard or ()}

    @property
    def is_dated(self) -> bool:
        """True when times of the service can be converted to our clock."""
        return bool(self._offsets)

    def fleet_time(self, time: datetime) -> float:
        return time.timestamp() - max(self._offsets)

    def ready_at(self, group: str) -> float:
        """The time until which silent workers may be held back, by a recovery grace or by the guard
        of `group`."""
        return max(self._resumed_at + self._grace_seconds, self._held_at.get(group, -math.inf))
