"""ManMan's own database, as far as a bridge reads it and, where that is set, writes it.

Its times have no zone and come from the clocks of its processes, so they are only compared for
equality: a `last_heartbeat` that has changed since the last look is a heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from manman_status.domain.status import CONCLUDED, CONCLUDED_BY, Entity, Reason
from manman_status.errors import ManManStatusError
from manman_status.store.bridges import Copied
from manman_status.store.pool import Connection


class Instance(NamedTuple):
    """A server instance that has not ended."""

    instance_id: int
    worker_id: int
    game_server_config_id: int


class Look(msgspec.Struct, frozen=True):
    """The last heartbeat of each worker that has not ended in ManMan's database, and its server
    instances by id, all at one moment."""

    workers: dict[int, datetime | None]
    instances: Sequence[Instance]


# ManMan has no index on ends or heartbeats, and ended rows stay. Ids grow, so the primary keys
# bound what is read.
WORKERS = """
SELECT worker_id, last_heartbeat FROM manman.workers
 WHERE worker_id >= $1 AND end_date IS NULL
"""
INSTANCES = """
SELECT game_server_instance_id, worker_id, game_server_config_id FROM manman.game_server_instances
 WHERE game_server_instance_id >= $1 AND end_date IS NULL AND worker_id = ANY($2::bigint[])
 ORDER BY game_server_instance_id
"""


class ReadsStandby(ManManStatusError):  # noqa: N818
    """The server is a standby: when it lags, everybody seems silent. Name the primary"""


async def read_look(connection: Connection, since: Look | None) -> Look:
    """Read everything that has not ended, at one moment. After a look it is enough to read from the
    least ids of that one on. Raises ReadsStandby."""
    worker_from = min(since.workers, default=0) if since else 0
    instance_from = min((one.instance_id for one in since.instances), default=0) if since else 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            raise ReadsStandby
        rows = await connection.fetch(WORKERS, worker_from)
        workers = {row["worker_id"]: row["last_heartbeat"] for row in rows}
        instances = await connection.fetch(INSTANCES, instance_from, [*workers])
    return Look(workers, [Instance(*row) for row in instances])


ENDED = """
SELECT worker_id FROM manman.workers
 WHERE worker_id = ANY($1::bigint[]) AND end_date IS NOT NULL
 ORDER BY worker_id
"""


async def ended_workers(connection: Connection, worker_ids: Iterable[int]) -> list[int]:
    """Return those of these workers that have ended, as far as ManMan knows them."""
    return [row["worker_id"] for row in await connection.fetch(ENDED, [*worker_ids])]


# The column has no zone: like ManMan's own processor, the session's zone decides. What ManMan does
# not know, its readers cannot look for, and its foreign keys refuse.
STATUS_INFO = {
    Entity.WORKER: """
INSERT INTO manman.status_info (class_name, status_type, as_of, worker_id)
SELECT $1, $2, $3::timestamptz::timestamp, worker_id FROM manman.workers WHERE worker_id = $4
""",
    Entity.SERVER_INSTANCE: """
INSERT INTO manman.status_info (class_name, status_type, as_of, game_server_instance_id)
SELECT $1, $2, $3::timestamptz::timestamp, game_server_instance_id
  FROM manman.game_server_instances WHERE game_server_instance_id = $4
""",
}


async def write_status_info(connection: Connection, changes: Iterable[Copied]) -> None:
    """Add these changes to ManMan's table of statuses, in the form of its own status processor. A
    change may be written again after a failure."""
    async with connection.transaction():
        for change in changes:
            entity = Entity(change.entity)
            was_concluded = Reason(change.reason) in CONCLUDED
            await connection.execute(
                STATUS_INFO[entity],
                CONCLUDED_BY if was_concluded else entity.value,
                change.status,
                change.as_of,
                change.entity_id,
            )


WRITE_PRIVILEGES = """
SELECT has_table_privilege('manman.status_info', 'INSERT')
   AND coalesce(has_sequence_privilege(
           pg_get_serial_sequence('manman.status_info', 'status_info_id'), 'USAGE'), true)
"""


async def write_privileges(connection: Connection) -> bool:
    """True when the user of this connection may do what `write_status_info` does."""
    may: bool = await connection.fetchval(WRITE_PRIVILEGES)
    return may
