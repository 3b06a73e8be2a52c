"""What has ended long ago goes. Active rows never do."""

from __future__ import annotations

from manman_status.store.pool import Connection

AT_ONCE = 5_000

DELETE_INSTANCES = """
DELETE FROM server_instances
 WHERE instance_id IN (
           SELECT instance_id FROM server_instances
            WHERE status IN ('LOST', 'COMPLETE', 'CRASHED') AND status_since < now() - make_interval(days => $1)
            ORDER BY instance_id LIMIT $2
              FOR UPDATE SKIP LOCKED
       )
"""

DELETE_WORKERS = """
DELETE FROM workers
 WHERE worker_id IN (
           SELECT worker_id FROM workers
            WHERE status IN ('LOST', 'COMPLETE', 'CRASHED') AND status_since < now() - make_interval(days => $1)
              AND NOT EXISTS (SELECT 1 FROM server_instances WHERE server_instances.worker_id = workers.worker_id)
            ORDER BY worker_id LIMIT $2
              FOR UPDATE SKIP LOCKED
       )
"""


async def delete_ended(connection: Connection, *, retention_days: int) -> int:
    """Delete some of what ended longer ago than the retention, workers only without instances; how many rows."""
    deleted = 0
    for sql in (DELETE_INSTANCES, DELETE_WORKERS):
        done = await connection.execute(sql, retention_days, AT_ONCE)
        deleted += int(done.rpartition(" ")[2])
    return deleted
