"""The look of the leader: what has happened since the last one, and what each rule reads.

Each query has a bound, or its rows are bounded by the ids it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import asyncpg
import msgspec

from manman_status.alerts.rule import OpenAlert
from manman_status.alerts.rules import RULES
from manman_status.alerts.scene import Change, Memory, Scene, WorkerNow, read_workers
from manman_status.domain.alert import Severity, Subject
from manman_status.domain.clock import ClockStep
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.pool import Connection


class Progress(msgspec.Struct, frozen=True):
    """The revision through which was judged, and what is known of the whole at this moment."""

    now: datetime
    judged_revision: int
    unjudged_seconds: float | None
    """The time since the last look, without what the clock stepped forward meanwhile; None before
    the first look."""
    memory: Memory
    newest_revision: int
    lag_seconds: float | None
    clock_steps: int
    clock_step: ClockStep | None


PROGRESS = """
SELECT now() AS now, judged_revision, memory, revision AS newest_revision,
       extract(epoch FROM now() - judged_at)::float8
           - CASE WHEN judged_at < clock_stepped_at THEN greatest(clock_step_seconds, 0) ELSE 0 END
               AS unjudged_seconds,
       abs(extract(epoch FROM now() - observed_through))::float8 AS lag_seconds, clock_steps,
       CASE WHEN clock_stepped_at IS NOT NULL
            THEN jsonb_build_object('at', clock_stepped_at, 'seconds', clock_step_seconds)
            END AS clock_step
  FROM alert_progress, revision_counter, observation
 WHERE alert_progress.id = 1 AND revision_counter.id = 1 AND observation.id = 1
"""


async def read_progress(connection: Connection) -> Progress:
    row = await connection.fetchrow(PROGRESS)
    assert row is not None
    return msgspec.convert(dict(row), Progress)


MOVE_PROGRESS = """
UPDATE alert_progress SET judged_revision = $2, judged_at = now(), memory = $3
 WHERE id = 1 AND judged_revision = $1
"""


async def move_progress(
    connection: Connection, *, judged: int, through: int, memory: Memory
) -> bool:
    """Move it unless others have judged meanwhile: then False, and nothing changes."""
    done = await connection.execute(MOVE_PROGRESS, judged, through, msgspec.to_builtins(memory))
    return done.endswith(" 1")


# A server that became LOST counts when it was reported, or when its worker had ended by itself:
# others went with their worker.
CHANGES = """
SELECT t.at, t.entity, t.entity_id, t.old_status, t.new_status, t.reason,
       t.old_status IS DISTINCT FROM 'LOST'
           AND is_terminal(t.evidence ->> 'worker_status') AS was_left,
       (t.evidence ->> 'held_since')::timestamptz AS held_since,
       coalesce(i.worker_id, (t.evidence ->> 'worker_id')::bigint) AS owner_id,
       i.game_server_config_id, i.exit_code
  FROM transitions t
  LEFT JOIN server_instances i ON t.entity = 'game_server_instance' AND i.instance_id = t.entity_id
 WHERE t.revision > $1 AND t.revision <= $2
   AND (t.new_status = 'CRASHED'
        OR t.new_status = 'LOST'
           AND (t.entity = 'worker' OR t.reason = 'reported'
                OR is_terminal(t.evidence ->> 'worker_status')))
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
        held_since=row["held_since"],
    )


# Stored in the transaction of their worker and just before it: perhaps before the revision that was
# judged last.
LOST_SERVERS = """
SELECT (evidence ->> 'worker_id')::bigint AS worker_id, at, count(*) AS number
  FROM transitions
 WHERE revision > $1 - 5000 AND revision <= $2
   AND entity = 'game_server_instance' AND new_status = 'LOST' AND reason = 'worker_lost'
 GROUP BY 1, 2
"""


async def count_lost_servers(
    connection: Connection, *, after: int, through: int
) -> dict[tuple[int, datetime], int]:
    """The number of servers that were lost with a worker, by worker and time."""
    rows = await connection.fetch(LOST_SERVERS, after, through)
    return {(row["worker_id"], row["at"]): row["number"] for row in rows}


INSTANCES = "SELECT instance_id, status FROM server_instances WHERE instance_id = ANY($1::bigint[])"


async def read_instances(
    connection: Connection, instance_ids: Iterable[int]
) -> dict[int, StatusType]:
    rows = await connection.fetch(INSTANCES, list(instance_ids))
    return {row["instance_id"]: StatusType(row["status"]) for row in rows}


UNRESOLVED = """
SELECT alert_id, key, rule, severity, summary, opened_at, part_of,
       group_name, worker_id, instance_id, game_server_config_id, labels
  FROM alerts
 WHERE resolved_at IS NULL
 ORDER BY alert_id
"""


async def read_unresolved(connection: Connection) -> dict[str, OpenAlert]:
    """Alerts that are not over by key, oldest first."""
    rows = await connection.fetch(UNRESOLVED)
    # A cause is unresolved as long as it has parts that are: they are joined here, in SQL it can
    # take minutes.
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


async def look(
    connection: Connection,
    progress: Progress,
    through: int,
    *,
    degraded_after_seconds: float,
    blind_after_seconds: float,
) -> Scene:
    """Read what has happened through this revision, and then what each rule reads by itself."""
    after = progress.judged_revision
    unresolved = await read_unresolved(connection)
    rows = await read_changes(connection, after=after, through=through)
    subjects = [alert.subject for alert in unresolved.values()]
    named = [*map(worker_of, rows), *(subject.worker_id for subject in subjects)]
    worker_ids = {worker_id for worker_id in named if worker_id is not None}
    workers = await read_workers(connection, worker_ids) if worker_ids else {}
    lost = await count_lost_servers(connection, after=after, through=through) if rows else {}
    changes = [
        change_of(
            row,
            workers.get(worker_of(row) or 0),
            lost.get((row["entity_id"], row["at"]), 0),
        )
        for row in rows
    ]
    instance_ids = {subject.instance_id for subject in subjects if subject.instance_id is not None}
    instance_ids |= {
        change.entity_id for change in changes if change.entity is Entity.SERVER_INSTANCE
    }
    scene = Scene(
        now=progress.now,
        after=after,
        through=through,
        changes=changes,
        workers=workers,
        instances=await read_instances(connection, instance_ids) if instance_ids else {},
        lag_seconds=progress.lag_seconds,
        degraded_after_seconds=degraded_after_seconds,
        blind_after_seconds=blind_after_seconds,
        unjudged_seconds=progress.unjudged_seconds,
        clock_step=progress.clock_step,
        memory=progress.memory,
        open=unresolved,
    )
    for rule in RULES:
        scene.read[type(rule)] = await rule.read(connection, scene)
    return scene
