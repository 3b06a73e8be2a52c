"""the first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "revision_counter",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("id = 1", name="only_one"),
        sa.PrimaryKeyConstraint("id"),
        postgresql_with={"fillfactor": "10"},
    )
    op.create_table(
        "server_instances",
        sa.Column("instance_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.BigInteger(), nullable=True),
        sa.Column("game_server_config_id", sa.BigInteger(), nullable=True),
        sa.Column("created_date", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "evidence",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "claim_incarnation", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("claim_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("claim_status", sa.Text(), nullable=True),
        sa.Column("end_incarnation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("end_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("end_status", sa.Text(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "status IN ('CREATED', 'INITIALIZING', 'RUNNING', 'LOST', 'COMPLETE', 'CRASHED')",
            name="status_known",
        ),
        sa.PrimaryKeyConstraint("instance_id"),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "server_instances_active",
        "server_instances",
        ["instance_id"],
        unique=False,
        postgresql_where=sa.text("status IN ('CREATED', 'INITIALIZING', 'RUNNING')"),
    )
    op.create_index(
        "server_instances_active_by_worker",
        "server_instances",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("status IN ('CREATED', 'INITIALIZING', 'RUNNING')"),
    )
    op.create_index(
        "server_instances_by_config",
        "server_instances",
        ["game_server_config_id", "instance_id"],
        unique=False,
    )
    op.create_index(
        "server_instances_by_status", "server_instances", ["status", "instance_id"], unique=False
    )
    op.create_index(
        "server_instances_by_worker", "server_instances", ["worker_id", "instance_id"], unique=False
    )
    op.create_table(
        "transitions",
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.BigInteger(), nullable=False),
        sa.Column("old_status", sa.Text(), nullable=True),
        sa.Column("new_status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "evidence",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.CheckConstraint("entity IN ('worker', 'game_server_instance')", name="entity_known"),
        sa.CheckConstraint(
            "new_status IN ('CREATED', 'INITIALIZING', 'RUNNING', 'LOST', 'COMPLETE', 'CRASHED')",
            name="new_status_known",
        ),
        sa.PrimaryKeyConstraint("revision", "at"),
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index(
        "transitions_by_entity", "transitions", ["entity", "entity_id", "revision"], unique=False
    )
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_date", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_heartbeat", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "evidence",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "labels",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("interval_seconds", sa.Double(), nullable=True),
        sa.Column("incarnation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "labels_incarnation", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("labels_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "interval_incarnation", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("interval_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "inventory_incarnation", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("inventory_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("inventory_digest", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "stopped_incarnation", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("stopped_at", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=True),
        sa.Column("begun_status", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_status", sa.Text(), nullable=True),
        sa.Column("ended_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('CREATED', 'INITIALIZING', 'RUNNING', 'LOST', 'COMPLETE', 'CRASHED')",
            name="status_known",
        ),
        sa.PrimaryKeyConstraint("worker_id"),
        postgresql_with={"fillfactor": "60"},
    )
    op.create_index(
        "workers_by_label",
        "workers",
        ["labels"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
    )
    op.create_index("workers_by_status", "workers", ["status", "worker_id"], unique=False)
    op.execute("INSERT INTO revision_counter (id, revision) VALUES (1, 0)")
    # No transition is ever refused for want of a partition; the daily ones are made ahead by the
    # processor.
    op.execute("CREATE TABLE transitions_default PARTITION OF transitions DEFAULT")


def downgrade() -> None:
    op.drop_index("workers_by_status", table_name="workers")
    op.drop_index(
        "workers_by_label",
        table_name="workers",
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
    )
    op.drop_table("workers")
    op.drop_index("transitions_by_entity", table_name="transitions")
    op.drop_table("transitions")
    op.drop_index("server_instances_by_worker", table_name="server_instances")
    op.drop_index("server_instances_by_status", table_name="server_instances")
    op.drop_index("server_instances_by_config", table_name="server_instances")
    op.drop_index(
        "server_instances_active_by_worker",
        table_name="server_instances",
        postgresql_where=sa.text("status IN ('CREATED', 'INITIALIZING', 'RUNNING')"),
    )
    op.drop_index(
        "server_instances_active",
        table_name="server_instances",
        postgresql_where=sa.text("status IN ('CREATED', 'INITIALIZING', 'RUNNING')"),
    )
    op.drop_table("server_instances")
    op.drop_table("revision_counter")
