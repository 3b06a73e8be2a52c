"""The fleet in numbers as Prometheus has them every few seconds: each part for itself, as seldom as it may be."""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter, always

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import msgspec

from manman_status.domain.liveness import MISSED_BEATS_TO_BE_LATE
from manman_status.domain.status import TERMINAL, Entity, Health, StatusType
from manman_status.store.health import HEALTH, IS_NOT_TERMINAL, IS_TERMINAL, OBSERVATION, Observation
from manman_status.store.reads import observation_of
from manman_status.store.system_reads import ALERTS, GROUP_NUMBERS, GROUPS, GUARDS, PROCESSORS, AlertNumber

if TYPE_CHECKING:
    from manman_status.store.health import Timeouts
    from manman_status.store.pool import Connection

LARGEST_SHOWN, WORST_SHOWN = 500, 100
NOT_TERMINAL: Final = tuple(status for status in StatusType if status not in TERMINAL)


class Measured(msgspec.Struct, frozen=True):
    """All but the server instances, and what has ended, whose number only grows."""

    active_by_health: dict[Health, int]
    """Of the workers that have not ended; only what there is."""
    workers: list[tuple[str, Health, int]]
    """Group, health, and how many; only what there is, and of the groups that are shown: `LARGEST_SHOWN`, and the
    `WORST_SHOWN` with the most workers that are not healthy."""
    groups_total: int
    oldest_heartbeat_age_seconds: float | None
    processors: list[dict[str, Any]]
    """As in `Fleet`, but only those that reported within the time after which nobody counts as observed."""
    guards: list[dict[str, Any]]
    """As in `Fleet`."""
    guards_total: int
    guards_held: int
    """Workers that all of them hold."""
    alerts: list[AlertNumber]
    observation: Observation
    alerts_judged_age_seconds: float | None = None
    """None before the rules were ever asked."""


# Nearly every worker, and little arithmetic for it: the watermark is not yet past the default interval's lateness.
SURELY_HEALTHY = f"""last_heartbeat >= (
    SELECT observed_through - {MISSED_BEATS_TO_BE_LATE} * $1::float8 * interval '1 second'
    FROM observed WHERE lag_seconds <= $4::float8
) AND status = '{StatusType.RUNNING}' AND (interval_seconds >= $1::float8 OR interval_seconds IS NULL)"""
# OFFSET 0: else PostgreSQL expects a group of each worker, and sorts them all.
MEASURED = f"""WITH {OBSERVATION},
workers_counted AS (
    SELECT "group", health, count(*) AS number, min(last_heartbeat) AS oldest
    FROM (
        SELECT coalesce(labels ->> 'group', '') AS "group",
            CASE WHEN status <> '{StatusType.LOST}' THEN last_heartbeat END AS last_heartbeat,
            CASE WHEN {SURELY_HEALTHY} THEN '{Health.HEALTHY}' ELSE {HEALTH} END AS health
        FROM workers WHERE {IS_NOT_TERMINAL} OFFSET 0
    ) w
    GROUP BY "group", health
),
{GROUPS.format(healthy=Health.HEALTHY, largest=LARGEST_SHOWN, worst=WORST_SHOWN)}
SELECT as_of, lag_seconds, revision, epoch, clock_step, dropped_at, slowest_queue,
    (SELECT extract(epoch FROM as_of - min(oldest))::float8 FROM workers_counted) AS oldest_age,
    {GROUP_NUMBERS},
    ({PROCESSORS.format(shown="make_interval(secs => $4::float8)")}) AS processors,
    ({GUARDS}) AS guards, (SELECT count(*) FROM guards) AS guards_total,
    (SELECT coalesce(sum(held), 0)::bigint FROM guards) AS guards_held,
    ({ALERTS}) AS alerts,
    (SELECT extract(epoch FROM now() - judged_at)::float8 FROM alert_progress) AS judged_age
FROM observed"""


async def read_measured(connection: Connection, *, timeouts: Timeouts) -> Measured:
    (row,) = await connection.fetch(MEASURED, *timeouts.values)
    return Measured(
        active_by_health=row["active_by_health"] or {},
        workers=row["workers"] or [],
        groups_total=row["groups_total"],
        oldest_heartbeat_age_seconds=row["oldest_age"],
        processors=row["processors"] or [],
        guards=row["guards"] or [],
        guards_total=row["guards_total"],
        guards_held=row["guards_held"],
        alerts=row["alerts"] or [],
        observation=observation_of(row),
        alerts_judged_age_seconds=row["judged_age"],
    )


SERVERS = f"""SELECT epoch, revision, (SELECT json_agg(json_build_array(NULL, status, number)) FROM (
    SELECT status, count(*) AS number FROM server_instances WHERE {IS_NOT_TERMINAL} GROUP BY status
) s) AS changes FROM revision_counter"""
SERVERS_SINCE = f"""SELECT epoch, revision, (SELECT json_agg(json_build_array(old_status, new_status, number)) FROM (
    SELECT old_status, new_status, count(*) AS number FROM transitions t
    WHERE t.revision > $1 AND entity = '{Entity.SERVER_INSTANCE}' GROUP BY old_status, new_status
) t) AS changes FROM revision_counter"""
COUNTED_ANEW_AFTER_SECONDS = 600.0


class ServerNumbers:
    """How many server instances are of each status, but for those that have ended.

    Counted once, and from then on known by the transitions since, which are one with the rows: the hundred thousands
    that run cost nothing. Counted anew after ten minutes, and when the database is another than it was.
    """

    def __init__(self) -> None:
        self._numbers: Counter[str | None] = Counter()
        self._epoch = ""
        self._revision = 0
        self._counted_at = float("-inf")

    async def read(self, connection: Connection) -> dict[StatusType, int]:
        row = None
        if monotonic() - self._counted_at < COUNTED_ANEW_AFTER_SECONDS:
            (row,) = await connection.fetch(SERVERS_SINCE, self._revision)
        if row is None or row["epoch"] != self._epoch or row["revision"] < self._revision:
            (row,) = await connection.fetch(SERVERS)
            self._numbers.clear()
            self._counted_at = monotonic()
        for old_status, new_status, number in row["changes"] or ():
            self._numbers[new_status] += number
            self._numbers[old_status] -= number
        self._epoch, self._revision = row["epoch"], row["revision"]
        return {status: self._numbers[status] for status in NOT_TERMINAL}


class Ended(msgspec.Struct, frozen=True):
    workers: int
    servers_by_status: dict[StatusType, int]


ENDED = f"""SELECT (SELECT count(*) FROM workers WHERE {IS_TERMINAL}) AS workers,
    (SELECT json_object_agg(status, number) FROM (
        SELECT status, count(*) AS number FROM server_instances WHERE {IS_TERMINAL} GROUP BY status
    ) s) AS servers"""


async def read_ended(connection: Connection) -> Ended:
    """Reads an index through all that ever ended and is still kept."""
    (row,) = await connection.fetch(ENDED)
    return Ended(row["workers"], dict.fromkeys(sorted(TERMINAL), 0) | (row["servers"] or {}))


class WorkerSigns(msgspec.Struct, frozen=True):
    """Of each worker that has not ended, by id: its health, and how long before now its last beat was, None without."""

    ids: list[int]
    healths: list[Health]
    ages_seconds: list[float | None]


WORKER_SIGNS = f"""WITH {OBSERVATION}
SELECT coalesce(array_agg(worker_id), '{{}}') AS ids, coalesce(array_agg({HEALTH}), '{{}}') AS healths,
    coalesce(array_agg(extract(epoch FROM now() - last_heartbeat)::float8), '{{}}') AS ages
FROM (SELECT * FROM workers WHERE {IS_NOT_TERMINAL} ORDER BY worker_id) w"""


async def read_worker_signs(connection: Connection, *, timeouts: Timeouts) -> WorkerSigns:
    (row,) = await connection.fetch(WORKER_SIGNS, *timeouts.values)
    return WorkerSigns(row["ids"], row["healths"], row["ages"])
