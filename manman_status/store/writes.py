"""The rows of the fleet, locked, loaded and written. The caller owns the transaction: nothing here
begins or commits one.

Rows are locked and written in the order of their keys, so that two processors cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import asyncpg
import msgspec

from manman_status.domain.events import Heartbeat
from manman_status.domain.rows import Reported, Rows, ServerInstance, Transition, Worker
from manman_status.domain.status import Reason, StatusType, reason_of, status_of
from manman_status.errors import ManManStatusError
from manman_status.store.pool import Connection, json_text

SQL_TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "text"),
    (int, "bigint"),
    (float, "double precision"),
    (datetime, "timestamptz"),
    ((dict, msgspec.Struct), "jsonb"),
)


def _kinds(row: type[msgspec.Struct]) -> dict[str, type]:
    """The type of each field in their order, None and parameters apart."""
    kinds = {}
    for field in msgspec.structs.fields(row):
        parts = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
        kinds[field.name] = next(get_origin(part) or part for part in parts if part is not NoneType)
    return kinds


def _columns(row: type[msgspec.Struct]) -> dict[str, str]:
    """The columns of a row and their types, in the order of its fields: a field is a column."""
    return {
        name: next(sql for python, sql in SQL_TYPES if issubclass(kind, python))
        for name, kind in _kinds(row).items()
    }


WORKER_COLUMNS = _columns(Worker)
INSTANCE_COLUMNS = _columns(ServerInstance)
BEAT_COLUMNS = {
    name: WORKER_COLUMNS[name]
    for name in (
        "worker_id",
        "last_heartbeat",
        "incarnation",
        "seq",
        "labels_incarnation",
        "labels_seq",
        "interval_incarnation",
        "interval_seq",
        "inventory_incarnation",
        "inventory_seq",
    )
}


def _filled(sql: str, columns: dict[str, str]) -> str:
    """The statement with `:columns` named, one array a column for `:arrays`, and `:changes` set
    each column from `given`."""
    arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(columns.values(), 1))
    changes = ", ".join(f"{name} = given.{name}" for name in columns)
    return (
        sql.replace(":columns", ", ".join(columns))
        .replace(":arrays", arrays)
        .replace(":changes", changes)
    )


class RowAppeared(ManManStatusError):  # noqa: N818
    """The rows are not those that this transaction has locked: load them again, and merge again.

    Another processor made a row meanwhile, or an instance belongs to a worker that no event named.
    `owners` are the ids of such workers, to be locked from the start the next time.
    """

    def __init__(self, owners: Iterable[int] = ()) -> None:
        self.owners = frozenset(owners)
        super().__init__()


NOW = "SELECT now()"


async def transaction_time(connection: Connection) -> datetime:
    """The database's time at which this transaction began: the one clock that counts."""
    now: datetime = await connection.fetchval(NOW)
    return now


OWNERS = (
    "SELECT DISTINCT worker_id FROM server_instances WHERE instance_id = ANY($1::bigint[]) AND"
    " worker_id IS NOT NULL"
)


async def find_owners(connection: Connection, instance_ids: Iterable[int]) -> list[int]:
    """The workers of these instances, as far as they are known."""
    return [row["worker_id"] for row in await connection.fetch(OWNERS, list(instance_ids))]


LOCK_WORKERS = _filled(
    """
SELECT :columns
  FROM workers
 WHERE worker_id = ANY($1::bigint[])
 ORDER BY worker_id
   FOR UPDATE
""",
    WORKER_COLUMNS,
)


async def lock_workers(connection: Connection, worker_ids: Iterable[int], rows: Rows) -> None:
    """Put the rows that exist of these workers into `rows`, locked until the transaction ends."""
    for record in await connection.fetch(LOCK_WORKERS, list(worker_ids)):
        worker = _row(Worker, record)
        rows.workers[worker.worker_id] = worker
        rows.stored_workers.add(worker.worker_id)


# Joined, since with `= ANY` of an empty array the planner reads the rows of all LOST instances.
LOCK_INSTANCES = _filled(
    """
SELECT :columns
  FROM server_instances
 WHERE instance_id IN (
           SELECT unnest($1::bigint[])
            UNION
           SELECT instance_id FROM unnest($2::bigint[]) AS active_of (worker_id)
             JOIN server_instances USING (worker_id)
            WHERE is_active(status)
            UNION
           SELECT instance_id FROM unnest($3::bigint[]) AS lost_of (worker_id)
             JOIN server_instances USING (worker_id)
            WHERE status = 'LOST'
       )
 ORDER BY instance_id
   FOR UPDATE
""",
    INSTANCE_COLUMNS,
)


async def lock_instances(
    connection: Connection,
    instance_ids: Iterable[int],
    rows: Rows,
    *,
    active_of: Iterable[int] = (),
    lost_of: Iterable[int] = (),
) -> None:
    """Lock and load these instances into `rows`.

    `active_of`: workers whose active instances are loaded too; `lost_of`: those whose LOST ones
    are. Raises RowAppeared when some belong to workers that are not in `rows`.
    """
    missing: set[int] = set()
    for record in await connection.fetch(
        LOCK_INSTANCES, list(instance_ids), list(active_of), list(lost_of)
    ):
        instance = _row(ServerInstance, record)
        if instance.worker_id is not None and instance.worker_id not in rows.workers:
            missing.add(instance.worker_id)
        rows.put(instance)
        rows.stored_instances.add(instance.instance_id)
    if missing:
        raise RowAppeared(missing)


Row = TypeVar("Row", Worker, ServerInstance)

READ: dict[type, Callable[[Any], object]] = {
    StatusType: status_of,
    Reason: reason_of,
    Reported: partial(msgspec.convert, type=Reported),
}
"""Functions that make one of these of a stored value."""
READ_OF = {
    row: [(name, READ[kind]) for name, kind in _kinds(row).items() if kind in READ]
    for row in (Worker, ServerInstance)
}


def _row(kind: type[Row], record: asyncpg.Record) -> Row:
    row = kind(*record)
    for name, read in READ_OF[kind]:
        if (value := getattr(row, name)) is not None:
            setattr(row, name, read(value))
    return row


# The one thing that nearly every heartbeat does, decided and done where the row is. `is_steady` is
# true exactly where merging the heartbeat would change nothing but when and where the worker was
# received last: it is running and settled, its life goes on, it has no rival, and interval, labels
# and inventory are those of the row. A test holds it against merging.
ADVANCE_STEADY = """
WITH given AS (
    SELECT *
      FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::double precision[], $5::text[],
               $6::bigint[])
           AS given (worker_id, incarnation, seq, interval_seconds, labels, inventory_digest)
), locked AS (
    SELECT worker_id, given.seq,
           kept.status = 'RUNNING'
           AND (kept.reason IN ('recovered', 'clock_went_back')
                OR kept.reason = 'reported'
                   AND kept.evidence = jsonb_build_object('incarnation', kept.incarnation))
           AND kept.incarnation = given.incarnation
           AND kept.incarnation <= (SELECT (extract(epoch FROM now()) * 1000000)::bigint)
           AND kept.stopped_incarnation < kept.incarnation
           AND (kept.ended_at IS NULL
                OR kept.ended_at < coalesce(nullif(kept.first_received_at, 0), kept.incarnation))
           AND kept.rival_since IS NULL
           AND kept.last_heartbeat <= now()
           AND kept.seq < given.seq
           AND (kept.labels_incarnation, kept.labels_seq) < (given.incarnation, given.seq)
           AND (kept.interval_incarnation, kept.interval_seq) < (given.incarnation, given.seq)
           AND (kept.inventory_incarnation, kept.inventory_seq) < (given.incarnation, given.seq)
           AND kept.interval_seconds = given.interval_seconds
           AND kept.labels = given.labels::jsonb
           AND kept.inventory_digest = given.inventory_digest AS is_steady
      FROM workers AS kept JOIN given USING (worker_id)
     ORDER BY worker_id
       FOR UPDATE OF kept
)
UPDATE workers AS kept
   SET last_heartbeat = now(), seq = locked.seq,
       labels_incarnation = kept.incarnation, labels_seq = locked.seq,
       interval_incarnation = kept.incarnation, interval_seq = locked.seq,
       inventory_incarnation = kept.incarnation, inventory_seq = locked.seq
  FROM locked
 WHERE locked.is_steady AND kept.worker_id = locked.worker_id
RETURNING kept.worker_id
"""


async def advance_steady(connection: Connection, beats: Iterable[Heartbeat]) -> set[int]:
    """Store each heartbeat that changes nothing but that it was received, and return the ids of
    their workers. The other heartbeats are to be merged.

    Each heartbeat has incarnation, seq, interval, labels and servers, and a worker of its own. This
    is the one statement here that may run without a transaction: what it stores is whole by itself.
    """
    given = [
        (
            beat.worker_id,
            beat.incarnation,
            beat.seq,
            beat.interval_seconds,
            json_text(beat.labels),
            beat.servers and beat.servers.digest,
        )
        for beat in beats
    ]
    return {
        worker_id
        for (worker_id,) in await connection.fetch(ADVANCE_STEADY, *zip(*given, strict=True))
    }


INSERT_WORKERS = _filled(
    "INSERT INTO workers (:columns) SELECT * FROM unnest(:arrays) ON CONFLICT DO NOTHING",
    WORKER_COLUMNS,
)
INSERT_INSTANCES = _filled(
    "INSERT INTO server_instances (:columns) SELECT * FROM unnest(:arrays) ON CONFLICT DO NOTHING",
    INSTANCE_COLUMNS,
)
UPDATE_WORKER = """
UPDATE workers AS kept
   SET :changes
  FROM unnest(:arrays) AS given (:columns)
 WHERE kept.worker_id = given.worker_id
"""
UPDATE_WORKERS = _filled(UPDATE_WORKER, WORKER_COLUMNS)
UPDATE_BEATS = _filled(UPDATE_WORKER, BEAT_COLUMNS)
UPDATE_INSTANCES = _filled(
    """
UPDATE server_instances AS kept
   SET :changes
  FROM unnest(:arrays) AS given (:columns)
 WHERE kept.instance_id = given.instance_id
""",
    INSTANCE_COLUMNS,
)


async def store_rows(connection: Connection, rows: Rows) -> None:
    """Write what merging changed, by key. Raises RowAppeared when a new row's key is taken by
    now."""
    workers = [rows.workers[key] for key in sorted(rows.changed_workers)]
    beaten = [rows.workers[key] for key in sorted(rows.beaten - rows.changed_workers)]
    instances = [rows.instances[key] for key in sorted(rows.changed_instances)]
    new_workers = [worker for worker in workers if worker.worker_id not in rows.stored_workers]
    old_workers = [worker for worker in workers if worker.worker_id in rows.stored_workers]
    new_instances = [
        instance for instance in instances if instance.instance_id not in rows.stored_instances
    ]
    old_instances = [
        instance for instance in instances if instance.instance_id in rows.stored_instances
    ]
    await _write(connection, UPDATE_BEATS, BEAT_COLUMNS, beaten)
    await _write(connection, UPDATE_WORKERS, WORKER_COLUMNS, old_workers)
    await _write(connection, INSERT_WORKERS, WORKER_COLUMNS, new_workers)
    await _write(connection, UPDATE_INSTANCES, INSTANCE_COLUMNS, old_instances)
    await _write(connection, INSERT_INSTANCES, INSTANCE_COLUMNS, new_instances)


async def _write(
    connection: Connection,
    sql: str,
    columns: dict[str, str],
    rows: Sequence[Worker] | Sequence[ServerInstance],
) -> None:
    if not rows:
        return
    done = await connection.execute(
        sql, *([getattr(row, name) for row in rows] for name in columns)
    )
    if int(done.rpartition(" ")[2]) != len(rows):
        raise RowAppeared


# Each `as_of` is the report's own time, else now, and at least 1 µs after the one that the entity
# was given before: the n-th of these is the greatest of (own time - n µs) up to there and of the
# newest before them, plus n µs. The locks that the caller holds on the rows of the entities keep
# others from giving them an `as_of` meanwhile.
#
# The counter's lock is held until commit, so revisions become visible in their order. Taken last,
# it is held briefly: the condition on `kept` has that done before.
INSERT_TRANSITIONS = """
WITH given AS (
    SELECT *, row_number() OVER (PARTITION BY entity, entity_id ORDER BY place)
               * interval '1 microsecond' AS step
      FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::jsonb[],
               $7::timestamptz[], $8::text[])
           WITH ORDINALITY AS given (entity, entity_id, old_status, new_status, reason, evidence,
               own_time, traceparent, place)
), dated AS (
    SELECT given.*, step + greatest(newest.as_of, max(coalesce(own_time, now()) - step)
               OVER (PARTITION BY entity, entity_id ORDER BY place)) AS as_of
      FROM given LEFT JOIN newest_as_of AS newest USING (entity, entity_id)
), kept AS (
    INSERT INTO newest_as_of (entity, entity_id, as_of)
    SELECT entity, entity_id, max(as_of) FROM dated GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (entity, entity_id) DO UPDATE SET as_of = excluded.as_of
    RETURNING 1
), counter AS (
    UPDATE revision_counter SET revision = revision + cardinality($1::text[])
     WHERE (SELECT count(*) FROM kept) > 0
    RETURNING revision
)
INSERT INTO transitions (revision, at, as_of, entity, entity_id, old_status, new_status, reason,
    evidence, traceparent)
SELECT counter.revision - cardinality($1::text[]) + dated.place, now(), dated.as_of, dated.entity,
       dated.entity_id, dated.old_status, dated.new_status, dated.reason, dated.evidence,
       dated.traceparent
  FROM counter, dated
"""


async def append_transitions(
    connection: Connection,
    transitions: Sequence[Transition],
    traceparents: Sequence[str | None] = (),
) -> None:
    """Append these in their order under the next revisions, each with an `as_of` later than all
    before of its entity. Must be the transaction's last write. `traceparents` stand beside the
    first of them; the others have none."""
    if transitions:
        fields = ("entity", "entity_id", "old_status", "new_status", "reason", "evidence", "as_of")
        await connection.execute(
            INSERT_TRANSITIONS,
            *([getattr(transition, field) for transition in transitions] for field in fields),
            traceparents,
        )
