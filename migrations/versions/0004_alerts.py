"""alerts, silences, notifications, and the trace of a transition"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("part_of", sa.BigInteger(), nullable=True),
        sa.Column("group_name", sa.Text(), nullable=True),
        sa.Column("worker_id", sa.BigInteger(), nullable=True),
        sa.Column("instance_id", sa.BigInteger(), nullable=True),
        sa.Column("game_server_config_id", sa.BigInteger(), nullable=True),
        sa.Column("labels", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("evidence", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("acknowledged_why", sa.Text(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.CheckConstraint("severity IN ('critical', 'warning', 'info')", name="severity_known"),
        sa.CheckConstraint("state IN ('open', 'acknowledged', 'resolved')", name="state_known"),
        sa.CheckConstraint(
            "(state = 'resolved') = (resolved_at IS NOT NULL)", name="resolved_has_time"
        ),
        sa.PrimaryKeyConstraint("alert_id"),
        sa.ForeignKeyConstraint(["part_of"], ["alerts.alert_id"], ondelete="SET NULL"),
    )
    unresolved = sa.text("resolved_at IS NULL")
    op.create_index(
        "alerts_one_unresolved_a_key", "alerts", ["key"], unique=True, postgresql_where=unresolved
    )
    op.create_index("alerts_unresolved", "alerts", ["alert_id"], postgresql_where=unresolved)
    op.create_index(
        "alerts_to_tell",
        "alerts",
        ["alert_id"],
        postgresql_where=sa.text("resolved_at IS NULL AND part_of IS NULL"),
    )
    op.create_index("alerts_by_rule", "alerts", ["rule", "opened_at"])
    op.create_index(
        "alerts_by_part", "alerts", ["part_of"], postgresql_where=sa.text("part_of IS NOT NULL")
    )
    op.create_index(
        "alerts_by_worker",
        "alerts",
        ["worker_id", "alert_id"],
        postgresql_where=sa.text("worker_id IS NOT NULL"),
    )
    op.create_index(
        "alerts_by_end",
        "alerts",
        ["resolved_at"],
        postgresql_where=sa.text("resolved_at IS NOT NULL"),
    )
    op.create_table(
        "deliveries",
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("severity", sa.Text(), nullable=True),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_settled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("alert_id", "channel"),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.alert_id"], ondelete="CASCADE"),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "deliveries_unsettled",
        "deliveries",
        ["channel", "alert_id"],
        postgresql_where=sa.text("NOT is_settled"),
    )
    op.create_table(
        "silences",
        sa.Column("silence_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=True),
        sa.Column("worker_id", sa.BigInteger(), nullable=True),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("labels", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("silence_id"),
        sa.UniqueConstraint("number"),
    )
    op.create_index("silences_by_end", "silences", ["ends_at"])
    op.create_table(
        "alert_progress",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("judged_revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("memory", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint("id = 1", name="only_one"),
        sa.PrimaryKeyConstraint("id"),
        postgresql_with={"fillfactor": "10"},
    )
    # What happened before there were alerts is history, not news.
    op.execute(
        "INSERT INTO alert_progress (id, judged_revision) SELECT 1, revision FROM revision_counter"
    )
    op.add_column("transitions", sa.Column("traceparent", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("transitions", "traceparent")
    for table in ("alert_progress", "silences", "deliveries", "alerts"):
        op.drop_table(table)
