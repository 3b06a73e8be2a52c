"""What the alert rules look at, as rows. Each query has a bound, or its rows are bounded by those
it asks about."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import asyncpg
import msgspec

from manman_status.domain.alerts.alert import OpenAlert, Severity, Subject
from manman_status.domain.alerts.folding import OPEN_AT_ONCE
from manman_status.domain.alerts.scene import (
    Change,
    Crash,
    Duplicate,
    Flip,
    Held,
    Memory,
    Minute,
    Unlisted,
    WorkerNow,
)
from manman_status.domain.alerts.server_crashed import SAID
from manman_status.domain.alerts.worker_lost import GONE
from manman_status.domain.clock import ClockStep
from manman_status.domain.labels import NOT_DRAINING
from manman_status.domain.rows import Patience
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.pool import Connection


class Progress(msgspec.Struct, frozen=True):
    """How far the rules have looked, and what is known of the whole at this moment."""

    now: datetime
    judged_revision: int
    unjudged_seconds: float | None
    """Since the rules were asked last, without what the clock stepped forward meanwhile; None
    before the first time."""
    memory: Memory
    newest_revision: int
    lag_seconds: float | None
    clock_steps: int
    clock_step: ClockStep | None
    dead_letters: int | None
    dead_letters_unsent_since: datetime | None


# Each processor counts the dead letters at another moment: of several numbers, the older might seem
# to be the newer.
PROGRESS = """
SELECT now() AS now, judged_revision, memory, revision AS newest_revision,
       extract(epoch FROM now() - judged_at)::float8
           - CASE WHEN judged_at < clock_stepped_at THEN greatest(clock_step_seconds, 0) ELSE 0 END
               AS unjudged_seconds,
       abs(extract(epoch FROM now() - observed_through))::float8 AS lag_seconds, clock_steps,
       CASE WHEN clock_stepped_at IS NOT NULL
            THEN jsonb_build_object('at', clock_stepped_at, 'seconds', clock_step_seconds) END AS
                clock_step,
       (SELECT (statistics ->> 'dead_letters_waiting')::bigint FROM processors, leases
         WHERE leases.name = 'leader' AND processor_id = holder) AS dead_letters,
       (SELECT min(at) FROM dead_letter_outbox) AS dead_letters_unsent_since
  FROM alert_progress, revision_counter, observation
 WHERE alert_progress.id = 1 AND revision_counter.id = 1 AND observation.id = 1
"""


async def read_progress(connection: Connection) -> Progress:
    row = await connection.fetchrow(PROGRESS)
    assert row is not None
    return msgspec.convert(dict(row), Progress)


MOVE_PROGRESS = """
UPDATE alert_progress SET judged_revision = $2, judged_at = now(), memory = $3 WHERE id = 1 AND
    judged_revision = $1
"""


async def move_progress(
    connection: Connection, *, judged: int, through: int, memory: Memory
) -> bool:
    """False when others have judged meanwhile: then nothing changes."""
    done = await connection.execute(MOVE_PROGRESS, judged, through, msgspec.to_builtins(memory))
    return done.endswith(" 1")


NEW_WORKERS = """
SELECT date_trunc('minute', at) AS at, count(*) AS new_workers
  FROM transitions
 WHERE revision > $1 AND revision <= $2 AND entity = 'worker' AND old_status IS NULL
 GROUP BY 1
"""


async def count_new_workers(connection: Connection, *, after: int, through: int) -> list[Minute]:
    return [Minute(*row) for row in await connection.fetch(NEW_WORKERS, after, through)]


WORKERS_BEFORE = "SELECT count(*) FROM workers WHERE created_date < $1"


async def count_workers(connection: Connection, *, before: datetime) -> int:
    """How many were known then already."""
    number: int = await connection.fetchval(WORKERS_BEFORE, before)
    return number


# Those that were lost long before were judged before too.
UNLISTED = """
SELECT count(*) AS workers, count(DISTINCT coalesce(labels ->> 'group', '')) AS groups
  FROM workers w
 WHERE status = ANY($1::text[]) AND lower(coalesce(labels ->> 'drain', '')) = ANY($2::text[])
   AND status_since > $3::timestamptz - interval '1 hour'
   AND NOT EXISTS (SELECT FROM alerts a WHERE a.resolved_at IS NULL AND a.key = 'worker_lost:' ||
       w.worker_id)
"""


async def count_unlisted(connection: Connection, since: datetime) -> Unlisted:
    """Lost and crashed workers without an alert of their own, since about then."""
    row = await connection.fetchrow(UNLISTED, GONE, list(NOT_DRAINING), since)
    assert row is not None
    return Unlisted(*row)


# Of those to LOST the workers', and the servers' whose worker had ended by itself: others went with
# their worker.
CHANGES = """
SELECT t.at, t.entity, t.entity_id, t.old_status, t.new_status, t.reason,
       is_terminal(t.evidence ->> 'worker_status') AS was_left,
       (t.evidence ->> 'held_since')::timestamptz AS held_since,
       coalesce(i.worker_id, (t.evidence ->> 'worker_id')::bigint) AS owner_id,
       i.game_server_config_id, i.exit_code
  FROM transitions t
  LEFT JOIN server_instances i ON t.entity = 'game_server_instance' AND i.instance_id = t.entity_id
 WHERE t.revision > $1 AND t.revision <= $2
   AND (t.new_status = 'CRASHED'
        OR t.new_status = 'LOST'
           AND (t.entity = 'worker' OR is_terminal(t.evidence ->> 'worker_status')))
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


# In the transaction of their worker and just before it: perhaps before the revision that was judged
# last.
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
    """By worker and time: how many servers were lost with it."""
    rows = await connection.fetch(LOST_SERVERS, after, through)
    return {(row["worker_id"], row["at"]): row["number"] for row in rows}


WORKERS = "SELECT worker_id, status, labels FROM workers WHERE worker_id = ANY($1::bigint[])"


async def read_workers(connection: Connection, worker_ids: Iterable[int]) -> dict[int, WorkerNow]:
    rows = await connection.fetch(WORKERS, list(worker_ids))
    return {
        row["worker_id"]: WorkerNow(row["worker_id"], StatusType(row["status"]), row["labels"])
        for row in rows
    }


INSTANCES = "SELECT instance_id, status FROM server_instances WHERE instance_id = ANY($1::bigint[])"


async def read_instances(
    connection: Connection, instance_ids: Iterable[int]
) -> dict[int, StatusType]:
    rows = await connection.fetch(INSTANCES, list(instance_ids))
    return {row["instance_id"]: StatusType(row["status"]) for row in rows}


CRASHES = """
SELECT (evidence ->> 'at')::timestamptz AS at, worker_id, game_server_config_id,
       NOT evidence ->> 'reason' = ANY($2::text[]) AS was_inferred
  FROM alerts
 WHERE rule = 'server_crashed' AND opened_at > now() - $1::interval
 ORDER BY opened_at DESC
 LIMIT $3
"""


async def read_crashes(connection: Connection, *, within: timedelta) -> list[Crash]:
    """Those that an alert was opened for, oldest first; of very many the newest."""
    crashes = [
        Crash(*row) for row in await connection.fetch(CRASHES, within, SAID, 2 * OPEN_AT_ONCE)
    ]
    return sorted(crashes, key=lambda crash: crash.at)


FLIPS = """
SELECT entity_id, at, new_status <> 'LOST' AS is_up
  FROM transitions
 WHERE entity = 'worker' AND entity_id = ANY($1::bigint[]) AND at > now() - $2::interval
   AND (old_status = 'LOST') <> (new_status = 'LOST')
 ORDER BY revision
"""


async def read_flips(
    connection: Connection, worker_ids: Iterable[int], *, within: timedelta
) -> dict[int, list[Flip]]:
    """By worker, oldest first."""
    flips: dict[int, list[Flip]] = {}
    for row in await connection.fetch(FLIPS, list(worker_ids), within):
        flips.setdefault(row["entity_id"], []).append(Flip(row["at"], row["is_up"]))
    return flips


HELD = """
SELECT group_name, held, group_size, releasing_since IS NOT NULL, opened_at
  FROM guards
 ORDER BY opened_at, group_name
 LIMIT $1
"""


async def read_held(connection: Connection) -> list[Held]:
    """Of very many the oldest: those that have an alert already."""
    return [Held(*row) for row in await connection.fetch(HELD, 2 * OPEN_AT_ONCE)]


# Both have beaten for a timeout, and neither has been silent for one since.
DUPLICATES = """
SELECT worker_id, status, labels, incarnation, rival_incarnation, rival_labels, rival_since
  FROM (
        SELECT *, least(rival_beat_at, own_beat_at) AS both_until,
               greatest(3 * coalesce(interval_seconds, $1::float8), $2::float8) * interval
                   '1 second' AS timeout
          FROM workers
         WHERE rival_since IS NOT NULL AND own_beat_at IS NOT NULL
           AND rival_incarnation <> incarnation AND least(rival_incarnation, incarnation) > 0
       ) AS rivals
 WHERE both_until - rival_since >= timeout
   AND both_until + timeout >= coalesce((SELECT observed_through FROM observation WHERE id = 1),
       now())
 ORDER BY rival_since, worker_id
 LIMIT $3
"""


async def read_duplicates(connection: Connection, patience: Patience) -> dict[int, Duplicate]:
    """By worker; of very many the oldest: those that have an alert already."""
    rows = await connection.fetch(
        DUPLICATES, patience.default_interval, patience.minimum_timeout, 2 * OPEN_AT_ONCE
    )
    return {
        row["worker_id"]: Duplicate(
            WorkerNow(row["worker_id"], StatusType(row["status"]), row["labels"]),
            row["incarnation"],
            row["rival_incarnation"],
            row["rival_labels"],
            row["rival_since"],
        )
        for row in rows
    }


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
