"""The fleet in numbers as Prometheus and the page have them every few seconds, and each worker for
itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from manman_status.domain.status import Health, StatusType
from manman_status.store.health import Observation
from manman_status.store.reads import observation_of
from manman_status.store.system_reads import (
    AlertNumber,
    fleet_query,
    processors_of_the_last,
    read_numbers,
)

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

LARGEST_SHOWN, WORST_SHOWN = 500, 100


class Measured(msgspec.Struct, frozen=True):
    active_by_health: dict[Health, int]
    """The number of workers that have not ended, by what there is."""
    workers: list[tuple[str, Health, int]]
    """Group, health, and how many; only what there is, and of the groups that are shown:
    `LARGEST_SHOWN`, and the `WORST_SHOWN` with the most workers that are not healthy."""
    groups_total: int
    terminated_workers: int
    unwatched_workers: int
    """The same as in `Fleet`."""
    servers_by_status: dict[StatusType, int]
    oldest_heartbeat_age_seconds: float | None
    """The oldest last heartbeat of the active workers; None when none of them has ever sent one. It
    is read again after up to 20 times as long as reading takes."""
    processors: list[dict[str, Any]]
    """The same as in `Fleet`, without the processors that have not reported for so long that
    monitoring counts as blind."""
    guards: list[dict[str, Any]]
    """The same as in `Fleet`."""
    guards_total: int
    guards_held: int
    """Workers that all of them hold."""
    alerts: list[AlertNumber]
    observation: Observation
    alerts_judged_age_seconds: float | None = None
    """None before the rules were ever judged."""


SHOWN = "(SELECT make_interval(secs => blind_after_seconds) FROM observation)"
COLUMNS = f"""{processors_of_the_last(SHOWN)},
    (SELECT coalesce(sum(held), 0)::bigint FROM guards) AS guards_held,
    (SELECT extract(epoch FROM now() - judged_at)::float8 FROM alert_progress) AS judged_age"""
MEASURED = (
    fleet_query(COLUMNS, largest=LARGEST_SHOWN, worst=WORST_SHOWN),
    fleet_query(COLUMNS, largest=LARGEST_SHOWN, worst=WORST_SHOWN, by_rows=True),
)


async def read_measured(connection: Connection) -> Measured:
    row = await read_numbers(connection, MEASURED)
    return Measured(
        active_by_health=row["active_by_health"] or {},
        workers=row["workers"] or [],
        groups_total=row["groups_total"],
        terminated_workers=row["terminated_workers"],
        unwatched_workers=row["unwatched_workers"],
        servers_by_status=dict.fromkeys(StatusType, 0) | (row["servers"] or {}),
        oldest_heartbeat_age_seconds=row["oldest_age"],
        processors=row["processors"] or [],
        guards=row["guards"] or [],
        guards_total=row["guards_total"],
        guards_held=row["guards_held"],
        alerts=row["alerts"] or [],
        observation=observation_of(row),
        alerts_judged_age_seconds=row["judged_age"],
    )


class WorkerSigns(msgspec.Struct, frozen=True):
    """Each worker that has not ended, by id: its health, and the age of its last heartbeat, None
    without one."""

    ids: list[int]
    healths: list[Health]
    ages_seconds: list[float | None]


WORKER_SIGNS = """SELECT coalesce(array_agg(worker_id), '{}') AS ids,
    coalesce(array_agg(health), '{}') AS healths,
    coalesce(array_agg(extract(epoch FROM now() - last_heartbeat)::float8), '{}') AS ages
FROM (SELECT * FROM worker_health WHERE has_not_ended(status) ORDER BY worker_id) w"""


async def read_worker_signs(connection: Connection) -> WorkerSigns:
    (row,) = await connection.fetch(WORKER_SIGNS)
    return WorkerSigns(row["ids"], row["healths"], row["ages"])
