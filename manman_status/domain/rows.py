"""The rows that merging works on, and what came of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from manman_status.domain.labels import is_draining
from manman_status.domain.liveness import timeout_seconds
from manman_status.domain.status import ACTIVE, INFERRED, TERMINAL, Entity, Reason, StatusType

Evidence: TypeAlias = dict[str, Any]
Conclusion: TypeAlias = tuple[StatusType, Reason, Evidence]


class Applied(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A StatusInfo that was applied: its date as it was sent, the date at which it counts, and the
    sender's own word for the status where that is another."""

    as_of: int
    status: str
    counted_at: int
    reported_as: str = ""


class Reported(msgspec.Struct, omit_defaults=True):
    """The newest applied StatusInfo of an entity, by date: those of true dates, and those dated too
    far ahead."""

    dated: list[Applied] = []
    ahead: list[Applied] = []


class Worker(msgspec.Struct):
    """A row of `workers`: each field is a column, and `store/models.py` says what it means."""

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
    stopped_seq: int = 0
    ahead_at: int = 0
    first_received_at: int = 0
    passed_incarnation: int = 0
    rival_incarnation: int = 0
    rival_seq: int = 0
    rival_labels: dict[str, str] = {}
    rival_since: datetime | None = None
    rival_beat_at: datetime | None = None
    own_beat_at: datetime | None = None
    received_at: datetime | None = None
    reported: Reported | None = None

    @property
    def is_draining(self) -> bool:
        return is_draining(self.labels)


class ServerInstance(msgspec.Struct):
    """A row of `server_instances`: each field is a column."""

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
    received_at: datetime | None = None
    reported: Reported | None = None


class Transition(msgspec.Struct, frozen=True):
    """A change of one status. `as_of` is the time that the report behind it has; None when it has
    none, and for a conclusion of the processor's own."""

    entity: Entity
    entity_id: int
    old_status: StatusType | None
    new_status: StatusType
    reason: Reason
    evidence: Evidence
    as_of: datetime | None = None


class Rows(msgspec.Struct):
    """The part of the fleet that a batch concerns: rows that exist are loaded before merging, new
    ones appear. `stored_workers` and `stored_instances` are the ids of those that existed.

    `changed_workers` and `changed_instances` are to be written; of workers that are only in
    `beaten` nothing but the newest heartbeat changed. `transitions` are in the order they happened.
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

    def catch_up_with_listing(self, instance: ServerInstance) -> None:
        """Give the instance the position of its worker's newest inventory if it is listed there: it
        is active, known, older than that inventory, and not missing."""
        worker = self.workers.get(instance.worker_id or 0)
        if worker is None or instance.status not in ACTIVE or instance.missing_since is not None:
            return
        inventory = (worker.inventory_incarnation, worker.inventory_seq)
        if (instance.claim_incarnation, instance.claim_seq) < inventory:
            instance.claim_incarnation, instance.claim_seq = inventory
            owned = (instance.owner_incarnation, instance.owner_seq)
            instance.owner_incarnation, instance.owner_seq = max(owned, inventory)
            self.changed_instances.add(instance.instance_id)


class Patience(msgspec.Struct, frozen=True, gc=False):
    """The thresholds of silence in seconds, as in the settings of the same names."""

    default_interval: float = 10.0
    minimum_timeout: float = 15.0

    def timeout(self, *intervals: float | None) -> timedelta:
        """The timeout of the longest of these intervals; None is the default one."""
        longest = max(
            self.default_interval if interval is None else interval for interval in intervals
        )
        return timedelta(seconds=timeout_seconds(longest, minimum_seconds=self.minimum_timeout))


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The database's time of receipt, and a µs number that differs for each event of a batch and
    keeps their order."""

    at: datetime
    order: int
    patience: Patience = Patience()


STATUS_RANK = {status: rank for rank, status in enumerate(StatusType)}
"""The rank of each status: of two claims with one position, the one of higher rank stands."""


def outcome(
    row: Worker | ServerInstance, reported: Conclusion, *, fresh: bool
) -> Conclusion | None:
    """The (status, reason, evidence) to store, or None if unchanged. Fresh evidence overrides an
    inferred status; a reported end always does. A status that only a newer version knows stays
    until an end is reported."""
    status, reason, evidence = reported
    if row.reason in INFERRED:
        if not fresh and status not in TERMINAL:
            return None
        if status in ACTIVE:
            lifted = {**evidence, "was": row.reason, "since": row.status_since}
            return status, reason if reason is Reason.CLOCK_WENT_BACK else Reason.RECOVERED, lifted
    elif _stays(row, reported):
        return None
    return reported


CAME_BACK = frozenset({Reason.RECOVERED, Reason.CLOCK_WENT_BACK})
"""Reasons of an active status that was taken for something else before: kept as long as it is."""


def _stays(row: Worker | ServerInstance, reported: Conclusion) -> bool:
    """True when a status that was not inferred stands as it is, with its reason."""
    status, reason, evidence = reported
    if status == row.status:
        if (reason, evidence) == (row.reason, row.evidence):
            return True
        return reason is not Reason.CLOCK_WENT_BACK and (
            row.reason in CAME_BACK or not row.reason.is_known
        )
    return row.status is not None and not row.status.is_known and status not in TERMINAL
