"""the rules in one place

The row of `observation` holds the thresholds that decide when silence counts; the leader writes
them from its settings. The views `observation_now` and `worker_health` apply them, and a few
functions say what a status is: every reader selects from these.

Adds columns with a constant default to the one row of `observation`: an ACCESS EXCLUSIVE lock on
that table for the moment that takes. The views and functions lock nothing that others write.
Until the first processor of this release starts, the row holds the defaults. Processors and apis of
the release
before go on by their own settings.
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
}

ACTIVE = "status IN ('RUNNING', 'CREATED', 'INITIALIZING')"
TERMINAL = "status IN ('COMPLETE', 'CRASHED')"
HEALTH_OF_STATUS = f"WHEN {TERMINAL} THEN 'terminated' WHEN status = 'LOST' THEN 'unhealthy'"
# Each is an expression of its argument alone, so the planner puts it into the query in its place,
# where indexes serve it. RUNNING first: nearly every row has it, and they are compared in this
# order.
FUNCTIONS = {
    "is_active(status text) RETURNS boolean IMMUTABLE": ACTIVE,
    "is_inactive(status text) RETURNS boolean IMMUTABLE": (
        "status IN ('LOST', 'COMPLETE', 'CRASHED')"
    ),
    "is_terminal(status text) RETURNS boolean IMMUTABLE": TERMINAL,
    "has_not_ended(status text) RETURNS boolean IMMUTABLE": (
        "status IN ('RUNNING', 'CREATED', 'INITIALIZING', 'LOST')"
    ),
    "health_of_status(status text) RETURNS text IMMUTABLE": f"CASE {HEALTH_OF_STATUS} END",
    "silent_after(since timestamptz, seconds double precision) RETURNS timestamptz STABLE": (
        "since + seconds * interval '1 second'"
    ),
    "late_after(interval_seconds double precision) RETURNS double precision IMMUTABLE": (
        "1.5 * interval_seconds"
    ),
}

# A watermark that lies ahead is as wrong as one that is behind: the clock stepped back, and no
# processor has seen it.
LAG = "abs(extract(epoch FROM now() - observed_through))::float8"
IS_BLIND = f"coalesce({LAG} > blind_after_seconds, true)"
# Silence before this was a gap of ours, and within the recovery grace no silence counts.
SILENCE_FROM = """CASE
    WHEN resumed_at + recovery_grace_seconds * interval '1 second' < observed_through
    THEN resumed_at ELSE 'infinity' END"""
AS_OF = "coalesce(observed_through, now())"
DOUBT = f"""CASE
    WHEN {AS_OF} < clock_stepped_at + recovery_grace_seconds * interval '1 second'
    THEN 'clock_stepped'
    WHEN {AS_OF} < dropped_at + recovery_grace_seconds * interval '1 second'
    THEN 'heartbeats_dropped' END"""
OBSERVATION_NOW = f"""
CREATE VIEW observation_now AS
SELECT observed_through, {AS_OF} AS as_of, {LAG} AS lag_seconds, {IS_BLIND} AS is_blind,
       {SILENCE_FROM} AS silence_from, {DOUBT} AS doubt,
       CASE WHEN {IS_BLIND} THEN 'blind'
            WHEN {DOUBT} IS NOT NULL OR {LAG} > degraded_after_seconds THEN 'degraded'
            ELSE 'ok' END AS state,
       CASE WHEN clock_stepped_at IS NOT NULL
            THEN jsonb_build_object('at', clock_stepped_at, 'seconds', clock_step_seconds)
            END AS clock_step,
       dropped_at
  FROM observation
"""


def _observed(expression: str) -> str:
    """One value of the row of `observation`, read once for a query: plan and time for each worker
    stay those of `workers`. Planning takes some µs for each, so there are few."""
    return f"(SELECT {expression} FROM observation)"


INTERVAL = f"coalesce(interval_seconds, {_observed('default_interval_seconds')})"
TIMEOUT = f"greatest(3 * {INTERVAL}, {_observed('minimum_timeout_seconds')})"
LATE_FROM = f"last_heartbeat + 1.5 * {INTERVAL} * interval '1 second'"
# A worker whose silence does not count is late only: the sweep does not mark it LOST either.
WORKER_HEALTH = f"""
CREATE VIEW worker_health AS
SELECT worker_id, created_date, end_date, last_heartbeat, status, status_since, reason, evidence,
       labels, rival_since, rival_beat_at, {INTERVAL} AS interval_seconds,
       {TIMEOUT} AS timeout_seconds,
       last_heartbeat + {TIMEOUT} * interval '1 second' AS deadline,
       {LATE_FROM} AS late_from,
       CASE {HEALTH_OF_STATUS}
            WHEN last_heartbeat IS NULL OR {_observed(IS_BLIND)} THEN 'unknown'
            WHEN {LATE_FROM} >= {_observed("observed_through")} THEN 'healthy'
            WHEN greatest(last_heartbeat, {_observed(SILENCE_FROM)})
                     + {TIMEOUT} * interval '1 second' < {_observed("observed_through")}
            THEN 'unhealthy'
            ELSE 'late' END AS health
  FROM workers
"""


def upgrade() -> None:
    for name, default in DEFAULTS.items():
        column = sa.Column(name, sa.Double(), server_default=default, nullable=False)
        op.add_column("observation", column)
    set_at = sa.Column("thresholds_set_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("observation", set_at)
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
    for name in ("thresholds_set_at", *DEFAULTS):
        op.drop_column("observation", name)
