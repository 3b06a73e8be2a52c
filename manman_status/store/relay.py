"""SQL of the relay: the transitions that the broker has confirmed. The caller owns the
transaction."""

from __future__ import annotations

from datetime import datetime

import asyncpg

from manman_status.store.pool import Connection

# Revisions have no gaps, so the difference is how many there are.
BACKLOG = "SELECT revision - sent_revision FROM revision_counter, relay"


async def count_unsent(connection: Connection) -> int:
    count: int = await connection.fetchval(BACKLOG)
    return count


UNSENT = """
SELECT (SELECT epoch FROM revision_counter) AS epoch,
       revision, at, coalesce(as_of, at) AS as_of, entity, entity_id, old_status, new_status,
       reason, evidence, traceparent
  FROM transitions
 WHERE revision > (SELECT sent_revision FROM relay)
 ORDER BY revision
 LIMIT $1
"""


async def read_unsent(connection: Connection, *, limit: int) -> list[asyncpg.Record]:
    """The oldest transitions that are not confirmed, in the order of their revisions."""
    return await connection.fetch(UNSENT, limit)


# A backup may have been restored since: its revisions are of other transitions, which nobody has
# sent.
MARK_SENT = """
UPDATE relay SET sent_revision = $1
 WHERE sent_revision < $1 AND EXISTS (SELECT 1 FROM transitions WHERE revision = $1 AND at = $2)
"""


async def mark_sent(connection: Connection, revision: int, at: datetime) -> None:
    """Everything up to this transition is confirmed. The mark never goes back."""
    await connection.execute(MARK_SENT, revision, at)
