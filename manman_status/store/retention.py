"""Deletes workers and instances that ended long ago, those that are not watched and were not
reported for as long, and what is remembered of those that are gone.

A worker that has promised to beat never goes while it is active: the sweep judges its silence.
"""

from __future__ import annotations

from manman_status.domain.status import Reason
from manman_status.store.forgetting import ends_of
from manman_status.store.pool import Connection
from manman_status.store.uptime_days import set_apart
from manman_status.store.writes import append_transitions

AT_ONCE = 5_000

DELETE_INSTANCES = """
DELETE FROM server_instances
 WHERE instance_id IN (
           SELECT instance_id FROM server_instances
            WHERE is_inactive(status) AND status_since < now() -
                make_interval(days => $1)
            ORDER BY instance_id LIMIT $2
              FOR UPDATE SKIP LOCKED
       )
"""

DELETE_WORKERS = """
DELETE FROM workers
 WHERE worker_id IN (
           SELECT worker_id FROM workers
            WHERE is_inactive(status) AND status_since < now() -
                make_interval(days => $1)
              AND NOT EXISTS (SELECT 1 FROM server_instances WHERE server_instances.worker_id =
                  workers.worker_id)
            ORDER BY worker_id LIMIT $2
              FOR UPDATE SKIP LOCKED
       )
"""


async def delete_ended(connection: Connection, *, retention_days: int) -> int:
    """Delete some of what ended longer ago than the retention, workers only without instances; how
    many rows."""
    deleted = 0
    for sql in (DELETE_INSTANCES, DELETE_WORKERS):
        done = await connection.execute(sql, retention_days, AT_ONCE)
        deleted += int(done.rpartition(" ")[2])
    return deleted


# After the retention no report can come that is older, so what was given may be forgotten.
FORGET_AS_OF = """
DELETE FROM newest_as_of
 WHERE (entity, entity_id) IN (
           SELECT entity, entity_id FROM newest_as_of
            WHERE as_of < now() - make_interval(days => $1)
            LIMIT $2
              FOR UPDATE SKIP LOCKED
       )
"""


async def forget_as_of(connection: Connection, *, retention_days: int) -> int:
    """Forget some of the `as_of` that were given longer ago than the retention; how many."""
    done = await connection.execute(FORGET_AS_OF, retention_days, AT_ONCE)
    return int(done.rpartition(" ")[2])


# Counted from how far was observed: what was sent while nobody listened may wait in a queue.
DELETE_UNREPORTED_INSTANCES = """
DELETE FROM server_instances
 WHERE instance_id IN (
           SELECT instance_id FROM server_instances s
            WHERE NOT is_inactive(status)
              AND greatest(status_since, received_at)
                  < (SELECT observed_through FROM observation WHERE id = 1) - make_interval(days =>
                      $1)
              AND NOT EXISTS (
                      SELECT 1 FROM workers w
                       WHERE w.worker_id = s.worker_id AND w.last_heartbeat IS NOT NULL
                         AND is_active(w.status)
                  )
            ORDER BY instance_id LIMIT $2
              FOR UPDATE SKIP LOCKED
       )
RETURNING 'game_server_instance' AS entity, instance_id AS entity_id, status
"""
DELETE_UNREPORTED_WORKERS = """
DELETE FROM workers
 WHERE worker_id IN (
           SELECT worker_id FROM workers
            WHERE NOT is_inactive(status)
              AND greatest(status_since, received_at, last_heartbeat)
                  < (SELECT observed_through FROM observation WHERE id = 1) - make_interval(days =>
                      $1)
              AND (last_heartbeat IS NULL OR NOT is_active(status))
              AND NOT EXISTS (SELECT 1 FROM server_instances WHERE server_instances.worker_id =
                  workers.worker_id)
            ORDER BY worker_id LIMIT $2
              FOR UPDATE SKIP LOCKED
       )
RETURNING 'worker' AS entity, worker_id AS entity_id, status
"""


async def delete_unreported(connection: Connection, *, retention_days: int) -> int:
    """Delete some of what has not ended, is not watched, and was not reported for the retention;
    how many rows. The transaction's last write, since each appends its end."""
    transitions = []
    for sql in (DELETE_UNREPORTED_INSTANCES, DELETE_UNREPORTED_WORKERS):
        rows = await connection.fetch(sql, retention_days, AT_ONCE)
        rows = sorted(rows, key=lambda row: row["entity_id"])
        if sql is DELETE_UNREPORTED_WORKERS:
            await set_apart(connection, (row["entity_id"] for row in rows))
        transitions += ends_of(rows, Reason.UNREPORTED, {"retention_days": retention_days})
    await append_transitions(connection, transitions)
    return len(transitions)
