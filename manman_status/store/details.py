"""One worker or one server instance with its history, in one statement and so of one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import CONCLUDED, CONCLUDED_BY, Entity
from manman_status.errors import UnknownServerInstance, UnknownWorker
from manman_status.store.health import OBSERVATION, Observation
from manman_status.store.reads import (
    SERVER_ITEM,
    TRANSITION_ITEM,
    WORKER_COLUMNS,
    WORKER_ITEM,
    observation_of,
    utc,
)

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

ENDED_INSTANCES_SHOWN = 100
TRANSITIONS_SHOWN = 50


class Detail(msgspec.Struct, frozen=True):
    """`item` is a JSON object."""

    item: str
    observation: Observation


def _transitions(entity: Entity, key: str) -> str:
    return f"""SELECT coalesce(json_agg(t), '[]') FROM (
        SELECT {TRANSITION_ITEM} FROM transitions
        WHERE entity = '{entity}' AND entity_id = {key}
        ORDER BY revision DESC LIMIT {TRANSITIONS_SHOWN}
    ) t"""


SERVERS_OF_WORKER = f"""SELECT coalesce(json_agg(s), '[]') FROM (
    SELECT {SERVER_ITEM} FROM (
        (SELECT * FROM server_instances WHERE worker_id = $1 AND is_active(status))
        UNION ALL
        (SELECT * FROM server_instances WHERE worker_id = $1 AND NOT is_active(status)
            ORDER BY instance_id DESC LIMIT {ENDED_INSTANCES_SHOWN})
    ) i ORDER BY instance_id DESC
) s"""
WORKER = f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision, epoch, (
    SELECT row_to_json(d)::text FROM (
        SELECT {WORKER_ITEM},
            ({SERVERS_OF_WORKER}) AS server_instances,
            ({_transitions(Entity.WORKER, "$1")}) AS transitions
        FROM (SELECT {WORKER_COLUMNS} FROM worker_health WHERE worker_id = $1) w
    ) d
) AS item FROM observed"""


async def get_worker(connection: Connection, worker_id: int) -> Detail:
    """Read a worker with all its active server instances, its newest ended ones and its newest
    transitions, newest first. Raises UnknownWorker."""
    (row,) = await connection.fetch(WORKER, worker_id)
    if row["item"] is None:
        raise UnknownWorker(worker_id=worker_id)
    return Detail(row["item"], observation_of(row))


SERVER = f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision, epoch, (
    SELECT row_to_json(d)::text FROM (
        SELECT {SERVER_ITEM},
            ({_transitions(Entity.SERVER_INSTANCE, "$1")}) AS transitions
        FROM server_instances WHERE instance_id = $1
    ) d
) AS item FROM observed"""


async def get_server(connection: Connection, instance_id: int) -> Detail:
    """Read an instance with its newest transitions, newest first. Raises UnknownServerInstance."""
    (row,) = await connection.fetch(SERVER, instance_id)
    if row["item"] is None:
        raise UnknownServerInstance(instance_id=instance_id)
    return Detail(row["item"], observation_of(row))


def _status_info(entity: Entity, table: str, key: str) -> str:
    """Select the newest status in the shape of ManMan's `ExternalStatusInfo`, whose columns are
    called `worker_id` and `game_server_instance_id`."""
    concluded = ", ".join(f"'{reason}'" for reason in sorted(CONCLUDED))
    ids = dict.fromkeys(Entity, "NULL") | {entity: key}
    return f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision, epoch, (
    SELECT row_to_json(i)::text FROM (
        SELECT
            CASE WHEN e.reason IN ({concluded}) THEN '{CONCLUDED_BY}' ELSE '{entity}' END
                AS class_name,
            e.status AS status_type,
            {utc("coalesce(t.as_of, t.at, e.status_since)")} AS as_of,
            coalesce(t.revision, -1) AS status_info_id,
            {ids[Entity.WORKER]} AS worker_id,
            {ids[Entity.SERVER_INSTANCE]} AS game_server_instance_id
        FROM {table} e LEFT JOIN LATERAL (
            SELECT revision, at, as_of FROM transitions
            WHERE entity = '{entity}' AND entity_id = $1
            ORDER BY revision DESC LIMIT 1
        ) t ON true
        WHERE {key} = $1
    ) i
) AS item FROM observed"""


WORKER_STATUS = _status_info(Entity.WORKER, "workers", "worker_id")
SERVER_STATUS = _status_info(Entity.SERVER_INSTANCE, "server_instances", "instance_id")


async def get_worker_status(connection: Connection, worker_id: int) -> Detail:
    """Read a worker's newest status as ManMan shows it. Raises UnknownWorker."""
    (row,) = await connection.fetch(WORKER_STATUS, worker_id)
    if row["item"] is None:
        raise UnknownWorker(worker_id=worker_id)
    return Detail(row["item"], observation_of(row))


async def get_server_status(connection: Connection, instance_id: int) -> Detail:
    """Read an instance's newest status as ManMan shows it. Raises UnknownServerInstance."""
    (row,) = await connection.fetch(SERVER_STATUS, instance_id)
    if row["item"] is None:
        raise UnknownServerInstance(instance_id=instance_id)
    return Detail(row["item"], observation_of(row))
