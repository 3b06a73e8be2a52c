"""What a status is, and why one stands."""

from __future__ import annotations

from enum import StrEnum


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
    processor's own conclusions, `RECOVERED` took one of those back, `NEVER_BEAT` says why nothing is known."""

    REPORTED = "reported"
    GRACEFUL = "graceful"
    EXIT_CODE = "exit_code"
    HEARTBEAT_EXPIRED = "heartbeat_expired"
    WORKER_LOST = "worker_lost"
    MISSING_FROM_INVENTORY = "missing_from_inventory"
    SUPERSEDED = "superseded"
    RECOVERED = "recovered"
    NEVER_BEAT = "never_beat"


INFERRED = frozenset({Reason.HEARTBEAT_EXPIRED, Reason.WORKER_LOST, Reason.MISSING_FROM_INVENTORY, Reason.SUPERSEDED})
