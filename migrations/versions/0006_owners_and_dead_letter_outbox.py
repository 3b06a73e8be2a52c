"""owners of server instances, and the outbox of dead letters

Adds columns with constant defaults and one table: each lock lasts milliseconds, whatever the size
of the tables.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("owner_incarnation", "owner_seq"):
        op.add_column(
            "server_instances", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
        )
    op.create_table(
        "dead_letter_outbox",
        sa.Column("letter_id", sa.Uuid(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("letter", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("letter_id"),
    )
    op.create_index("dead_letter_outbox_by_age", "dead_letter_outbox", ["at"])


def downgrade() -> None:
    op.drop_table("dead_letter_outbox")
    for name in ("owner_seq", "owner_incarnation"):
        op.drop_column("server_instances", name)
