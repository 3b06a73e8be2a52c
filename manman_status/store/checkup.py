"""Checks of the database, before anything relies on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import msgspec

from manman_status.store.pool import VERSION_TABLE

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

READ_BY_THE_API = (
    VERSION_TABLE,
    "workers",
    "server_instances",
    "transitions",
    "revision_counter",
    "observation",
    "observation_gaps",
    "watermarks",
    "bridges",
    "processors",
    "guards",
    "alerts",
    "deliveries",
    "silences",
    "alert_progress",
    "fleet_counts",
    "fleet_count_changes",
    "unwatched_workers",
    "late_workers",
    "sweeps",
    "observation_now",
    "worker_health",
    "uptime_days",
    "uptime_changes",
    "uptime_losses",
    "uptime_moves",
)
WRITTEN_BY_THE_PROCESSOR = {
    "workers": ("INSERT", "UPDATE", "DELETE"),
    "server_instances": ("INSERT", "UPDATE", "DELETE"),
    "transitions": ("INSERT",),
    "newest_as_of": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "revision_counter": ("UPDATE",),
    "observation": ("UPDATE",),
    "observation_gaps": ("INSERT", "UPDATE", "DELETE"),
    "watermarks": ("INSERT", "UPDATE", "DELETE"),
    "bridges": ("INSERT", "UPDATE", "DELETE"),
    "processors": ("INSERT", "UPDATE", "DELETE"),
    "canary_key": ("SELECT", "INSERT"),
    "leases": ("SELECT", "INSERT", "UPDATE"),
    "guards": ("INSERT", "UPDATE", "DELETE"),
    "relay": ("SELECT", "UPDATE"),
    "alerts": ("INSERT", "UPDATE", "DELETE"),
    "deliveries": ("INSERT", "UPDATE"),
    "silences": ("INSERT", "UPDATE", "DELETE"),
    "dead_letter_outbox": ("SELECT", "INSERT", "DELETE"),
    "alert_progress": ("UPDATE",),
    # What triggers write needs no grant: they do it as their owner.
    "fleet_counts": ("INSERT", "UPDATE", "DELETE"),
    "fleet_count_changes": ("UPDATE", "DELETE"),
    "late_workers": ("INSERT", "UPDATE", "DELETE"),
    "sweeps": ("UPDATE",),
    "uptime_days": ("INSERT", "UPDATE", "DELETE"),
    "uptime_changes": ("INSERT", "UPDATE", "DELETE"),
    "uptime_losses": ("INSERT", "DELETE"),
    "uptime_moves": ("INSERT", "UPDATE", "DELETE"),
}


class Server(msgspec.Struct, frozen=True):
    version: str
    user: str
    encoding: str
    read_only: bool
    keeps_commits: bool


SERVER = """
SELECT current_setting('server_version') AS version, current_user::text AS user,
       current_setting('server_encoding') AS encoding,
       current_setting('transaction_read_only')::bool AS read_only,
       current_setting('synchronous_commit') <> 'off' AS keeps_commits
"""


async def look_at_server(connection: Connection) -> Server:
    row = await connection.fetchrow(SERVER)
    assert row is not None
    return Server(**row)


async def require_writes(connection: Connection) -> Server:
    """Raise ReadOnlySQLTransactionError, as the first write would, where the database only
    reads."""
    server = await look_at_server(connection)
    if server.read_only:
        raise asyncpg.ReadOnlySQLTransactionError("name the primary, not a standby")
    return server


MISSING_PRIVILEGES = """
SELECT privilege || ' on ' || relation
FROM unnest($1::text[], $2::text[]) AS needed (relation, privilege)
WHERE NOT has_table_privilege(relation, privilege)
ORDER BY relation, privilege
"""
MISSING_TO_MAKE_PARTITIONS = """
SELECT 'CREATE on schema ' || relnamespace::regnamespace::text FROM pg_class
WHERE oid = 'transitions'::regclass AND NOT has_schema_privilege(relnamespace, 'CREATE')
UNION ALL
SELECT 'ownership of transitions' FROM pg_class
WHERE oid = 'transitions'::regclass AND NOT pg_has_role(relowner, 'USAGE')
"""


async def missing_privileges(connection: Connection, *, writing: bool) -> list[str]:
    """List the privileges that the user lacks, as "UPDATE on workers". The schema must be there."""
    needed = [(relation, "SELECT") for relation in READ_BY_THE_API]
    if writing:
        needed += [
            (relation, verb)
            for relation, verbs in WRITTEN_BY_THE_PROCESSOR.items()
            for verb in verbs
        ]
    relations, privileges = zip(*needed, strict=True)
    rows = await connection.fetch(MISSING_PRIVILEGES, relations, privileges)
    if writing:
        rows += await connection.fetch(MISSING_TO_MAKE_PARTITIONS)
    return [row[0] for row in rows]
