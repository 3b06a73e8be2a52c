"""The fleet at a past time, as far as rows and transitions show.

If a row has not changed since `at`, its current status was its status then. Otherwise its status
then is the `old_status` of the first transition after `at`. The row's own times limit which days'
partitions are scanned. Numbers of the whole fleet are those of now, with each transition since `at`
taken back. What the retention has deleted is gone from past times too.

In every query $1 is `at`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, Health, StatusType
from manman_status.errors import ManManStatusError, UnknownServerInstance, UnknownWorker
from manman_status.store.details import ENDED_INSTANCES_SHOWN, TRANSITIONS_SHOWN
from manman_status.store.reads import (
    TRANSITION_ITEM,
    ServerFilters,
    WorkerFilters,
    labels_given,
    page_items,
    utc,
)

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class TimeNotKept(ManManStatusError):  # noqa: N818
    """Nothing is kept of that time; the oldest that may be queried is {oldest}."""


class TimeToCome(ManManStatusError):  # noqa: N818
    """The time is still to come: it is {now} here."""


class WorkerNotKnownThen(UnknownWorker):
    """Nothing was known of worker {worker_id} at that time, or nothing is kept of it."""


class ServerInstanceNotKnownThen(UnknownServerInstance):
    """Nothing was known of game server instance {instance_id} at that time, or nothing is kept of
    it."""


class Moment(msgspec.Struct, frozen=True):
    """A past time that may be queried. `is_settled`: nothing that is dated before it can come any
    more."""

    as_of: datetime
    is_blind: bool
    is_settled: bool


class PastPage(msgspec.Struct, frozen=True):
    """A `Page` of a past time."""

    items: list[str]
    last_id: int | None
    observation: Moment


class PastDetail(msgspec.Struct, frozen=True):
    """A `Detail` of a past time."""

    item: str
    observation: Moment


LONGEST_TRANSACTION = "1 minute"
"""Upper bound on the length of a transaction. `transitions.at` is the transaction's start, so rows
can appear up to this much out of order."""

UNDER_WAY = "1 minute"
"""A request for all of the retention is answered from its beginning on, though that has moved on a
little since."""

# Settled by what was observed, since now() of a replica may be past what has reached it.
MOMENT = f"""
SELECT now() AS now, oldest, at,
    coalesce(at < observed_through - interval '{LONGEST_TRANSACTION}', false) AS settled,
    coalesce(observed_through + make_interval(secs => blind_after_seconds) < at, true) OR EXISTS (
        SELECT 1 FROM observation_gaps
        WHERE began_at + make_interval(secs => blind_after_seconds) < at
            AND at < ended_at
    ) AS blind
FROM observation, (SELECT now() - $2::interval AS oldest) kept,
    LATERAL (SELECT CASE WHEN $1 < oldest - interval '{UNDER_WAY}' THEN $1 ELSE greatest($1, oldest)
        END AS at) asked
WHERE id = 1"""


async def look_back(connection: Connection, at: datetime, *, retention: timedelta) -> Moment:
    """Raises TimeNotKept and TimeToCome."""
    (row,) = await connection.fetch(MOMENT, at, retention)
    if row["at"] > row["now"]:
        raise TimeToCome(now=_rfc3339(row["now"]))
    if row["at"] < row["oldest"]:
        raise TimeNotKept(oldest=_rfc3339(row["oldest"]))
    return Moment(row["at"], is_blind=row["blind"], is_settled=row["settled"])


def _rfc3339(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S.%fZ}"


def _status_at(entity: Entity, key: str) -> str:
    """Null for a row that was not known yet."""
    return f"""CASE WHEN status_since <= $1 THEN status WHEN created_date <= $1 THEN (
        SELECT old_status FROM transitions t
        WHERE t.entity = '{entity}' AND t.entity_id = {key}
            AND t.at > $1 AND t.at <= status_since + interval '{LONGEST_TRANSACTION}'
        ORDER BY t.revision LIMIT 1
    ) END"""


def _rows_at(table: str, entity: Entity, key: str, columns: str) -> str:
    """Rows that were known, with the status of then, and since when and why they had it.

    A row's reason and evidence may be newer than its status: the transition has those of then.
    Where the row has not changed since, that is in the partition of one day. OFFSET 0: the status
    is looked up once, and not once for each use.
    """
    return f"""SELECT {key}, {columns}, created_date, status_at AS status,
        coalesce(t.at, CASE WHEN status_since <= $1 THEN status_since END) AS status_since,
        CASE WHEN t.at IS NOT NULL THEN t.reason
            WHEN status_since <= $1 THEN r.reason END AS reason,
        CASE WHEN t.at IS NOT NULL THEN t.evidence
            WHEN status_since <= $1 THEN r.evidence END AS evidence
    FROM {table} r
    CROSS JOIN LATERAL (SELECT {_status_at(entity, key)} AS status_at OFFSET 0) s
    LEFT JOIN LATERAL (
        SELECT at, reason, evidence FROM transitions
        WHERE entity = '{entity}' AND entity_id = r.{key} AND new_status = status_at
            AND at <= least($1, status_since)
            AND at >= CASE WHEN status_since <= $1 THEN status_since
                ELSE created_date - interval '{LONGEST_TRANSACTION}' END
        ORDER BY revision DESC LIMIT 1
    ) t ON true
    WHERE status_at IS NOT NULL"""


WORKERS_AT = _rows_at("workers", Entity.WORKER, "worker_id", "labels")
SERVERS_AT = _rows_at(
    "server_instances", Entity.SERVER_INSTANCE, "instance_id", "worker_id, game_server_config_id"
)
END_AT = f"CASE WHEN is_terminal(status) THEN {utc('status_since')} END"
SERVER_ITEM_AT = f"""instance_id, worker_id, game_server_config_id,
    {utc("created_date")} AS created_date, {END_AT} AS end_date,
    status, is_active(status) AS is_active, {utc("status_since")} AS status_since, reason,
    evidence"""
# $2 is whether the observation was blind. Heartbeats are not kept, so an active worker has no
# health.
WORKER_ITEM_AT = f"""worker_id,
    {utc("created_date")} AS created_date, {END_AT} AS end_date,
    coalesce(health_of_status(status), CASE WHEN $2::bool THEN '{Health.UNKNOWN}' END) AS health,
    status, {utc("status_since")} AS status_since, reason, evidence,
    labels,
    (SELECT count(*) FROM (
        SELECT {_status_at(Entity.SERVER_INSTANCE, "instance_id")} AS status
        FROM server_instances s WHERE s.worker_id = w.worker_id AND created_date <= $1
    ) s WHERE is_active(status)) AS active_servers"""

WORKERS_PAGE = f"""SELECT array_agg(worker_id) AS ids, array_agg(row_to_json(i)::text) AS items
FROM (
    SELECT {WORKER_ITEM_AT} FROM ({WORKERS_AT}) w
    WHERE worker_id > $3
        AND ($5::text IS NULL OR status = $5)
        AND ($6::jsonb IS NULL OR labels @> $6)
        AND ($7::text IS NULL OR coalesce(labels ->> 'group', '') = $7)
    ORDER BY worker_id LIMIT $4
) i"""


async def list_workers_at(
    connection: Connection, filters: WorkerFilters, moment: Moment, *, after: int, limit: int
) -> PastPage:
    """List workers that were known then and whose id is greater than `after`, by id.
    `filters.health` is ignored."""
    labels = labels_given(filters.labels)
    (row,) = await connection.fetch(
        WORKERS_PAGE,
        *(moment.as_of, moment.is_blind, after, limit + 1),
        *(filters.status, labels.get("labels"), labels.get("group")),
    )
    return PastPage(*page_items(row, limit), moment)


SERVERS_PAGE = f"""SELECT array_agg(instance_id) AS ids, array_agg(row_to_json(i)::text) AS items
FROM (
    SELECT {SERVER_ITEM_AT} FROM ({SERVERS_AT}) s
    WHERE instance_id > $2
        AND ($4::text IS NULL OR status = $4)
        AND ($5::bigint IS NULL OR worker_id = $5)
        AND ($6::bigint IS NULL OR game_server_config_id = $6)
        AND (NOT $7::bool OR is_active(status))
    ORDER BY instance_id LIMIT $3
) i"""


async def list_servers_at(
    connection: Connection, filters: ServerFilters, moment: Moment, *, after: int, limit: int
) -> PastPage:
    """Server instances that were known then and whose id is greater than `after`, by id."""
    (row,) = await connection.fetch(
        SERVERS_PAGE,
        *(moment.as_of, after, limit + 1),
        *(filters.status, filters.worker_id, filters.game_server_config_id, filters.active),
    )
    return PastPage(*page_items(row, limit), moment)


def _transitions_at(entity: Entity, key: str) -> str:
    return f"""SELECT coalesce(json_agg(t), '[]') FROM (
        SELECT {TRANSITION_ITEM} FROM transitions
        WHERE entity = '{entity}' AND entity_id = {key} AND at <= $1
        ORDER BY revision DESC LIMIT {TRANSITIONS_SHOWN}
    ) t"""


WORKER_DETAIL = f"""WITH servers AS NOT MATERIALIZED (
    SELECT * FROM ({SERVERS_AT}) s WHERE worker_id = $3
)
SELECT row_to_json(d)::text FROM (
    SELECT {WORKER_ITEM_AT},
        (SELECT coalesce(json_agg(s), '[]') FROM (
            SELECT {SERVER_ITEM_AT} FROM (
                (SELECT * FROM servers WHERE is_active(status))
                UNION ALL
                (SELECT * FROM servers WHERE NOT is_active(status)
                    ORDER BY instance_id DESC LIMIT {ENDED_INSTANCES_SHOWN})
            ) i ORDER BY instance_id DESC
        ) s) AS server_instances,
        ({_transitions_at(Entity.WORKER, "$3")}) AS transitions
    FROM ({WORKERS_AT}) w WHERE worker_id = $3
) d"""


async def get_worker_at(connection: Connection, worker_id: int, moment: Moment) -> PastDetail:
    """Read what `get_worker` reads, as of a past time. Raises WorkerNotKnownThen."""
    item: str | None = await connection.fetchval(
        WORKER_DETAIL, moment.as_of, moment.is_blind, worker_id
    )
    if item is None:
        raise WorkerNotKnownThen(worker_id=worker_id)
    return PastDetail(item, moment)


SERVER_DETAIL = f"""SELECT row_to_json(d)::text FROM (
    SELECT {SERVER_ITEM_AT}, ({_transitions_at(Entity.SERVER_INSTANCE, "$2")}) AS transitions
    FROM ({SERVERS_AT}) i WHERE instance_id = $2
) d"""


async def get_server_at(connection: Connection, instance_id: int, moment: Moment) -> PastDetail:
    """Read what `get_server` reads, as of a past time. Raises ServerInstanceNotKnownThen."""
    item: str | None = await connection.fetchval(SERVER_DETAIL, moment.as_of, instance_id)
    if item is None:
        raise ServerInstanceNotKnownThen(instance_id=instance_id)
    return PastDetail(item, moment)


class PastFleet(msgspec.Struct, frozen=True):
    """The number of workers and server instances in each status; all statuses are there."""

    workers: dict[StatusType, int]
    servers: dict[StatusType, int]


def _counted_at(table: str, entity: Entity, key: str) -> str:
    """Count rows by status. Each transition since then is taken back: one more of its old status,
    one less of its new one."""
    return f"""SELECT json_object_agg(status, number) FROM (
        SELECT status, greatest(sum(number), 0) AS number FROM (
            SELECT status, count(*) AS number FROM {table} GROUP BY status
            UNION ALL
            SELECT status, step * number FROM (
                SELECT old_status, new_status, count(*) AS number FROM transitions
                WHERE entity = '{entity}' AND at > $1 AND entity_id IN (SELECT {key} FROM {table})
                GROUP BY old_status, new_status
            ) c, LATERAL (VALUES (old_status, 1), (new_status, -1)) AS taken_back (status, step)
            WHERE status IS NOT NULL
        ) steps GROUP BY status
    ) counted"""


FLEET = f"""SELECT ({_counted_at("workers", Entity.WORKER, "worker_id")}) AS workers,
    ({_counted_at("server_instances", Entity.SERVER_INSTANCE, "instance_id")}) AS servers"""


async def read_fleet_at(connection: Connection, moment: Moment) -> PastFleet:
    """Read all transitions since then."""
    (row,) = await connection.fetch(FLEET, moment.as_of)
    none = dict.fromkeys(StatusType, 0)
    return PastFleet(none | (row["workers"] or {}), none | (row["servers"] or {}))
