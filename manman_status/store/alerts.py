"""Alerts as rows: what the rules look at, and what came of it. The caller owns the transaction, and leads in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.scene import Change, Crash, Flip, Held, Memory, WorkerNow
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.pool import Connection


class Progress(msgspec.Struct, frozen=True):
    """How far the rules have looked, and what is known of the whole at this moment."""

    now: datetime
    judged_revision: int
    judged_at: datetime | None
    memory: Memory
    newest_revision: int
    lag_seconds: float | None
    dead_letters: int | None


# Locked, so that two who both believe to lead take turns; the second is refused by its lease.
PROGRESS = """
SELECT now() AS now, judged_revision, judged_at, memory, revision AS newest_revision,
       extract(epoch FROM now() - observed_through)::float8 AS lag_seconds,
       (SELECT (statistics ->> 'dead_letters_waiting')::bigint FROM processors
         WHERE statistics ->> 'dead_letters_waiting' IS NOT NULL ORDER BY last_seen DESC LIMIT 1) AS dead_letters
  FROM alert_progress, revision_counter, observation
 WHERE alert_progress.id = 1 AND revision_counter.id = 1 AND observation.id = 1
   FOR UPDATE OF alert_progress
"""


async def lock_progress(connection: Connection) -> Progress:
    row = await connection.fetchrow(PROGRESS)
    assert row is not None
    return msgspec.convert(dict(row), Progress)


MOVE_PROGRESS = "UPDATE alert_progress SET judged_revision = $1, judged_at = now(), memory = $2 WHERE id = 1"


async def move_progress(connection: Connection, revision: int, memory: Memory) -> None:
    await connection.execute(MOVE_PROGRESS, revision, msgspec.to_builtins(memory))


# Of those to LOST the workers', and the servers' whose worker had ended by itself: others went with their worker.
CHANGES = """
SELECT t.at, t.entity, t.entity_id, t.old_status, t.new_status, t.reason,
       t.evidence ->> 'worker_status' IN ('COMPLETE', 'CRASHED') AS was_left,
       coalesce(i.worker_id, (t.evidence ->> 'worker_id')::bigint) AS owner_id,
       i.game_server_config_id, i.exit_code
  FROM transitions t
  LEFT JOIN server_instances i ON t.entity = 'game_server_instance' AND i.instance_id = t.entity_id
 WHERE t.revision > $1 AND t.revision <= $2
   AND (t.new_status = 'CRASHED'
        OR t.new_status = 'LOST'
           AND (t.entity = 'worker' OR t.evidence ->> 'worker_status' IN ('COMPLETE', 'CRASHED')))
 ORDER BY t.revision
"""


async def read_changes(connection: Connection, *, after: int, through: int) -> list[asyncpg.Record]:
    """Transitions to LOST and CRASHED that a rule may be about, oldest first."""
    return await connection.fetch(CHANGES, after, through)


def worker_of(row: asyncpg.Record) -> int | None:
    worker_id: int | None = row["entity_id"] if row["entity"] == Entity.WORKER else row["owner_id"]
    return worker_id


def change_of(row: asyncpg.Record, worker: WorkerNow | None, lost_servers: int) -> Change:
    return Change(
        at=row["at"],
        entity=Entity(row["entity"]),
        entity_id=row["entity_id"],
        old_status=row["old_status"] and StatusType(row["old_status"]),
        new_status=StatusType(row["new_status"]),
        reason=Reason(row["reason"]),
        worker=worker,
        game_server_config_id=row["game_server_config_id"],
        exit_code=row["exit_code"],
        was_left=bool(row["was_left"]),
        lost_servers=lost_servers,
    )


# In the transaction of their worker and just before it: perhaps before the revision that was judged last.
LOST_SERVERS = """
SELECT (evidence ->> 'worker_id')::bigint AS worker_id, at, count(*) AS number
  FROM transitions
 WHERE revision > $1 - 5000 AND revision <= $2
   AND entity = 'game_server_instance' AND new_status = 'LOST' AND reason = 'worker_lost'
 GROUP BY 1, 2
"""


async def count_lost_servers(connection: Connection, *, after: int, through: int) -> dict[tuple[int, datetime], int]:
    """By worker and time: how many servers were lost with it."""
    rows = await connection.fetch(LOST_SERVERS, after, through)
    return {(row["worker_id"], row["at"]): row["number"] for row in rows}


WORKERS = "SELECT worker_id, status, labels FROM workers WHERE worker_id = ANY($1::bigint[])"


async def read_workers(connection: Connection, worker_ids: Iterable[int]) -> dict[int, WorkerNow]:
    rows = await connection.fetch(WORKERS, list(worker_ids))
    return {row["worker_id"]: WorkerNow(row["worker_id"], StatusType(row["status"]), row["labels"]) for row in rows}


INSTANCES = "SELECT instance_id, status FROM server_instances WHERE instance_id = ANY($1::bigint[])"


async def read_instances(connection: Connection, instance_ids: Iterable[int]) -> dict[int, StatusType]:
    rows = await connection.fetch(INSTANCES, list(instance_ids))
    return {row["instance_id"]: StatusType(row["status"]) for row in rows}


CRASHES = """
SELECT (evidence ->> 'at')::timestamptz AS at, worker_id, game_server_config_id
  FROM alerts
 WHERE rule = 'server_crashed' AND opened_at > now() - $1::interval
 ORDER BY at
"""


async def read_crashes(connection: Connection, *, within: timedelta) -> list[Crash]:
    """Those that an alert was opened for, oldest first."""
    return [Crash(*row) for row in await connection.fetch(CRASHES, within)]


FLIPS = """
SELECT entity_id, at, new_status <> 'LOST' AS is_up
  FROM transitions
 WHERE entity = 'worker' AND entity_id = ANY($1::bigint[]) AND at > now() - $2::interval
   AND (old_status = 'LOST') <> (new_status = 'LOST')
 ORDER BY revision
"""


async def read_flips(connection: Connection, worker_ids: Iterable[int], *, within: timedelta) -> dict[int, list[Flip]]:
    """By worker, oldest first."""
    flips: dict[int, list[Flip]] = {}
    for row in await connection.fetch(FLIPS, list(worker_ids), within):
        flips.setdefault(row["entity_id"], []).append(Flip(row["at"], row["is_up"]))
    return flips


HELD = "SELECT group_name, held, group_size, releasing_since IS NOT NULL FROM guards ORDER BY group_name"


async def read_held(connection: Connection) -> list[Held]:
    return [Held(*row) for row in await connection.fetch(HELD)]


UNRESOLVED = """
SELECT alert_id, key, rule, severity, summary, opened_at, part_of,
       group_name, worker_id, instance_id, game_server_config_id, labels
  FROM alerts
 WHERE resolved_at IS NULL
 ORDER BY alert_id
"""


async def read_unresolved(connection: Connection) -> dict[str, OpenAlert]:
    """By key, oldest first."""
    rows = await connection.fetch(UNRESOLVED)
    # A cause is unresolved as long as it has parts that are: they are joined here, in SQL it can take minutes.
    keys = {row["alert_id"]: row["key"] for row in rows}
    return {row["key"]: _open_alert(row, keys.get(row["part_of"])) for row in rows}


def _open_alert(row: asyncpg.Record, part_of: str | None) -> OpenAlert:
    subject = Subject(
        group=row["group_name"],
        worker_id=row["worker_id"],
        instance_id=row["instance_id"],
        game_server_config_id=row["game_server_config_id"],
        labels=row["labels"],
    )
    return OpenAlert(
        key=row["key"],
        rule=row["rule"],
        severity=Severity(row["severity"]),
        summary=row["summary"],
        subject=subject,
        opened_at=row["opened_at"],
        part_of=part_of,
    )


OPEN = """
INSERT INTO alerts (key, rule, severity, summary, group_name, worker_id, instance_id, game_server_config_id,
                    labels, evidence, opened_at)
SELECT given.*, now()
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
              $9::jsonb[], $10::jsonb[]) AS given
    ON CONFLICT (key) WHERE resolved_at IS NULL DO NOTHING
"""
# Alerts of one transaction are told in the order of their ids; a cause has its id before its parts have theirs.
JOIN_CAUSES = """
UPDATE alerts AS part SET part_of = cause.alert_id
  FROM unnest($1::text[], $2::text[]) AS given (key, cause_key), alerts AS cause
 WHERE part.key = given.key AND part.resolved_at IS NULL
   AND cause.key = given.cause_key AND cause.resolved_at IS NULL
"""
# What listens on the broker is told of each alert, of one that is over at once too.
PROMISE = """
INSERT INTO deliveries (alert_id, channel)
SELECT alert_id, $1 FROM alerts WHERE key = ANY($2::text[]) AND resolved_at IS NULL
    ON CONFLICT DO NOTHING
"""


async def open_alerts(
    connection: Connection, opened: Sequence[tuple[Finding, str | None]], *, promised_to: str
) -> None:
    """Each with the key of its cause, causes first. One whose key is open already is left as it is. The channel
    `promised_to` is told of every one; the others of those that are still open when they come to it."""
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
        [subject.group for subject in subjects],
        *_columns(subjects),
        [finding.evidence for finding in findings],
    )
    parts = [(finding.key, cause) for finding, cause in opened if cause]
    await connection.execute(JOIN_CAUSES, [key for key, _ in parts], [cause for _, cause in parts])
    await connection.execute(PROMISE, promised_to, [finding.key for finding in findings])


def _columns(subjects: Sequence[Subject]) -> list[list[Any]]:
    names = ("worker_id", "instance_id", "game_server_config_id", "labels")
    return [[getattr(subject, name) for subject in subjects] for name in names]


UPDATE = """
UPDATE alerts AS kept
   SET severity = given.severity, summary = given.summary, evidence = given.evidence,
       version = version + (kept.severity <> given.severity)::int
  FROM unnest($1::text[], $2::text[], $3::text[], $4::jsonb[]) AS given (key, severity, summary, evidence)
 WHERE kept.key = given.key AND kept.resolved_at IS NULL
   AND (kept.severity, kept.summary) IS DISTINCT FROM (given.severity, given.summary)
"""


async def update_alerts(connection: Connection, findings: Iterable[Finding]) -> None:
    """What is open is found again, perhaps worse."""
    given = {finding.key: finding for finding in findings}
    found = [given[key] for key in sorted(given)]
    if found:
        await connection.execute(
            UPDATE,
            [finding.key for finding in found],
            [finding.severity for finding in found],
            [finding.summary for finding in found],
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
FREE_PARTS = "UPDATE alerts SET part_of = NULL WHERE part_of = ANY($1::bigint[]) AND resolved_at IS NULL"


async def resolve_alerts(connection: Connection, over: Mapping[str, str]) -> None:
    """By key, each with why it is over."""
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
    """False when there is no such alert, or it is not open: then nothing changes."""
    return (await connection.execute(ACKNOWLEDGE, alert_id, by, why)).endswith(" 1")


FORGET = """
DELETE FROM alerts
 WHERE alert_id IN (SELECT alert_id FROM alerts WHERE resolved_at < now() - make_interval(days => $1)
                     ORDER BY resolved_at LIMIT 5000)
"""


async def forget_resolved(connection: Connection, *, retention_days: int) -> int:
    """Delete what was resolved longer ago than the retention, some thousands at once; how many."""
    return int((await connection.execute(FORGET, retention_days)).rpartition(" ")[2])
