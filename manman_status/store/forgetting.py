"""Forgetting a worker or a server instance. The caller owns the transaction, and appends the
transitions."""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from manman_status.domain.rows import Evidence, Transition
from manman_status.domain.status import TERMINAL, Entity, Reason, StatusType
from manman_status.store.pool import Connection
from manman_status.store.uptime_days import set_apart

LOCK_WORKER = "SELECT 1 FROM workers WHERE worker_id = $1 FOR UPDATE"
DELETE_INSTANCES = """
DELETE FROM server_instances WHERE worker_id = $1
RETURNING 'game_server_instance' AS entity, instance_id AS entity_id, status
"""
DELETE_WORKER = (
    "DELETE FROM workers WHERE worker_id = $1 RETURNING 'worker' AS entity, worker_id AS entity_id,"
    " status"
)


async def forget_worker(
    connection: Connection, worker_id: int, evidence: Evidence
) -> list[Transition] | None:
    """Delete the worker and all its server instances. Return the ends of those that had none; None
    if the worker is not known."""
    if not await connection.fetchval(LOCK_WORKER, worker_id):
        return None
    rows = await connection.fetch(DELETE_INSTANCES, worker_id)
    rows = sorted(rows, key=lambda row: row["entity_id"])
    await set_apart(connection, [worker_id])
    return ends_of(
        [*rows, *await connection.fetch(DELETE_WORKER, worker_id)], Reason.FORGOTTEN, evidence
    )


# An inventory that repeats itself is not looked at: the next one must be, if it lists the instance
# still.
DISTRUST_INVENTORY = """
UPDATE workers SET inventory_digest = 0
 WHERE worker_id = (SELECT worker_id FROM server_instances WHERE instance_id = $1)
"""
DELETE_INSTANCE = """
DELETE FROM server_instances WHERE instance_id = $1
RETURNING 'game_server_instance' AS entity, instance_id AS entity_id, status
"""


async def forget_instance(
    connection: Connection, instance_id: int, evidence: Evidence
) -> list[Transition] | None:
    """Delete one server instance. Return its end if it had none; None if it is not known."""
    await connection.execute(DISTRUST_INVENTORY, instance_id)
    rows = await connection.fetch(DELETE_INSTANCE, instance_id)
    return ends_of(rows, Reason.FORGOTTEN, evidence) if rows else None


def ends_of(rows: Iterable[asyncpg.Record], reason: Reason, evidence: Evidence) -> list[Transition]:
    """The transitions that end these rows, which are deleted; none for those that had ended."""
    return [
        Transition(
            Entity(row["entity"]),
            row["entity_id"],
            StatusType(row["status"]),
            StatusType.COMPLETE,
            reason,
            evidence,
        )
        for row in rows
        if row["status"] not in TERMINAL
    ]
