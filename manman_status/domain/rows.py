"""The rows that merging works on, and what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from manman_status.domain.labels import is_draining
from manman_status.domain.status import ACTIVE, INFERRED, TERMINAL, Entity, Reason, StatusType

Evidence: TypeAlias = dict[str, Any]
Conclusion: TypeAlias = tuple[StatusType, Reason, Evidence]


class Worker(msgspec.Struct):
    """A row of `workers`, field for column in the order of `store/writes.py`; what each register means stands in
    `store/models.py`."""

    worker_id: int
    created_date: datetime
    status_since: datetime
    end_date: datetime | None = None
    last_heartbeat: datetime | None = None
    status: StatusType | None = None
    reason: Reason = Reason.NEVER_BEAT
    evidence: Evidence = {}
    labels: dict[str, str] = {}
    interval_seconds: float | None = None
    incarnation: int = 0
    seq: int = 0
    labels_incarnation: int = 0
    labels_seq: int = 0
    interval_incarnation: int = 0
    interval_seq: int = 0
    inventory_incarnation: int = 0
    inventory_seq: int = 0
    inventory_digest: int = 0
    stopped_incarnation: int = 0
    stopped_at: int = 0
    begun_at: int | None = None
    begun_status: StatusType | None = None
    ended_at: int | None = None
    ended_status: StatusType | None = None
    ended_reason: Reason | None = None

    @property
    def is_draining(self) -> bool:
        return is_draining(self.labels)


class ServerInstance(msgspec.Struct):
    """A row of `server_instances`, field for column likewise."""

    instance_id: int
    created_date: datetime
    status_since: datetime
    worker_id: int | None = None
    game_server_config_id: int | None = None
    end_date: datetime | None = None
    status: StatusType | None = None
    reason: Reason = Reason.REPORTED
    evidence: Evidence = {}
    missing_since: datetime | None = None
    owner_incarnation: int = 0
    owner_seq: int = 0
    claim_incarnation: int = 0
    claim_seq: int = 0
    claim_status: StatusType | None = None
    end_incarnation: int = 0
    end_seq: int = 0
    end_status: StatusType | None = None
    end_reason: Reason | None = None
    exit_code: int | None = None


class Transition(msgspec.Struct, frozen=True):
    entity: Entity
    entity_id: int
    old_status: StatusType | None
    new_status: StatusType
    reason: Reason
    evidence: Evidence


class Rows(msgspec.Struct):
    """The part of the fleet that a batch speaks of: rows that exist are put in before merging, new ones appear.
    `stored_workers` and `stored_instances` are the ids of those that existed.

    `changed_workers` and `changed_instances` are what must be written; of the workers that are only `beaten`
    nothing but the newest beat changed. `transitions` are in the order they happened.
    """

    workers: dict[int, Worker] = {}
    instances: dict[int, ServerInstance] = {}
    instances_of: dict[int, set[int]] = {}
    stored_workers: set[int] = msgspec.field(default_factory=set)
    stored_instances: set[int] = msgspec.field(default_factory=set)
    transitions: list[Transition] = []
    beaten: set[int] = msgspec.field(default_factory=set)
    changed_workers: set[int] = msgspec.field(default_factory=set)
    changed_instances: set[int] = msgspec.field(default_factory=set)

    def put(self, instance: ServerInstance) -> None:
        self.instances[instance.instance_id] = instance
        if instance.worker_id is not None:
            self.instances_of.setdefault(instance.worker_id, set()).add(instance.instance_id)


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """When the database received an event, and a µs number that differs for each event of a batch and keeps
    their order."""

    at: datetime
    order: int


STATUS_RANK = {status: rank for rank, status in enumerate(StatusType)}
"""Of two claims with one position the further one stands."""


def outcome(row: Worker | ServerInstance, reported: Conclusion, *, fresh: bool) -> Conclusion | None:
    """What the row must say now that the reports say this; None when it stays as it is. `fresh` evidence lifts what
    the processor had inferred; a reported end replaces it whenever it comes."""
    status, reason, evidence = reported
    if row.reason in INFERRED:
        if not fresh and status not in TERMINAL:
            return None
        if status in ACTIVE:
            return status, Reason.RECOVERED, {**evidence, "was": row.reason, "since": row.status_since}
    elif status == row.status and (row.reason is Reason.RECOVERED or (reason, evidence) == (row.reason, row.evidence)):
        return None
    return reported
