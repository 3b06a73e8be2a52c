"""What a status is, and why one stands."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import cast


class StatusType(StrEnum):
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


class Reason(StrEnum):
    """Why a status stands. `REPORTED` to `EXIT_CODE` were said by a worker, the next four are the
    processor's own conclusions, `RECOVERED` took one of those back, `NEVER_BEAT` says why nothing is known.

    `CLOCK_WENT_BACK`: a life with a lower incarnation, or the same one from its start, took the row over.
    `FORGOTTEN` and `UNREPORTED` are only in transitions, since they delete the row: a person asked for
    it, or nothing was received for the whole retention.
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


INFERRED = frozenset({Reason.HEARTBEAT_EXPIRED, Reason.WORKER_LOST, Reason.MISSING_FROM_INVENTORY, Reason.SUPERSEDED})

_STATUSES: Mapping[str, StatusType] = MappingProxyType({status.value: status for status in StatusType})
_REASONS: Mapping[str, Reason] = MappingProxyType({reason.value: reason for reason in Reason})


def status_of(stored: str) -> StatusType:
    """A status as it is stored. One that only a newer version knows is carried as its text: it is neither active,
    LOST nor terminal."""
    return _STATUSES.get(stored) or cast("StatusType", stored)


def reason_of(stored: str) -> Reason:
    """A reason as it is stored; one that only a newer version knows is carried as its text."""
    return _REASONS.get(stored) or cast("Reason", stored)


def is_known(value: StatusType | Reason) -> bool:
    """False for one that is carried for a newer version."""
    return isinstance(value, StatusType | Reason)
