"""The tables, described once. Migrations are made from here; the hot SQL beside it names the same
columns.

Positions are pairs `(…_incarnation, …_seq)`: an event with both as sent, one without as `(0, µs
since the epoch)`. Every register below keeps the value at the greatest position, whatever order
events come in.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from manman_status.domain.alert import AlertState, Severity
from manman_status.domain.status import ACTIVE, Entity, StatusType


def _one_of(
    column: str, values: type[StatusType | Entity | Severity | AlertState]
) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


ACTIVE_SQL = f"status IN {tuple(sorted(map(str, ACTIVE)))}"


def _threshold(default: str) -> Any:
    return Column(Double, nullable=False, server_default=text(default))


def _bigint(default: int | None = None, *, nullable: bool = False) -> Any:
    server_default = None if default is None else text(str(default))
    return Column(BigInteger, nullable=nullable, server_default=server_default)


def _time(*, nullable: bool = True) -> Any:
    return Column(DateTime(timezone=True), nullable=nullable)


def _now() -> Any:
    return Column(DateTime(timezone=True), nullable=True, server_default=text("now()"))


def _us_times() -> Any:
    return Column(ARRAY(BigInteger), nullable=False, server_default=text("'{}'"))


def _flag() -> Any:
    return Column(Boolean, nullable=False, server_default=text("false"))


def _json() -> Any:
    return Column(JSONB, nullable=False, server_default=text("'{}'"))


class Worker(SQLModel, table=True):
    """A worker. Each heartbeat updates its row in place (HOT): no index may name a column that a
    heartbeat changes."""

    __tablename__ = "workers"
    __table_args__ = (
        _one_of("status", StatusType),
        Index("workers_by_status", "status", "worker_id"),
        Index("workers_with_rival", "worker_id", postgresql_where=text("rival_since IS NOT NULL")),
        Index(
            "workers_lost_since",
            "status_since",
            postgresql_where=text("status = 'LOST' AND reason = 'heartbeat_expired'"),
        ),
        Index(
            "workers_by_label",
            "labels",
            postgresql_using="gin",
            postgresql_ops={"labels": "jsonb_path_ops"},
        ),
        {"postgresql_with": {"fillfactor": "60"}},
    )

    worker_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    created_date: datetime = Field(sa_column=_time(nullable=False))
    end_date: datetime | None = Field(sa_column=_time())
    last_heartbeat: datetime | None = Field(sa_column=_time())
    status: str = Field(sa_column=Column(Text, nullable=False))
    status_since: datetime = Field(sa_column=_time(nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    evidence: dict[str, Any] = Field(sa_column=_json())
    labels: dict[str, str] = Field(sa_column=_json())
    interval_seconds: float | None = Field(sa_column=Column(Double, nullable=True))
    # The newest sign of life: which incarnation, and its newest beat.
    incarnation: int = Field(sa_column=_bigint(0))
    seq: int = Field(sa_column=_bigint(0))
    labels_incarnation: int = Field(sa_column=_bigint(0))
    labels_seq: int = Field(sa_column=_bigint(0))
    interval_incarnation: int = Field(sa_column=_bigint(0))
    interval_seq: int = Field(sa_column=_bigint(0))
    inventory_incarnation: int = Field(sa_column=_bigint(0))
    inventory_seq: int = Field(sa_column=_bigint(0))
    inventory_digest: int = Field(sa_column=_bigint(0))
    # Lives: an incarnation is begun by its first event and ended by its own WORKER_STOPPED; events
    # without incarnation begin and end lives by time (µs since the epoch).
    stopped_incarnation: int = Field(sa_column=_bigint(0))
    stopped_at: int = Field(sa_column=_bigint(0))
    begun_at: int | None = Field(sa_column=_bigint(nullable=True))
    begun_status: str | None = Field(sa_column=Column(Text, nullable=True))
    ended_at: int | None = Field(sa_column=_bigint(nullable=True))
    ended_status: str | None = Field(sa_column=Column(Text, nullable=True))
    ended_reason: str | None = Field(sa_column=Column(Text, nullable=True))
    # The `seq` of that WORKER_STOPPED, 0 without one: a beat that is counted after it was sent
    # after it.
    stopped_seq: int = Field(sa_column=_bigint(0))
    # The greatest date of an event that was too far ahead when it was received: copies of it count
    # no more.
    ahead_at: int = Field(sa_column=_bigint(0))
    # When the incarnation was first received, if it says that it begins later (µs); else 0.
    first_received_at: int = Field(sa_column=_bigint(0))
    # The life before, when that had counted higher: its events are those of an older life
    # (`domain/lives.py`).
    passed_incarnation: int = Field(sa_column=_bigint(0))
    # A life that counts lower and beats nevertheless: its newest beat, and when its first and its
    # newest were received; when the newest of the row's own life was received since then.
    rival_incarnation: int = Field(sa_column=_bigint(0))
    rival_seq: int = Field(sa_column=_bigint(0))
    rival_labels: dict[str, str] = Field(sa_column=_json())
    rival_since: datetime | None = Field(sa_column=_time())
    rival_beat_at: datetime | None = Field(sa_column=_time())
    own_beat_at: datetime | None = Field(sa_column=_time())
    # When something other than a heartbeat was received about it.
    received_at: datetime | None = Field(sa_column=_now())
    # The newest StatusInfo that was applied (`domain/status_info.py`).
    reported: dict[str, Any] | None = Field(sa_column=Column(JSONB, nullable=True))


class ServerInstance(SQLModel, table=True):
    """A game server instance. Its row is written when something about it changes, not by each
    heartbeat."""

    __tablename__ = "server_instances"
    __table_args__ = (
        _one_of("status", StatusType),
        Index("server_instances_by_status", "status", "instance_id"),
        Index("server_instances_by_worker", "worker_id", "instance_id"),
        Index("server_instances_by_config", "game_server_config_id", "instance_id"),
        Index("server_instances_active", "instance_id", postgresql_where=text(ACTIVE_SQL)),
        Index("server_instances_active_by_worker", "worker_id", postgresql_where=text(ACTIVE_SQL)),
        Index(
            "server_instances_lost_by_worker", "worker_id", postgresql_where=text("status = 'LOST'")
        ),
        Index(
            "server_instances_missing",
            "missing_since",
            postgresql_where=text("missing_since IS NOT NULL"),
        ),
        {"postgresql_with": {"fillfactor": "80"}},
    )

    instance_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    worker_id: int | None = Field(sa_column=_bigint(nullable=True))
    game_server_config_id: int | None = Field(sa_column=_bigint(nullable=True))
    created_date: datetime = Field(sa_column=_time(nullable=False))
    end_date: datetime | None = Field(sa_column=_time())
    status: str = Field(sa_column=Column(Text, nullable=False))
    status_since: datetime = Field(sa_column=_time(nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    evidence: dict[str, Any] = Field(sa_column=_json())
    # Since when its worker's newest inventory has not listed it; null while listed or not known to
    # be missing.
    missing_since: datetime | None = Field(sa_column=_time())
    # The latest position at which a worker named it: that worker owns it.
    owner_incarnation: int = Field(sa_column=_bigint(0))
    owner_seq: int = Field(sa_column=_bigint(0))
    claim_incarnation: int = Field(sa_column=_bigint(0))
    claim_seq: int = Field(sa_column=_bigint(0))
    claim_status: str | None = Field(sa_column=Column(Text, nullable=True))
    end_incarnation: int = Field(sa_column=_bigint(0))
    end_seq: int = Field(sa_column=_bigint(0))
    end_status: str | None = Field(sa_column=Column(Text, nullable=True))
    end_reason: str | None = Field(sa_column=Column(Text, nullable=True))
    exit_code: int | None = Field(sa_column=_bigint(nullable=True))
    # When something other than an inventory was received about it.
    received_at: datetime | None = Field(sa_column=_now())
    # The newest StatusInfo that was applied (`domain/status_info.py`).
    reported: dict[str, Any] | None = Field(sa_column=Column(JSONB, nullable=True))


class Transition(SQLModel, table=True):
    """Every status change, and nothing else: history, outbox and feed. One partition a UTC day."""

    __tablename__ = "transitions"
    __table_args__ = (
        PrimaryKeyConstraint("revision", "at"),
        _one_of("entity", Entity),
        _one_of("new_status", StatusType),
        Index("transitions_by_entity", "entity", "entity_id", "revision"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    at: datetime = Field(sa_column=_time(nullable=False))
    entity: str = Field(sa_column=Column(Text, nullable=False))
    entity_id: int = Field(sa_column=_bigint())
    old_status: str | None = Field(sa_column=Column(Text, nullable=True))
    new_status: str = Field(sa_column=Column(Text, nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    evidence: dict[str, Any] = Field(sa_column=_json())
    # As of when it is published (`store/writes.py`); null in rows of the release before, which
    # published `at`.
    as_of: datetime | None = Field(sa_column=_time())
    # W3C trace context of the message that caused it, when that was traced: notifications go on
    # with it.
    traceparent: str | None = Field(sa_column=Column(Text, nullable=True))


class NewestAsOf(SQLModel, table=True):
    """The newest `as_of` that was given to an entity. It outlives the entity's row, and goes when
    it is older than the retention."""

    __tablename__ = "newest_as_of"
    __table_args__ = (_one_of("entity", Entity), {"postgresql_with": {"fillfactor": "80"}})

    entity: str = Field(sa_column=Column(Text, primary_key=True))
    entity_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    as_of: datetime = Field(sa_column=_time(nullable=False))


class RevisionCounter(SQLModel, table=True):
    """The one row whose lock gives revisions their commit order: it is taken last and held until
    commit."""

    __tablename__ = "revision_counter"
    __table_args__ = (
        CheckConstraint("id = 1", name="only_one"),
        {"postgresql_with": {"fillfactor": "10"}},
    )

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    revision: int = Field(sa_column=_bigint(0))
    # The history that revisions belong to, and the one before, which it shares transitions with
    # (`store/epochs.py`).
    epoch: str = Field(sa_column=Column(Text, nullable=False, server_default=""))
    previous_epoch: str | None = Field(sa_column=Column(Text, nullable=True))
    epoch_begins_after: int = Field(sa_column=_bigint(0))


class Observation(SQLModel, table=True):
    """The one row that says how far the fleet was observed: silence before `observed_through` is
    real."""

    __tablename__ = "observation"
    __table_args__ = (
        CheckConstraint("id = 1", name="only_one"),
        {"postgresql_with": {"fillfactor": "10"}},
    )

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    # The least of the queues' watermarks; null until each has one.
    observed_through: datetime | None = Field(sa_column=_time())
    # When it last moved, and when it last moved again after it had stood still for longer than the
    # smallest timeout.
    advanced_at: datetime | None = Field(sa_column=_time())
    resumed_at: datetime | None = Field(sa_column=_time())
    # How often the database's clock stepped, and up to which step a leader has brought the rows'
    # times along; when it stepped last, in the new time, and by how much: back is negative.
    clock_steps: int = Field(sa_column=_bigint(0))
    clock_steps_settled: int = Field(sa_column=_bigint(0))
    clock_stepped_at: datetime | None = Field(sa_column=_time())
    clock_step_seconds: float | None = Field(sa_column=Column(Double, nullable=True))
    # When the broker was last found to have dropped heartbeats.
    dropped_at: datetime | None = Field(sa_column=_time())
    # The thresholds by which everybody reads: the leader's settings of the same names.
    default_interval_seconds: float = Field(sa_column=_threshold("10"))
    minimum_timeout_seconds: float = Field(sa_column=_threshold("15"))
    recovery_grace_seconds: float = Field(sa_column=_threshold("30"))
    degraded_after_seconds: float = Field(sa_column=_threshold("5"))
    blind_after_seconds: float = Field(sa_column=_threshold("30"))
    # Null until a processor has set them.
    thresholds_set_at: datetime | None = Field(sa_column=_time())


class ObservationGap(SQLModel, table=True):
    """A time in which nothing was known: `observed_through` stood at `began_at`, or went on too far
    behind, until it had caught up at `ended_at`. Gaps do not overlap; the one that still lasts is
    no row yet."""

    __tablename__ = "observation_gaps"

    began_at: datetime = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))
    ended_at: datetime = Field(sa_column=_time(nullable=False))


class Watermark(SQLModel, table=True):
    """A queue that is read: what was put on it before `observed_through` is in the rows. `state` is
    one of `store/observation.QueueState`, `canary_key` a routing key that has reached the queue,
    `clock_steps` the number of steps of the database's clock that the time is of."""

    __tablename__ = "watermarks"
    __table_args__ = ({"postgresql_with": {"fillfactor": "10"}},)

    queue: str = Field(sa_column=Column(Text, primary_key=True))
    state: str = Field(sa_column=Column(Text, nullable=False, server_default="active"))
    observed_through: datetime | None = Field(sa_column=_time())
    canary_key: str | None = Field(sa_column=Column(Text, nullable=True))
    clock_steps: int = Field(sa_column=_bigint(0))
    # Processors of the release before write these four, and nobody reads them.
    pending_sent: datetime | None = Field(sa_column=_time())
    pending_seen: datetime | None = Field(sa_column=_time())
    pending_by: str | None = Field(sa_column=Column(Text, nullable=True))
    canaries_from: datetime | None = Field(sa_column=_time())


class Bridge(SQLModel, table=True):
    """A bridge: every report of what it read before `observed_through` is in the rows.
    `clock_steps` is as in `watermarks`. `written_revision` is the last transition that it wrote
    into the other database; null when it writes none."""

    __tablename__ = "bridges"
    __table_args__ = ({"postgresql_with": {"fillfactor": "10"}},)

    name: str = Field(sa_column=Column(Text, primary_key=True))
    observed_through: datetime | None = Field(sa_column=_time())
    clock_steps: int = Field(sa_column=_bigint(0))
    written_revision: int | None = Field(sa_column=_bigint(nullable=True))


class CanaryKey(SQLModel, table=True):
    """The one row with the secret that all processors sign their canaries with. The first processor
    writes it and nobody changes it. The api never reads it."""

    __tablename__ = "canary_key"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Processor(SQLModel, table=True):
    """A running processor, written before it reads anything."""

    __tablename__ = "processors"
    __table_args__ = ({"postgresql_with": {"fillfactor": "10"}},)

    processor_id: str = Field(sa_column=Column(Text, primary_key=True))
    host: str = Field(sa_column=Column(Text, nullable=False))
    version: str = Field(sa_column=Column(Text, nullable=False))
    started_at: datetime = Field(sa_column=_time(nullable=False))
    last_seen: datetime = Field(sa_column=_time(nullable=False))
    # Processors of the release before write it, and their apis read it.
    settled_through: dict[str, str] = Field(sa_column=_json())
    # What `processor/statistics.py` counts, since it started.
    statistics: dict[str, Any] = Field(sa_column=_json())


class Lease(SQLModel, table=True):
    """The leader. Each of its transactions checks its `token`, which grows with each holder."""

    __tablename__ = "leases"
    __table_args__ = ({"postgresql_with": {"fillfactor": "10"}},)

    name: str = Field(sa_column=Column(Text, primary_key=True))
    holder: str = Field(sa_column=Column(Text, nullable=False))
    token: int = Field(sa_column=_bigint(0))
    expires_at: datetime = Field(sa_column=_time(nullable=False))


class Guard(SQLModel, table=True):
    """A group with too many workers silent at once: they are held, not marked LOST, while this row
    is there."""

    __tablename__ = "guards"

    group_name: str = Field(sa_column=Column(Text, primary_key=True))
    opened_at: datetime = Field(sa_column=_time(nullable=False))
    # How many are overdue and held now, of how many.
    held: int = Field(sa_column=_bigint(0))
    group_size: int = Field(sa_column=_bigint(0))
    # Since when they are being lost at the limited rate; all at once when a person requested it.
    releasing_since: datetime | None = Field(sa_column=_time())
    released_by_hand_at: datetime | None = Field(sa_column=_time())


class FleetCount(SQLModel, table=True):
    """The number of workers of a group, and of server instances, of each status. Triggers of
    `workers` and `server_instances` append each change to `fleet_count_changes`, in the transaction
    that makes it, so that nobody waits for another's count; the leader adds them up here. The
    number now is the sum of both tables.

    The group of a server instance is empty, and its two flags are false.
    """

    __tablename__ = "fleet_counts"

    entity: str = Field(sa_column=Column(Text, primary_key=True))
    group_name: str = Field(sa_column=Column(Text, primary_key=True))
    status: str = Field(sa_column=Column(Text, primary_key=True))
    # Whether a heartbeat was ever received, and whether they carry the label `drain`.
    has_beat: bool = Field(sa_column=Column(Boolean, primary_key=True))
    is_draining: bool = Field(sa_column=Column(Boolean, primary_key=True))
    number: int = Field(sa_column=_bigint())


class FleetCountChange(SQLModel, table=True):
    """`number` more, or fewer when it is negative."""

    __tablename__ = "fleet_count_changes"

    change_id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    entity: str = Field(sa_column=Column(Text, nullable=False))
    group_name: str = Field(sa_column=Column(Text, nullable=False))
    status: str = Field(sa_column=Column(Text, nullable=False))
    has_beat: bool = Field(sa_column=Column(Boolean, nullable=False))
    is_draining: bool = Field(sa_column=Column(Boolean, nullable=False))
    number: int = Field(sa_column=_bigint())


class UnwatchedWorker(SQLModel, table=True):
    """The active workers of which no heartbeat was ever received. Kept by the triggers of
    `workers`."""

    __tablename__ = "unwatched_workers"

    worker_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))


class LateWorker(SQLModel, table=True):
    """The active workers that had missed a heartbeat when the leader swept last, each as it was
    then."""

    __tablename__ = "late_workers"

    worker_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    group_name: str = Field(sa_column=Column(Text, nullable=False))
    is_draining: bool = Field(sa_column=Column(Boolean, nullable=False))
    last_heartbeat: datetime = Field(sa_column=_time(nullable=False))
    deadline: datetime = Field(sa_column=_time(nullable=False))
    timeout_seconds: float = Field(sa_column=Column(Double, nullable=False))


class Sweep(SQLModel, table=True):
    """The one row that says up to where in observed time `late_workers` is true, and the oldest
    last heartbeat of the other active workers, as it was when all of them were read last."""

    __tablename__ = "sweeps"
    __table_args__ = (
        CheckConstraint("id = 1", name="only_one"),
        {"postgresql_with": {"fillfactor": "10"}},
    )

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    swept_through: datetime | None = Field(sa_column=_time())
    oldest_heartbeat: datetime | None = Field(sa_column=_time())


class Relay(SQLModel, table=True):
    """The one row that says up to which revision the broker has confirmed the republished
    transitions."""

    __tablename__ = "relay"
    __table_args__ = (
        CheckConstraint("id = 1", name="only_one"),
        {"postgresql_with": {"fillfactor": "10"}},
    )

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    sent_revision: int = Field(sa_column=_bigint(0))


class DeadLetterOutbox(SQLModel, table=True):
    """Messages that nobody can understand, stored in the transaction of their batch and kept until
    the broker's dead-letter queue has taken them."""

    __tablename__ = "dead_letter_outbox"
    __table_args__ = (Index("dead_letter_outbox_by_age", "at"),)

    letter_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )
    # `processor/leader/dead_letters.py`'s Letter, as bytes: its texts may hold what no text column
    # takes.
    letter: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Alert(SQLModel, table=True):
    """An alert: one row from when it opens until long after it is resolved, one unresolved row a
    key. `version` grows with each change that may have to be notified."""

    __tablename__ = "alerts"
    __table_args__ = (
        _one_of("severity", Severity),
        _one_of("state", AlertState),
        CheckConstraint(
            "(state = 'resolved') = (resolved_at IS NOT NULL)", name="resolved_has_time"
        ),
        Index(
            "alerts_one_unresolved_a_key",
            "key",
            unique=True,
            postgresql_where=text("resolved_at IS NULL"),
        ),
        Index("alerts_unresolved", "alert_id", postgresql_where=text("resolved_at IS NULL")),
        Index(
            "alerts_to_tell",
            "alert_id",
            postgresql_where=text("resolved_at IS NULL AND part_of IS NULL"),
        ),
        Index("alerts_by_rule", "rule", "opened_at"),
        Index("alerts_by_part", "part_of", postgresql_where=text("part_of IS NOT NULL")),
        Index(
            "alerts_by_worker",
            "worker_id",
            "alert_id",
            postgresql_where=text("worker_id IS NOT NULL"),
        ),
        Index("alerts_by_end", "resolved_at", postgresql_where=text("resolved_at IS NOT NULL")),
    )

    alert_id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    key: str = Field(sa_column=Column(Text, nullable=False))
    rule: str = Field(sa_column=Column(Text, nullable=False))
    severity: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(sa_column=Column(Text, nullable=False, server_default="open"))
    version: int = Field(sa_column=_bigint(1))
    summary: str = Field(sa_column=Column(Text, nullable=False))
    # The alert that is the cause of this one, which is then not notified by itself.
    part_of: int | None = Field(
        sa_column=Column(
            BigInteger, ForeignKey("alerts.alert_id", ondelete="SET NULL"), nullable=True
        )
    )
    # What it is about, as far as it is about one: null group is the whole fleet, an empty one the
    # workers without.
    group_name: str | None = Field(sa_column=Column(Text, nullable=True))
    worker_id: int | None = Field(sa_column=_bigint(nullable=True))
    instance_id: int | None = Field(sa_column=_bigint(nullable=True))
    game_server_config_id: int | None = Field(sa_column=_bigint(nullable=True))
    labels: dict[str, str] = Field(sa_column=_json())
    evidence: dict[str, Any] = Field(sa_column=_json())
    opened_at: datetime = Field(sa_column=_time(nullable=False))
    acknowledged_at: datetime | None = Field(sa_column=_time())
    acknowledged_by: str | None = Field(sa_column=Column(Text, nullable=True))
    acknowledged_why: str | None = Field(sa_column=Column(Text, nullable=True))
    resolved_at: datetime | None = Field(sa_column=_time())
    resolution: str | None = Field(sa_column=Column(Text, nullable=True))


class Delivery(SQLModel, table=True):
    """The version of an alert that a channel has taken: written after it did, so that nothing is
    notified less than once."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index(
            "deliveries_unsettled", "channel", "alert_id", postgresql_where=text("NOT is_settled")
        ),
        {"postgresql_with": {"fillfactor": "80"}},
    )

    alert_id: int = Field(
        sa_column=Column(
            BigInteger, ForeignKey("alerts.alert_id", ondelete="CASCADE"), primary_key=True
        )
    )
    channel: str = Field(sa_column=Column(Text, primary_key=True))
    # The version and severity that were notified last; 0 and null before the first time.
    version: int = Field(sa_column=_bigint(0))
    severity: str | None = Field(sa_column=Column(Text, nullable=True))
    told_at: datetime | None = Field(sa_column=_time())
    # Nothing more is to be notified: its end was.
    is_settled: bool = Field(
        sa_column=Column(Boolean, nullable=False, server_default=text("false"))
    )


class Silence(SQLModel, table=True):
    """A mute of the alerts that match all its columns, until `ends_at`. Removing one ends it
    now."""

    __tablename__ = "silences"
    __table_args__ = (Index("silences_by_end", "ends_at"),)

    silence_id: str = Field(sa_column=Column(Text, primary_key=True))
    # In the order in which they came, for lists.
    number: int = Field(
        sa_column=Column(BigInteger, Identity(always=True), nullable=False, unique=True)
    )
    created_at: datetime = Field(sa_column=_time(nullable=False))
    ends_at: datetime = Field(sa_column=_time(nullable=False))
    created_by: str = Field(sa_column=Column(Text, nullable=False))
    why: str = Field(sa_column=Column(Text, nullable=False))
    group_name: str | None = Field(sa_column=Column(Text, nullable=True))
    worker_id: int | None = Field(sa_column=_bigint(nullable=True))
    rule: str | None = Field(sa_column=Column(Text, nullable=True))
    labels: dict[str, str] = Field(sa_column=_json())


class AlertProgress(SQLModel, table=True):
    """The one row that says up to which transition, and when last, the rules were evaluated, and
    what they remember."""

    __tablename__ = "alert_progress"
    __table_args__ = (
        CheckConstraint("id = 1", name="only_one"),
        {"postgresql_with": {"fillfactor": "10"}},
    )

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    judged_revision: int = Field(sa_column=_bigint(0))
    judged_at: datetime | None = Field(sa_column=_time())
    memory: dict[str, Any] = Field(sa_column=_json())


class UptimeDay(SQLModel, table=True):
    """The progress of summing up a past UTC day, for workers in the order of their ids
    (`store/uptime_days.py`). It holds for transitions up to `through_revision`, and while the fleet
    was `blind` in these parts of the day alone: pairs of µs since the epoch."""

    __tablename__ = "uptime_days"

    day: date = Field(sa_column=Column(Date, primary_key=True))
    through_revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    blind: list[int] = Field(sa_column=_us_times())
    done_through: int | None = Field(sa_column=_bigint(nullable=True))
    is_complete: bool = Field(sa_column=_flag())
    made_at: datetime = Field(
        sa_column=Column(
            DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")
        )
    )


class UptimeChanges(SQLModel, table=True):
    """The changes of a day from one status to another, of all workers (`is_fleet`) or of a group.
    Times are µs."""

    __tablename__ = "uptime_changes"

    day: date = Field(sa_column=Column(Date, primary_key=True))
    is_fleet: bool = Field(sa_column=Column(Boolean, primary_key=True))
    group_name: str = Field(sa_column=Column(Text, primary_key=True))
    # Empty when it was not known before.
    old_status: str = Field(sa_column=Column(Text, primary_key=True))
    new_status: str = Field(sa_column=Column(Text, primary_key=True))
    changes: int = Field(sa_column=_bigint(0))
    # The sum of when they were: the part of the day before them that was not blind.
    seen: int = Field(sa_column=_bigint(0))
    # How long those were LOST that began this day, in all and at most.
    lost: int = Field(sa_column=_bigint(0))
    longest: int = Field(sa_column=_bigint(0))
    # When those began that were LOST at the end of the day; begin and end of those that began on a
    # day before.
    opened: list[int] = Field(sa_column=_us_times())
    crossed_begun: list[int] = Field(sa_column=_us_times())
    crossed_ended: list[int] = Field(sa_column=_us_times())


class UptimeLoss(SQLModel, table=True):
    """A worker that became LOST on a day, at `begun` (µs), and still was at its end."""

    __tablename__ = "uptime_losses"
    __table_args__ = (Index("uptime_losses_by_day", "day"),)

    worker_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    begun: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    day: date = Field(sa_column=Column(Date, nullable=False))


class UptimeMove(SQLModel, table=True):
    """A worker that went to another group, written by a trigger on `workers`; or one that is taken
    out of all days (`is_apart`) since it was deleted, or since its history is not in order. Until
    it is taken, the days in which the worker changed do not count."""

    __tablename__ = "uptime_moves"
    __table_args__ = (
        Index("uptime_moves_to_take", "move_id", postgresql_where=text("NOT is_taken")),
    )

    move_id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    worker_id: int = Field(sa_column=_bigint())
    at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )
    is_apart: bool = Field(sa_column=_flag())
    is_taken: bool = Field(sa_column=_flag())
