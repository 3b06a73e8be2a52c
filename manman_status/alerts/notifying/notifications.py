"""The rows that say which version of an alert each channel was notified of. The caller owns the
transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from manman_status.alerts.silences import Silences
from manman_status.domain.alert import AlertState, NotifiedAlert
from manman_status.store.pool import Connection

BROKER: Final = "broker"
"""The channel of the listeners on the outbound exchange."""

ALERT = """
SELECT a.alert_id, a.key, a.rule, a.severity, a.state, a.version, a.summary, a.evidence, a.part_of,
       a.opened_at, a.acknowledged_at, a.acknowledged_by, a.resolved_at, a.resolution,
       json_build_object(
           'group', a.group_name, 'worker_id', a.worker_id, 'instance_id', a.instance_id,
           'game_server_config_id', a.game_server_config_id, 'labels', a.labels
       ) AS subject,
       (SELECT count(*) FROM alerts part WHERE part.part_of = a.alert_id) AS parts,
       NULL AS silenced_by, now() AS now,
       coalesce(d.version, 0) AS notified_version, d.severity AS notified_severity,
       d.told_at AS notified_at
"""
# Open alerts that may be news, unless they are part of another; and alerts that the channel took
# and that are over by now.
FOR_PEOPLE = f"""
({ALERT}
   FROM alerts a LEFT JOIN deliveries d ON d.alert_id = a.alert_id AND d.channel = $1
  WHERE a.resolved_at IS NULL AND a.part_of IS NULL AND a.alert_id > $2
    AND (d.told_at IS NULL OR d.severity IS DISTINCT FROM a.severity
         OR $4::float8 > 0 AND a.state = 'open' AND d.told_at <= now() - make_interval(secs => $4))
  ORDER BY a.alert_id LIMIT $3)
 UNION ALL
({ALERT}
   FROM deliveries d JOIN alerts a ON a.alert_id = d.alert_id
  WHERE d.channel = $1 AND NOT d.is_settled AND a.resolved_at IS NOT NULL AND d.alert_id > $2
  ORDER BY d.alert_id LIMIT $3)
 ORDER BY alert_id LIMIT $3
"""
# Every change of the alerts promised to the channel.
PROMISED = f"""{ALERT}
  FROM deliveries d JOIN alerts a ON a.alert_id = d.alert_id
 WHERE d.channel = $1 AND NOT d.is_settled AND d.version < a.version
 ORDER BY a.alert_id
 LIMIT $2
"""


async def read_for_people(
    connection: Connection,
    channel: str,
    silences: Silences,
    *,
    after: int,
    limit: int,
    remind_seconds: float,
) -> list[tuple[NotifiedAlert, datetime]]:
    """Alerts that this channel may have to be notified of, each with the database's time: the first
    `limit` with ids greater than `after`, oldest first."""
    rows = await connection.fetch(FOR_PEOPLE, channel, after, limit, remind_seconds)
    return [(_notified_alert(row, silences), row["now"]) for row in rows]


async def read_promised(
    connection: Connection, channel: str, silences: Silences, *, limit: int
) -> list[NotifiedAlert]:
    """Alerts whose newest version the channel has not got, oldest first."""
    return [
        _notified_alert(row, silences) for row in await connection.fetch(PROMISED, channel, limit)
    ]


def _notified_alert(row: asyncpg.Record, silences: Silences) -> NotifiedAlert:
    alert = msgspec.convert(dict(row), NotifiedAlert)
    silence_id = silences.covering(alert.rule, alert.subject)
    return alert if silence_id is None else msgspec.structs.replace(alert, silenced_by=silence_id)


# A resolution settles it. A newer version, sent meanwhile by a later leader, is not taken back.
MARK_NOTIFIED = """
INSERT INTO deliveries AS kept (alert_id, channel, version, severity, told_at, is_settled)
SELECT given.alert_id, $1, given.version, given.severity, now(), given.is_over
  FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::bool[])
       AS given (alert_id, version, severity, is_over)
    ON CONFLICT (alert_id, channel) DO UPDATE
   SET version = excluded.version, severity = excluded.severity, told_at = now(),
       is_settled = excluded.is_settled
 WHERE kept.version <= excluded.version
"""


async def mark_notified(
    connection: Connection, channel: str, alerts: Sequence[NotifiedAlert]
) -> None:
    """Mark that the channel has taken these, as they were read."""
    ordered = sorted(alerts, key=lambda alert: alert.alert_id)
    await connection.execute(
        MARK_NOTIFIED,
        channel,
        [alert.alert_id for alert in ordered],
        [alert.version for alert in ordered],
        [alert.severity for alert in ordered],
        [alert.state is AlertState.RESOLVED for alert in ordered],
    )
