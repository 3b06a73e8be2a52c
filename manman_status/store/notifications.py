"""What each channel was told of each alert. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from manman_status.domain.alerts.alert import AlertState
from manman_status.domain.alerts.telling import ToldAlert
from manman_status.store.pool import Connection
from manman_status.store.silences import SILENCED_BY

ALERT = f"""
SELECT a.alert_id, a.key, a.rule, a.severity, a.state, a.version, a.summary, a.evidence, a.part_of, a.opened_at,
       a.acknowledged_at, a.acknowledged_by, a.resolved_at, a.resolution,
       json_build_object('group', a.group_name, 'worker_id', a.worker_id, 'instance_id', a.instance_id,
                         'game_server_config_id', a.game_server_config_id, 'labels', a.labels) AS subject,
       (SELECT count(*) FROM alerts part WHERE part.part_of = a.alert_id) AS parts,
       {SILENCED_BY} AS silenced_by,
       coalesce(d.version, 0) AS told_version, d.severity AS told_severity, d.told_at
"""  # noqa: S608 - constants alone
# What is open, unless it is part of another; and what the channel took that is over by now.
FOR_PEOPLE = f"""{ALERT}
  FROM alerts a LEFT JOIN deliveries d ON d.alert_id = a.alert_id AND d.channel = $1
 WHERE a.resolved_at IS NULL AND a.part_of IS NULL
 UNION ALL
{ALERT}
  FROM deliveries d JOIN alerts a ON a.alert_id = d.alert_id
 WHERE d.channel = $1 AND NOT d.is_settled AND a.resolved_at IS NOT NULL
 ORDER BY alert_id
"""
# Every change of what was promised.
PROMISED = f"""{ALERT}
  FROM deliveries d JOIN alerts a ON a.alert_id = d.alert_id
 WHERE d.channel = $1 AND NOT d.is_settled AND d.version < a.version
 ORDER BY a.alert_id
 LIMIT $2
"""


async def read_for_people(connection: Connection, channel: str) -> tuple[datetime, list[ToldAlert]]:
    """The database's time, and all that this channel may have to be told of, oldest first."""
    now: datetime = await connection.fetchval("SELECT now()")
    return now, [msgspec.convert(dict(row), ToldAlert) for row in await connection.fetch(FOR_PEOPLE, channel)]


async def read_promised(connection: Connection, channel: str, *, limit: int) -> list[ToldAlert]:
    """The alerts that the channel does not know as they are now, oldest first."""
    return [msgspec.convert(dict(row), ToldAlert) for row in await connection.fetch(PROMISED, channel, limit)]


# The end of what was told settles it. A version that was told meanwhile by a later leader is not taken back.
MARK_TOLD = """
INSERT INTO deliveries AS kept (alert_id, channel, version, severity, told_at, is_settled)
SELECT given.alert_id, $1, given.version, given.severity, now(), given.is_over
  FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::bool[]) AS given (alert_id, version, severity, is_over)
    ON CONFLICT (alert_id, channel) DO UPDATE
   SET version = excluded.version, severity = excluded.severity, told_at = now(), is_settled = excluded.is_settled
 WHERE kept.version <= excluded.version
"""


async def mark_told(connection: Connection, channel: str, alerts: Sequence[ToldAlert]) -> None:
    """The channel has taken these, as they were read."""
    ordered = sorted(alerts, key=lambda alert: alert.alert_id)
    await connection.execute(
        MARK_TOLD,
        channel,
        [alert.alert_id for alert in ordered],
        [alert.version for alert in ordered],
        [alert.severity for alert in ordered],
        [alert.state is AlertState.RESOLVED for alert in ordered],
    )
