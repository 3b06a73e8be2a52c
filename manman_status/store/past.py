"""The fleet as it was at a past time, as far as rows and transitions tell.

A row that has not changed since says what it was; of another the first transition after that time
does, by its old status. A row's own times bound in which days' partitions either is looked for.
Numbers of the whole fleet are those of now without what has changed since. Who was deleted by the
retention is gone from past times too.
"""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter,
# always

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, Health, StatusType
from manman_status.errors import ManManStatusError, UnknownServerInstance, UnknownWorker
from manman_status.store.details import ENDED_INSTANCES_SHOWN, TRANSITIONS_SHOWN
from manman_status.store.reads import (
    LABELS_HOLD,
    TRANSITION_ITEM,
    ServerFilters,
    WorkerFilters,
    labels_given,
    utc,
)

if TYPE_CHECKING:
    import asyncpg

    from manman_status.store.pool import Connection


class TimeNotKept(ManManStatusError):  # noqa: N818
    """Nothing is kept of that time; the oldest that may be asked for is {oldest}."""


class TimeToCome(ManManStatusError):  # noqa: N818
    """That time is still to come: it is {now} here."""


class WorkerNotKnownThen(UnknownWorker):
    """Nothing was known of worker {worker_id} at that time, or nothing is kept of it."""


class ServerInstanceNotKnownThen(UnknownServerInstance):
    """Nothing was known of game server instance {instance_id} at that time, or nothing is kept of
    it."""


class Moment(msgspec.Struct, frozen=True):
    """A past time that may be asked for. `is_settled`: nothing that is dated before it can come any
    more."""

    at: datetime
    is_blind: bool
    is_settled: bool


LONGEST_TRANSACTION = "1 minute"
"""No transaction takes so long. Its transitions are dated by its beginning, and may be out of order
by as much."""

UNDER_WAY = "1 minute"
"""Who asks for all of the retention is answered from its beginning on, though that has gone on a
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


class PastPage(msgspec.Struct, frozen=True):
    """As `Page`, of a past time."""

    items: list[str]
    last_id: int | None


# From here on $1 is the time. Whoever was not known yet has no status.
STATUS_THEN = f"""CASE WHEN status_since <= $1 THEN status WHEN created_date <= $1 THEN (
        SELECT old_status FROM transitions t
        WHERE t.entity = '{{entity}}' AND t.entity_id = {{key}}
            AND t.at > $1 AND t.at <= status_since + interval '{LONGEST_TRANSACTION}'
        ORDER BY t.revision LIMIT 1
    ) END"""
WORKER_STATUS_THEN = STATUS_THEN.format(entity=Entity.WORKER, key="worker_id")
SERVER_STATUS_THEN = STATUS_THEN.format(entity=Entity.SERVER_INSTANCE, key="instance_id")

ACTIVE_THEN = "is_active(status_then)"

# OFFSET 0: else the status would be looked for once to be compared and once to be shown.
THEN = """SELECT r.*, status_then FROM {table} r, LATERAL (SELECT {status_then} AS status_then
    OFFSET 0) s
    WHERE {where}"""
# A row's reason and evidence may be newer than its status: the transition has those of then. Where
# the row has not changed since, it is in the partition of one day.
WITH_REASON = f"""SELECT {{columns}}, created_date, status_then AS status,
        coalesce(t.at, CASE WHEN status_since <= $1 THEN status_since END) AS status_since,
        CASE WHEN t.at IS NOT NULL THEN t.reason WHEN status_since <= $1 THEN r.reason END AS
            reason,
        CASE WHEN t.at IS NOT NULL THEN t.evidence WHEN status_since <= $1 THEN r.evidence END AS
            evidence
    FROM ({{rows}}) r LEFT JOIN LATERAL (
        SELECT at, reason, evidence FROM transitions
        WHERE entity = '{{entity}}' AND entity_id = r.{{key}} AND new_status = status_then
            AND at <= least($1, status_since)
            AND at >= CASE WHEN status_since <= $1 THEN status_since
                ELSE created_date - interval '{LONGEST_TRANSACTION}' END
        ORDER BY revision DESC LIMIT 1
    ) t ON true"""


def _servers_then(rows: str) -> str:
    columns = "instance_id, worker_id, game_server_config_id"
    return WITH_REASON.format(
        columns=columns, rows=rows, entity=Entity.SERVER_INSTANCE, key="instance_id"
    )


def _workers_then(rows: str) -> str:
    return WITH_REASON.format(
        columns="worker_id, labels", rows=rows, entity=Entity.WORKER, key="worker_id"
    )


END_THEN = f"CASE WHEN is_terminal(status) THEN {utc('status_since')} END"
SERVER_ITEM_THEN = f"""instance_id, worker_id, game_server_config_id,
    {utc("created_date")} AS created_date, {END_THEN} AS end_date,
    status, is_active(status) AS is_active, {utc("status_since")} AS status_since, reason,
    evidence"""
# $2 is whether the observation was blind. No beats are kept, so nothing tells how well one was that
# was active.
WORKER_ITEM_THEN = f"""worker_id,
    {utc("created_date")} AS created_date, {END_THEN} AS end_date,
    coalesce(health_of_status(status), CASE WHEN $2::bool THEN '{Health.UNKNOWN}' END) AS health,
    status, {utc("status_since")} AS status_since, reason, evidence,
    labels,
    (SELECT count(*) FROM (
        SELECT {SERVER_STATUS_THEN} AS status FROM server_instances s
        WHERE s.worker_id = w.worker_id AND created_date <= $1
    ) s WHERE is_active(status)) AS active_servers"""

PAGE_THEN = """SELECT array_agg({key}) AS ids, array_agg(row_to_json(i)::text) AS items
FROM (SELECT {item} FROM ({rows}) w ORDER BY {key}) i"""


@cache
def workers_then_query(given: tuple[str, ...]) -> str:
    """$2 is whether it was blind, $3 the id to begin after, $4 the limit, $5… the values
    `given`."""
    conditions = ["worker_id > $3", "status_then IS NOT NULL"]
    hold = LABELS_HOLD | {"status": "status_then = {}"}
    conditions += [hold[name].format(f"${number}") for number, name in enumerate(given, start=5)]
    rows = THEN.format(
        table="workers", status_then=WORKER_STATUS_THEN, where=" AND ".join(conditions)
    )
    rows = _workers_then(f"{rows} ORDER BY worker_id LIMIT $4")
    return PAGE_THEN.format(key="worker_id", item=WORKER_ITEM_THEN, rows=rows)


async def list_workers_then(
    connection: Connection, filters: WorkerFilters, moment: Moment, *, after: int, limit: int
) -> PastPage:
    """Workers that were known then and whose id is greater than `after`, by id. `filters.health` is
    not looked at."""
    values = labels_given(filters.labels) | ({"status": filters.status} if filters.status else {})
    query = workers_then_query(tuple(values))
    (row,) = await connection.fetch(
        query, moment.at, moment.is_blind, after, limit + 1, *values.values()
    )
    return _past_page(row, limit)


@cache
def servers_then_query(given: tuple[str, ...], *, active: bool) -> str:
    """$2 is the id to begin after, $3 the limit, $4… the values of the columns `given`."""
    conditions = ["instance_id > $2", "status_then IS NOT NULL"]
    conditions += [
        f"{'status_then' if column == 'status' else column} = ${number}"
        for number, column in enumerate(given, start=4)
    ]
    if active:
        conditions.append(ACTIVE_THEN)
    rows = THEN.format(
        table="server_instances", status_then=SERVER_STATUS_THEN, where=" AND ".join(conditions)
    )
    rows = _servers_then(f"{rows} ORDER BY instance_id LIMIT $3")
    return PAGE_THEN.format(key="instance_id", item=SERVER_ITEM_THEN, rows=rows)


async def list_servers_then(
    connection: Connection, filters: ServerFilters, moment: Moment, *, after: int, limit: int
) -> PastPage:
    """Server instances that were known then and whose id is greater than `after`, by id."""
    values = {
        column: value
        for column in ("status", "worker_id", "game_server_config_id")
        if (value := getattr(filters, column)) is not None
    }
    query = servers_then_query(tuple(values), active=filters.active)
    (row,) = await connection.fetch(query, moment.at, after, limit + 1, *values.values())
    return _past_page(row, limit)


def _past_page(row: asyncpg.Record, limit: int) -> PastPage:
    items: list[str] = row["items"] or []
    return PastPage(items[:limit], row["ids"][limit - 1] if len(items) > limit else None)


TRANSITIONS_THEN = f"""SELECT coalesce(json_agg(t), '[]') FROM (
    SELECT {TRANSITION_ITEM} FROM transitions
    WHERE entity = '{{entity}}' AND entity_id = {{id}} AND at <= $1
    ORDER BY revision DESC LIMIT {TRANSITIONS_SHOWN}
) t"""
SERVERS_OF_WORKER_THEN = """WITH known AS ({known})
SELECT coalesce(json_agg(s), '[]') FROM (SELECT {item} FROM ({rows}) i ORDER BY instance_id DESC)
    s""".format(
    known=THEN.format(
        table="server_instances",
        status_then=SERVER_STATUS_THEN,
        where="worker_id = $3 AND status_then IS NOT NULL",
    ),
    item=SERVER_ITEM_THEN,
    rows=_servers_then(f"""(SELECT * FROM known WHERE {ACTIVE_THEN}) UNION ALL
        (SELECT * FROM known WHERE NOT {ACTIVE_THEN} ORDER BY instance_id DESC LIMIT
            {ENDED_INSTANCES_SHOWN})"""),
)
WORKER_DETAIL_THEN = """SELECT row_to_json(d)::text FROM (
    SELECT {item}, ({servers}) AS server_instances, ({transitions}) AS transitions FROM ({rows}) w
) d""".format(
    item=WORKER_ITEM_THEN,
    servers=SERVERS_OF_WORKER_THEN,
    transitions=TRANSITIONS_THEN.format(entity=Entity.WORKER, id="$3"),
    rows=_workers_then(
        THEN.format(
            table="workers",
            status_then=WORKER_STATUS_THEN,
            where="worker_id = $3 AND status_then IS NOT NULL",
        )
    ),
)


async def get_worker_then(connection: Connection, worker_id: int, moment: Moment) -> str:
    """A JSON object, as of `get_worker`. Raises WorkerNotKnownThen."""
    item: str | None = await connection.fetchval(
        WORKER_DETAIL_THEN, moment.at, moment.is_blind, worker_id
    )
    if item is None:
        raise WorkerNotKnownThen(worker_id=worker_id)
    return item


SERVER_DETAIL_THEN = """SELECT row_to_json(d)::text FROM (
    SELECT {item}, ({transitions}) AS transitions FROM ({rows}) i
) d""".format(
    item=SERVER_ITEM_THEN,
    transitions=TRANSITIONS_THEN.format(entity=Entity.SERVER_INSTANCE, id="$2"),
    rows=_servers_then(
        THEN.format(
            table="server_instances",
            status_then=SERVER_STATUS_THEN,
            where="instance_id = $2 AND status_then IS NOT NULL",
        )
    ),
)


async def get_server_then(connection: Connection, instance_id: int, moment: Moment) -> str:
    """A JSON object, as of `get_server`. Raises ServerInstanceNotKnownThen."""
    item: str | None = await connection.fetchval(SERVER_DETAIL_THEN, moment.at, instance_id)
    if item is None:
        raise ServerInstanceNotKnownThen(instance_id=instance_id)
    return item


class PastFleet(msgspec.Struct, frozen=True):
    """How many of those known then had each status; all statuses are there."""

    workers: dict[StatusType, int]
    servers: dict[StatusType, int]


# Each transition since then is taken back: one more of its old status, one less of its new one.
COUNTED_THEN = """(SELECT json_object_agg(status, number) FROM (
    SELECT status, greatest(sum(number), 0) AS number FROM (
        SELECT status, count(*) AS number FROM {table} GROUP BY status
        UNION ALL
        SELECT status, step * number FROM (
            SELECT old_status, new_status, count(*) AS number FROM transitions
            WHERE entity = '{entity}' AND at > $1 AND entity_id IN (SELECT {key} FROM {table})
            GROUP BY old_status, new_status
        ) changes, LATERAL (VALUES (old_status, 1), (new_status, -1)) AS taken_back (status, step)
        WHERE status IS NOT NULL
    ) steps GROUP BY status
) counted)"""
FLEET_THEN = """SELECT {workers} AS workers, {servers} AS servers""".format(
    workers=COUNTED_THEN.format(table="workers", key="worker_id", entity=Entity.WORKER),
    servers=COUNTED_THEN.format(
        table="server_instances", key="instance_id", entity=Entity.SERVER_INSTANCE
    ),
)


async def read_fleet_then(connection: Connection, moment: Moment) -> PastFleet:
    """Reads all transitions since then."""
    (row,) = await connection.fetch(FLEET_THEN, moment.at)
    none = dict.fromkeys(StatusType, 0)
    return PastFleet(none | (row["workers"] or {}), none | (row["servers"] or {}))
