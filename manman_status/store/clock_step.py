"""Steps of the database's clock: after one back, times that lie ahead in the rows go back with it.

Left alone, a worker that sent a heartbeat in the old time would count as alive until the clock
comes by again. Times are moved by the step, and never beyond now; a last heartbeat becomes now,
since it hid every later one that carries a smaller time. After a step forward, too: it may have
followed a greater one back at once. `transitions` is history and stays as it was written.

Positions of events without an incarnation and a time of their own are µs of the database's clock
too. They are only ever compared, so those that lie ahead are squeezed into a ten-thousandth of the
step, just before it: their order stays, and what was received since comes after them. Where a
worker counts its incarnations these decide, and nothing is touched.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from manman_status.domain.events import microseconds
from manman_status.store.pool import Connection
from manman_status.store.writes import transaction_time

SETTLING_SECONDS = 60.0
"""No transaction takes so long: until then one that began in the old time may still write it."""


class StepToSettle(msgspec.Struct, frozen=True):
    """The newest step. `is_new` when no leader has settled it, `is_recent` while transactions of
    the old time may still run."""

    steps: int
    stepped_at: datetime | None
    seconds: float
    is_new: bool
    is_recent: bool

    @property
    def length(self) -> timedelta:
        return timedelta(seconds=self.seconds)


READ = """
SELECT clock_steps AS steps, clock_stepped_at AS stepped_at,
       coalesce(clock_step_seconds, 0) AS seconds,
       clock_steps_settled < clock_steps AS is_new,
       coalesce(now() < clock_stepped_at + make_interval(secs => $1), false) AS is_recent
  FROM observation
 WHERE id = 1
"""


async def read_step(connection: Connection) -> StepToSettle:
    row = await connection.fetchrow(READ, SETTLING_SECONDS)
    assert row is not None
    return StepToSettle(**row)


STEPPED_WITHIN = (
    "SELECT coalesce(clock_stepped_at > now() - $1::interval, false) FROM observation WHERE id = 1"
)


async def has_stepped_within(connection: Connection, time: timedelta) -> bool:
    stepped: bool = await connection.fetchval(STEPPED_WITHIN, time)
    return stepped


# What lies ahead moves by the step ($1), and never beyond now; `greatest` passes over nulls.
MOVE_FLEET = (
    """
WITH ahead AS (
    SELECT worker_id FROM workers
     WHERE greatest(created_date, status_since, end_date, rival_since, rival_beat_at, own_beat_at,
                received_at, last_heartbeat) > now()
     ORDER BY worker_id
       FOR UPDATE
)
UPDATE workers AS kept
   SET created_date = CASE WHEN kept.created_date > now()
           THEN least(kept.created_date + $1, now()) ELSE kept.created_date END,
       status_since = CASE WHEN kept.status_since > now()
           THEN least(kept.status_since + $1, now()) ELSE kept.status_since END,
       end_date = CASE WHEN kept.end_date > now()
           THEN least(kept.end_date + $1, now()) ELSE kept.end_date END,
       rival_since = CASE WHEN kept.rival_since > now()
           THEN least(kept.rival_since + $1, now()) ELSE kept.rival_since END,
       rival_beat_at = CASE WHEN kept.rival_beat_at > now()
           THEN least(kept.rival_beat_at + $1, now()) ELSE kept.rival_beat_at END,
       own_beat_at = CASE WHEN kept.own_beat_at > now()
           THEN least(kept.own_beat_at + $1, now()) ELSE kept.own_beat_at END,
       received_at = CASE WHEN kept.received_at > now()
           THEN least(kept.received_at + $1, now()) ELSE kept.received_at END,
       last_heartbeat = CASE WHEN kept.last_heartbeat > now()
           THEN now() ELSE kept.last_heartbeat END
  FROM ahead
 WHERE kept.worker_id = ahead.worker_id
""",
    """
WITH ahead AS (
    SELECT instance_id FROM server_instances
     WHERE greatest(created_date, status_since, end_date, missing_since, received_at) > now()
     ORDER BY instance_id
       FOR UPDATE
)
UPDATE server_instances AS kept
   SET created_date = CASE WHEN kept.created_date > now()
           THEN least(kept.created_date + $1, now()) ELSE kept.created_date END,
       status_since = CASE WHEN kept.status_since > now()
           THEN least(kept.status_since + $1, now()) ELSE kept.status_since END,
       end_date = CASE WHEN kept.end_date > now()
           THEN least(kept.end_date + $1, now()) ELSE kept.end_date END,
       missing_since = CASE WHEN kept.missing_since > now()
           THEN least(kept.missing_since + $1, now()) ELSE kept.missing_since END,
       received_at = CASE WHEN kept.received_at > now()
           THEN least(kept.received_at + $1, now()) ELSE kept.received_at END
  FROM ahead
 WHERE kept.instance_id = ahead.instance_id
""",
)
# In µs: now ($1), when the clock stepped ($2), and the old time that it had then ($3).
SQUEEZE_POSITIONS = (
    """
WITH ahead AS (
    SELECT worker_id FROM workers
     WHERE incarnation = 0
       AND greatest(seq, labels_seq, interval_seq, inventory_seq, begun_at,
                ended_at) > $1
     ORDER BY worker_id
       FOR UPDATE
)
UPDATE workers AS kept
   SET seq = CASE WHEN kept.seq > $1
           THEN $2 - greatest($3::bigint - kept.seq, 0) / 10000
           ELSE kept.seq END,
       labels_seq = CASE WHEN kept.labels_seq > $1
           THEN $2 - greatest($3::bigint - kept.labels_seq, 0) / 10000
           ELSE kept.labels_seq END,
       interval_seq = CASE WHEN kept.interval_seq > $1
           THEN $2 - greatest($3::bigint - kept.interval_seq, 0) / 10000
           ELSE kept.interval_seq END,
       inventory_seq = CASE WHEN kept.inventory_seq > $1
           THEN $2 - greatest($3::bigint - kept.inventory_seq, 0) / 10000
           ELSE kept.inventory_seq END,
       begun_at = CASE WHEN kept.begun_at > $1
           THEN $2 - greatest($3::bigint - kept.begun_at, 0) / 10000
           ELSE kept.begun_at END,
       ended_at = CASE WHEN kept.ended_at > $1
           THEN $2 - greatest($3::bigint - kept.ended_at, 0) / 10000
           ELSE kept.ended_at END
  FROM ahead
 WHERE kept.worker_id = ahead.worker_id
""",
    """
WITH ahead AS (
    SELECT instance_id FROM server_instances
     WHERE claim_incarnation = 0 AND claim_seq > $1
     ORDER BY instance_id
       FOR UPDATE
)
UPDATE server_instances AS kept
   SET claim_seq = CASE WHEN kept.claim_seq > $1
           THEN $2 - greatest($3::bigint - kept.claim_seq, 0) / 10000
           ELSE kept.claim_seq END
  FROM ahead
 WHERE kept.instance_id = ahead.instance_id
""",
    """
WITH ahead AS (
    SELECT instance_id FROM server_instances
     WHERE owner_incarnation = 0 AND owner_seq > $1
     ORDER BY instance_id
       FOR UPDATE
)
UPDATE server_instances AS kept
   SET owner_seq = CASE WHEN kept.owner_seq > $1
           THEN $2 - greatest($3::bigint - kept.owner_seq, 0) / 10000
           ELSE kept.owner_seq END
  FROM ahead
 WHERE kept.instance_id = ahead.instance_id
""",
)
SETTLED = "UPDATE observation SET clock_steps_settled = $1 WHERE id = 1"


async def settle_fleet(connection: Connection, step: StepToSettle) -> None:
    """Move what lies ahead: workers first, then instances, each by key; the observation last, as in
    every other transaction."""
    for statement in MOVE_FLEET:
        await connection.execute(statement, step.length)
    if step.is_new:
        if step.seconds < 0:
            assert step.stepped_at is not None
            stepped = microseconds(step.stepped_at)
            old_time = microseconds(step.stepped_at - step.length)
            now = microseconds(await transaction_time(connection))
            for statement in SQUEEZE_POSITIONS:
                await connection.execute(statement, now, stepped, old_time)
        await connection.execute(SETTLED, step.steps)


# When a server crashed is looked up in the alert of it. The progress is locked first, as when the
# rules are asked.
MOVE_ALERTS = (
    """
UPDATE alert_progress
   SET memory = memory || jsonb_build_object(
           'dead_letters_grew_at',
           least((memory ->> 'dead_letters_grew_at')::timestamptz + $1, now())
       )
 WHERE id = 1 AND (memory ->> 'dead_letters_grew_at')::timestamptz > now()
""",
    """
UPDATE alerts
   SET evidence = evidence || jsonb_build_object(
           'at', least((evidence ->> 'at')::timestamptz + $1, now())
       )
 WHERE rule = 'server_crashed' AND (evidence ->> 'at')::timestamptz > now()
""",
    """
WITH ahead AS (
    SELECT alert_id FROM alerts
     WHERE greatest(opened_at, acknowledged_at, resolved_at) > now()
     ORDER BY alert_id
       FOR UPDATE
)
UPDATE alerts AS kept
   SET opened_at = CASE WHEN kept.opened_at > now()
           THEN least(kept.opened_at + $1, now()) ELSE kept.opened_at END,
       acknowledged_at = CASE WHEN kept.acknowledged_at > now()
           THEN least(kept.acknowledged_at + $1, now()) ELSE kept.acknowledged_at END,
       resolved_at = CASE WHEN kept.resolved_at > now()
           THEN least(kept.resolved_at + $1, now()) ELSE kept.resolved_at END
  FROM ahead
 WHERE kept.alert_id = ahead.alert_id
""",
    """
UPDATE deliveries SET told_at = least(told_at + $1, now()) WHERE told_at > now()
""",
)
LOCK_PROGRESS = "SELECT FROM alert_progress WHERE id = 1 FOR UPDATE"


async def settle_alerts(connection: Connection, step: StepToSettle) -> None:
    """Move the times of alerts and of what was sent of them, so that none waits for the clock to
    come by again."""
    await connection.execute(LOCK_PROGRESS)
    for statement in MOVE_ALERTS:
        await connection.execute(statement, step.length)
