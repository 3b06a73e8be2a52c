"""The rows of alerts, as the rules and people change them. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manman_status.alerts.rule import Finding
from manman_status.domain.alert import Subject
from manman_status.store.pool import Connection

OPEN = """
INSERT INTO alerts (
    key, rule, severity, summary, group_name, worker_id, instance_id, game_server_config_id,
    labels, evidence, opened_at
)
SELECT given.*, now()
  FROM unnest(
           $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
           $8::bigint[], $9::jsonb[], $10::jsonb[]
       ) AS given
    ON CONFLICT (key) WHERE resolved_at IS NULL DO NOTHING
"""
# The cause may be as new as its part.
JOIN_CAUSES = """
UPDATE alerts AS part SET part_of = cause.alert_id
  FROM unnest($1::text[], $2::text[]) AS given (key, cause_key), alerts AS cause
 WHERE part.key = given.key AND part.resolved_at IS NULL
   AND cause.key = given.cause_key AND cause.resolved_at IS NULL
"""
# Listeners on the broker are notified of each alert, of one that is over at once too.
PROMISE = """
INSERT INTO deliveries (alert_id, channel)
SELECT alert_id, $1 FROM alerts WHERE key = ANY($2::text[]) AND resolved_at IS NULL
    ON CONFLICT DO NOTHING
"""


async def open_alerts(
    connection: Connection, opened: Sequence[tuple[Finding, str | None]], *, promised_to: str
) -> None:
    """Insert each with the key of its cause, causes first. An alert whose key is open already stays
    as it is. The channel `promised_to` is notified of every one; the others of those that are still
    open when they come to it."""
    if not opened:
        return
    findings = [finding for finding, _ in opened]
    subjects = [finding.subject for finding in findings]
    await connection.execute(
        OPEN,
        [finding.key for finding in findings],
        [finding.rule for finding in findings],
        [finding.severity for finding in findings],
        [finding.summary for finding in findings],
        *_columns(subjects),
        [finding.evidence for finding in findings],
    )
    parts = [(finding.key, cause) for finding, cause in opened if cause]
    await connection.execute(JOIN_CAUSES, [key for key, _ in parts], [cause for _, cause in parts])
    await connection.execute(PROMISE, promised_to, [finding.key for finding in findings])


def _columns(subjects: Sequence[Subject]) -> list[list[Any]]:
    names = ("group", "worker_id", "instance_id", "game_server_config_id", "labels")
    return [[getattr(subject, name) for subject in subjects] for name in names]


UPDATE = """
UPDATE alerts AS kept
   SET severity = given.severity, summary = given.summary, group_name = given.group_name,
       worker_id = given.worker_id, instance_id = given.instance_id,
       game_server_config_id = given.game_server_config_id, labels = given.labels,
       evidence = given.evidence, version = version + (kept.severity <> given.severity)::int
  FROM unnest(
           $1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
           $7::bigint[], $8::jsonb[], $9::jsonb[]
       ) AS given (
           key, severity, summary, group_name, worker_id, instance_id, game_server_config_id,
           labels, evidence
       )
 WHERE kept.key = given.key AND kept.resolved_at IS NULL
   AND (
           kept.severity, kept.summary, kept.group_name, kept.worker_id, kept.instance_id,
           kept.game_server_config_id, kept.labels
       ) IS DISTINCT FROM (
           given.severity, given.summary, given.group_name, given.worker_id, given.instance_id,
           given.game_server_config_id, given.labels
       )
"""


async def update_alerts(connection: Connection, findings: Iterable[Finding]) -> None:
    """Store open alerts that were found again, perhaps worse, perhaps about more or less."""
    given = {finding.key: finding for finding in findings}
    found = [given[key] for key in sorted(given)]
    if found:
        await connection.execute(
            UPDATE,
            [finding.key for finding in found],
            [finding.severity for finding in found],
            [finding.summary for finding in found],
            *_columns([finding.subject for finding in found]),
            [finding.evidence for finding in found],
        )


RESOLVE = """
UPDATE alerts AS kept
   SET state = 'resolved', resolved_at = now(), resolution = given.why, version = version + 1
  FROM unnest($1::text[], $2::text[]) AS given (key, why)
 WHERE kept.key = given.key AND kept.resolved_at IS NULL
RETURNING alert_id
"""
# A part that outlives its cause stands for itself from then on.
FREE_PARTS = (
    "UPDATE alerts SET part_of = NULL WHERE part_of = ANY($1::bigint[]) AND resolved_at IS NULL"
)


async def resolve_alerts(connection: Connection, over: Mapping[str, str]) -> None:
    """Resolve alerts by key, each with why it is over."""
    if over:
        keys = sorted(over)
        resolved = await connection.fetch(RESOLVE, keys, [over[key] for key in keys])
        await connection.execute(FREE_PARTS, [row["alert_id"] for row in resolved])


ACKNOWLEDGE = """
UPDATE alerts
   SET state = 'acknowledged', acknowledged_at = now(), acknowledged_by = $2, acknowledged_why = $3,
       version = version + 1
 WHERE alert_id = $1 AND state = 'open'
"""


async def acknowledge_alert(connection: Connection, alert_id: int, *, by: str, why: str) -> bool:
    """Acknowledge it; False, and nothing changes, when no such alert is open."""
    return (await connection.execute(ACKNOWLEDGE, alert_id, by, why)).endswith(" 1")


FORGET = """
DELETE FROM alerts
 WHERE alert_id IN (SELECT alert_id FROM alerts
                     WHERE resolved_at < now() - make_interval(days => $1)
                     ORDER BY resolved_at LIMIT 5000)
"""


async def forget_resolved(connection: Connection, *, retention_days: int) -> int:
    """Delete alerts resolved longer ago than the retention, some thousands at once; how many."""
    return int((await connection.execute(FORGET, retention_days)).rpartition(" ")[2])
