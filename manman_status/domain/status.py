"""The statuses of workers and server instances, and the reasons why one stands."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Self


class Carried(StrEnum):
    """Text that a newer version may have written. A value that this version does not know is
    carried as it is, as one that is none of the members."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = unknown._value_ = value
        return unknown

    @property
    def is_known(self) -> bool:
        return self._name_ in type(self).__members__


class StatusType(Carried):
    CREATED = "CREATED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    LOST = "LOST"
    COMPLETE = "COMPLETE"
    CRASHED = "CRASHED"


ACTIVE = frozenset({StatusType.CREATED, StatusType.INITIALIZING, StatusType.RUNNING})
TERMINAL = frozenset({StatusType.COMPLETE, StatusType.CRASHED})


class Entity(StrEnum):
    WORKER = "worker"
    SERVER_INSTANCE = "game_server_instance"


class Health(StrEnum):
    HEALTHY = "healthy"
    LATE = "late"
    UNHEALTHY = "unhealthy"
    TERMINATED = "terminated"
    UNKNOWN = "unknown"


class Reason(Carried):
    """The reason why a status stands. `REPORTED` to `EXIT_CODE` were reported by a worker, or by
    what controls it: a reported LOST is its opinion. The next four are the processor's own
    conclusions, `RECOVERED` took one of those back, and `NEVER_BEAT` says why nothing is known.

    `CLOCK_WENT_BACK`: a life with a lower incarnation, or the same one from its start, took the row
    over. `FORGOTTEN` and `UNREPORTED` are only in transitions, since they delete the row: an
    operator forgot it, or nothing was received for the whole retention.
    """

    REPORTED = "reported"
    GRACEFUL = "graceful"
    EXIT_CODE = "exit_code"
    HEARTBEAT_EXPIRED = "heartbeat_expired"
    WORKER_LOST = "worker_lost"
    MISSING_FROM_INVENTORY = "missing_from_inventory"
    SUPERSEDED = "superseded"
    RECOVERED = "recovered"
    NEVER_BEAT = "never_beat"
    CLOCK_WENT_BACK = "clock_went_back"
    FORGOTTEN = "forgotten"
    UNREPORTED = "unreported"


INFERRED = frozenset(
    {Reason.HEARTBEAT_EXPIRED, Reason.WORKER_LOST, Reason.MISSING_FROM_INVENTORY, Reason.SUPERSEDED}
)

CONCLUDED = INFERRED | {Reason.CLOCK_WENT_BACK, Reason.FORGOTTEN, Reason.UNREPORTED}
"""Reasons that the processor itself concludes."""

CONCLUDED_BY: Literal["StatusEventProcessor"] = "StatusEventProcessor"
"""The `class_name` of what was concluded, as ManMan's own status processor names itself there; of
what was reported it is the entity."""

_STATUSES: Mapping[str, StatusType] = MappingProxyType(
    {status.value: status for status in StatusType}
)
_REASONS: Mapping[str, Reason] = MappingProxyType({reason.value: reason for reason in Reason})


def status_of(stored: str) -> StatusType:
    """Return `StatusType(stored)`; faster, for hot paths."""
    return _STATUSES.get(stored) or StatusType(stored)


def reason_of(stored: str) -> Reason:
    """Return `Reason(stored)`; faster, for hot paths."""
    return _REASONS.get(stored) or Reason(stored)
