"""the rules in one place

`thresholds` holds the numbers that decide when silence counts; the leader writes it from its
settings. `observation_now` and `worker_health` apply them, and four functions say what a status is:
every reader selects from these.

Adds a table of one row, functions and views. It takes no lock on a table that others write: the
views need ACCESS SHARE on `workers` and `observation`, for a moment. Until a processor of this
release leads, the row holds the defaults. Processors and apis of the release before go on by their
own settings.
"""

# ruff: noqa: S608 - the SQL is put together from constants

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

DEFAULTS = {
    "default_interval_seconds": "10",
    "minimum_timeout_seconds": "15",
    "recovery_grace_seconds": "30",
    "degraded_after_seconds": "5",
    "blind_after_seconds": "30",
    "late_after_intervals": "1.5",
    "lost_after_intervals": "3",
}

# Each is an expression of its argument alone, so the planner puts it into the query in its place,
# where indexes serve it. RUNNING first: nearly every row has it, and they are compared in this
# order.
FUNCTIONS = {
    "is_active(status text) RETURNS boolean IMMUTABLE": (
        "status IN ('RUNNING', 'CREATED', 'INITIALIZING')"
    ),
    "is_inactive(status text) RETURNS boolean IMMUTABLE": (
        "status IN ('LOST', 'COMPLETE', 'CRASHED')"
    ),
    "is_terminal(status text) RETURNS boolean IMMUTABLE": "status IN ('COMPLETE', 'CRASHED')",
    "has_not_ended(status text) RETURNS boolean IMMUTABLE": (
        "status IN ('RUNNING', 'CREATED', 'INITIALIZING', 'LOST')"
    ),
    "health_of_status(status text) RETURNS text IMMUTABLE": (
        "CASE WHEN is_terminal(status) THEN 'terminated' WHEN status = 'LOST' THEN 'unhealthy' END"
    ),
    "silent_after(since timestamptz, seconds double precision) RETURNS timestamptz STABLE": (
        "since + seconds * interval '1 second'"
    ),
}

# A watermark that lies ahead is as wrong as one that is behind: the clock stepped back, and no
# processor has seen it. No silence counts until the recovery grace since a doubt was observed.
OBSERVATION_NOW = """
CREATE VIEW observation_now AS
SELECT observed_through, resumed_at, as_of, lag_seconds, clock_step, dropped_at, doubt,
       CASE WHEN lag_seconds IS NULL OR lag_seconds > blind_after_seconds THEN 'blind'
            WHEN doubt IS NOT NULL OR lag_seconds > degraded_after_seconds THEN 'degraded'
            ELSE 'ok' END AS state
  FROM (
        SELECT observed_through, resumed_at, coalesce(observed_through, now()) AS as_of,
               abs(extract(epoch FROM now() - observed_through))::float8 AS lag_seconds,
               CASE WHEN clock_stepped_at IS NOT NULL
                    THEN jsonb_build_object(
                             'at', clock_stepped_at, 'seconds', clock_step_seconds
                         ) END AS clock_step,
               dropped_at,
               CASE WHEN coalesce(observed_through, now())
                             < clock_stepped_at + make_interval(secs => recovery_grace_seconds)
                    THEN 'clock_stepped'
                    WHEN coalesce(observed_through, now())
                             < dropped_at + make_interval(secs => recovery_grace_seconds)
                    THEN 'heartbeats_dropped' END AS doubt,
               degraded_after_seconds, blind_after_seconds
          FROM observation, thresholds
         WHERE observation.id = 1 AND thresholds.id = 1
       ) AS observed
"""


def _threshold(name: str) -> str:
    return f"(SELECT {name} FROM thresholds WHERE id = 1)"


OBSERVED_THROUGH = "(SELECT observed_through FROM observation WHERE id = 1)"
# Scalar subqueries, not joins: each is read once for a query, and the plan stays that of `workers`.
# A worker that is overdue within the recovery grace is late only: the gap was ours, and the sweep
# does not mark it LOST either.
WORKER_HEALTH = f"""
CREATE VIEW worker_health AS
SELECT worker_id, created_date, end_date, last_heartbeat, status, status_since, reason, evidence,
       labels, rival_since, rival_beat_at, interval_seconds, timeout_seconds, late_from, deadline,
       coalesce(
           health_of_status(status),
           CASE WHEN last_heartbeat IS NULL OR (SELECT state FROM observation_now) = 'blind'
                THEN 'unknown'
                WHEN late_from >= {OBSERVED_THROUGH} THEN 'healthy'
                WHEN greatest(
                         deadline,
                         silent_after(
                             (SELECT resumed_at FROM observation WHERE id = 1),
                             greatest(timeout_seconds, {_threshold("recovery_grace_seconds")})
                         )
                     ) < {OBSERVED_THROUGH} THEN 'unhealthy'
                ELSE 'late' END
       ) AS health
  FROM (
        SELECT *, silent_after(last_heartbeat, timeout_seconds) AS deadline
          FROM (
                SELECT *,
                       greatest(
                           {_threshold("lost_after_intervals")} * interval_seconds,
                           {_threshold("minimum_timeout_seconds")}
                       ) AS timeout_seconds,
                       silent_after(
                           last_heartbeat,
                           {_threshold("late_after_intervals")} * interval_seconds
                       ) AS late_from
                  FROM (
                        SELECT worker_id, created_date, end_date, last_heartbeat, status,
                               status_since, reason, evidence, labels, rival_since, rival_beat_at,
                               coalesce(
                                   interval_seconds, {_threshold("default_interval_seconds")}
                               ) AS interval_seconds
                          FROM workers
                       ) AS with_interval
               ) AS with_timeout
       ) AS with_deadline
"""


def upgrade() -> None:
    op.create_table(
        "thresholds",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, primary_key=True),
        *(
            sa.Column(name, sa.Double(), server_default=default, nullable=False)
            for name, default in DEFAULTS.items()
        ),
        sa.CheckConstraint("id = 1", name="only_one"),
    )
    op.execute("INSERT INTO thresholds (id) VALUES (1)")
    for signature, expression in FUNCTIONS.items():
        op.execute(
            f"CREATE FUNCTION {signature} LANGUAGE sql PARALLEL SAFE AS $$ SELECT {expression} $$"
        )
    op.execute(OBSERVATION_NOW)
    op.execute(WORKER_HEALTH)


def downgrade() -> None:
    op.execute("DROP VIEW worker_health")
    op.execute("DROP VIEW observation_now")
    for signature in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature.partition(' RETURNS')[0]}")
    op.drop_table("thresholds")
