"""Reads of the web page alone: the whole fleet in little room, and one worker's last day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, Health, Reason, StatusType
from manman_status.errors import UnknownWorker
from manman_status.store.health import OBSERVATION, OBSERVATION_ITSELF, Observation
from manman_status.store.reads import observation_of

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

HEALTHS, STATUSES, REASONS = tuple(Health), tuple(StatusType), tuple(Reason)


class FleetMap(msgspec.Struct, frozen=True):
    """`groups` is a JSON array of `[group, ids, healths, statuses, reasons]` by group: the ids of
    its workers that have not ended, ascending, with a space between; then for each of them one
    letter, `a` for the first of `HEALTHS`, of `STATUSES`, of `REASONS`. Ids are text: JavaScript
    has no integers beyond 2^53. Of more than `GROUPS_ON_MAP` groups, those with the most workers
    that are not healthy, and the largest.

    It is a piece of the fleet: at most `WORKERS_A_PIECE`, by id. More follow after `last_id`,
    unless it is None."""

    groups: str
    more_groups: int
    last_id: int | None
    observation: Observation


def _letter(column: str, parameter: int) -> str:
    """Build the letter of a column's value; one of a newer version has the letter after the
    last."""
    values = f"${parameter}::text[]"
    return f"chr(96 + coalesce(array_position({values}, {column}), cardinality({values}) + 1))"


GROUPS_ON_MAP = 1_000
WORKERS_A_PIECE = 20_000
FLEET_MAP = f"""WITH {OBSERVATION},
piece AS MATERIALIZED (
    SELECT * FROM (
        SELECT coalesce(labels ->> 'group', '') AS "group", worker_id, status, health,
            CASE WHEN is_active(status) AND last_heartbeat IS NULL THEN '{Reason.NEVER_BEAT}'
                ELSE reason END AS reason
        FROM worker_health
        WHERE has_not_ended(status) AND worker_id > $4 AND ($5::jsonb IS NULL OR labels @> $5)
        ORDER BY worker_id OFFSET 0
    ) w
    WHERE $6::text IS NULL OR health = $6
    LIMIT {WORKERS_A_PIECE}
),
groups AS MATERIALIZED (
    SELECT "group", count(*) AS size, count(*) FILTER (WHERE health <> '{Health.HEALTHY}') AS ill,
        json_build_array("group", string_agg(worker_id::text, ' ' ORDER BY worker_id),
        string_agg({_letter("health", 1)}, '' ORDER BY worker_id),
        string_agg({_letter("status", 2)}, '' ORDER BY worker_id),
        string_agg({_letter("reason", 3)}, '' ORDER BY worker_id)) AS g
    FROM piece GROUP BY "group"
)
SELECT {OBSERVATION_ITSELF}, (
    SELECT coalesce(json_agg(g ORDER BY "group"), '[]')::text FROM (
        SELECT "group", g FROM groups ORDER BY ill DESC, size DESC, "group" LIMIT {GROUPS_ON_MAP}
    ) shown
) AS groups, greatest((SELECT count(*) FROM groups) - {GROUPS_ON_MAP}, 0) AS more_groups,
    (SELECT max(worker_id) FROM piece HAVING count(*) = {WORKERS_A_PIECE}) AS last_id
FROM observed"""


async def read_fleet_map(
    connection: Connection,
    *,
    after: int,
    group: str | None,
    health: Health | None,
) -> FleetMap:
    """Read the workers whose ids are greater than `after`: all, or those of a group or of a
    health."""
    labels = None if group is None else {"group": group}
    values = (HEALTHS, STATUSES, REASONS, after, labels, health)
    (row,) = await connection.fetch(FLEET_MAP, *values)
    return FleetMap(row["groups"], row["more_groups"], row["last_id"], observation_of(row))


class Day(msgspec.Struct, frozen=True):
    """One worker from `begins` to `ends`, the moment it is known of. Times are seconds since the
    epoch."""

    begins: float
    ends: float
    statuses: list[tuple[float, StatusType]]
    """Times and the statuses from then on; the first is from before the day where there was one."""
    servers: list[tuple[float, int]]
    """Times and the numbers of its server instances that ran from then on; the first at the
    beginning of the day."""
    blind: list[tuple[float, float]]
    """Begin and end of the times that were not monitored."""


# Before the first transition of the day the status was the old one of that.
DAY = f"""WITH {OBSERVATION},
day AS (SELECT as_of AS ends, as_of - interval '1 day' AS begins FROM observed),
known AS (SELECT created_date, status FROM workers WHERE worker_id = $1),
changes AS (
    SELECT revision, at, old_status, new_status FROM transitions
    WHERE entity = '{Entity.WORKER}' AND entity_id = $1 AND at > (SELECT begins FROM day)
),
before AS (
    SELECT greatest(created_date, begins) AS at, CASE WHEN EXISTS (SELECT FROM changes)
        THEN (SELECT old_status FROM changes ORDER BY revision LIMIT 1) ELSE status END AS status
    FROM known, day
),
statuses AS (
    SELECT 0 AS revision, at, status FROM before WHERE status IS NOT NULL
    UNION ALL SELECT revision, at, new_status FROM changes
),
instances AS (
    SELECT created_date,
        CASE WHEN NOT is_active(status) THEN coalesce(end_date, status_since) END AS ended
    FROM server_instances WHERE worker_id = $1
),
steps AS (
    SELECT at, sum(step)::bigint AS step FROM (
        SELECT greatest(created_date, begins) AS at, 1 AS step FROM instances, day WHERE
            coalesce(ended > begins, true)
        UNION ALL SELECT ended, -1 FROM instances, day WHERE ended > begins
        UNION ALL SELECT begins, 0 FROM day
    ) s GROUP BY at
)
SELECT extract(epoch FROM begins)::float8 AS begins, extract(epoch FROM ends)::float8 AS ends,
    EXISTS (SELECT FROM known) AS is_known,
    (SELECT json_agg(json_build_array(extract(epoch FROM at), status) ORDER BY revision) FROM
        statuses) AS statuses,
    (SELECT json_agg(json_build_array(extract(epoch FROM at), running) ORDER BY at) FROM (
        SELECT at, sum(step) OVER (ORDER BY at) AS running FROM steps
    ) r) AS servers,
    (SELECT json_agg(json_build_array(extract(epoch FROM greatest(blind_from, begins)),
        extract(epoch FROM ended_at)))
        FROM (SELECT began_at + make_interval(secs => blind_after_seconds) AS blind_from, ended_at
            FROM observation_gaps, observation) g
        WHERE ended_at > greatest(blind_from, begins)) AS blind
FROM day"""


async def read_day(connection: Connection, worker_id: int) -> Day:
    """Read all that is kept of the worker's server instances."""
    (row,) = await connection.fetch(DAY, worker_id)
    if not row["is_known"]:
        raise UnknownWorker(worker_id=worker_id)
    return Day(
        row["begins"], row["ends"], row["statuses"] or [], row["servers"], row["blind"] or []
    )
