"""observation, leadership and relay"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "guards",
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("group_size", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("releasing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_by_hand_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("group_name"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        postgresql_with={"fillfactor": "10"},
    )
    op.create_table(
        "observation",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("observed_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("advanced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name="only_one"),
        sa.PrimaryKeyConstraint("id"),
        postgresql_with={"fillfactor": "10"},
    )
    op.create_table(
        "processors",
        sa.Column("processor_id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "settled_through",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "statistics",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("processor_id"),
        postgresql_with={"fillfactor": "10"},
    )
    op.create_table(
        "relay",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("sent_revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("id = 1", name="only_one"),
        sa.PrimaryKeyConstraint("id"),
        postgresql_with={"fillfactor": "10"},
    )
    op.create_table(
        "watermarks",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("observed_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pending_sent", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pending_seen", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pending_by", sa.Text(), nullable=True),
        sa.Column("canaries_from", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("queue"),
        postgresql_with={"fillfactor": "10"},
    )
    op.create_index(
        "server_instances_missing",
        "server_instances",
        ["missing_since"],
        unique=False,
        postgresql_where=sa.text("missing_since IS NOT NULL"),
    )
    op.execute("INSERT INTO observation (id) VALUES (1)")
    op.execute("INSERT INTO relay (id) VALUES (1)")


def downgrade() -> None:
    op.drop_index(
        "server_instances_missing",
        table_name="server_instances",
        postgresql_where=sa.text("missing_since IS NOT NULL"),
    )
    op.drop_table("watermarks")
    op.drop_table("relay")
    op.drop_table("processors")
    op.drop_table("observation")
    op.drop_table("leases")
    op.drop_table("guards")
