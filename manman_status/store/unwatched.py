"""Workers that report and are not watched: they had time to send a heartbeat, and none was ever
received. Such a worker is never marked LOST, so that it died is not noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manman_status.domain.fleet import UNWATCHED_AT_MOST

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

TIME_TO_BEAT_SECONDS = 60
"""A worker has at least so long after its status changed, and at least one timeout."""

# In observed time: a heartbeat may wait in a queue that nobody reads.
UNWATCHED = f"""(
    SELECT count(*) FROM worker_health
     WHERE worker_id IN (SELECT worker_id FROM unwatched_workers LIMIT {UNWATCHED_AT_MOST})
       AND silent_after(status_since, greatest(timeout_seconds, {TIME_TO_BEAT_SECONDS}))
           < (SELECT observed_through FROM observation)
)"""


async def count_unwatched(connection: Connection) -> int:
    """Count the workers that are not watched, at most `UNWATCHED_AT_MOST`."""
    count: int = await connection.fetchval(f"SELECT {UNWATCHED}")
    return count
