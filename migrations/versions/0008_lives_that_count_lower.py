"""lives that count lower, and when something was received

Adds columns with constant defaults and a partial index that is empty at first: ACCESS EXCLUSIVE on
both tables for the catalogue change alone, no row is rewritten; then SHARE on `workers`, so that it
is not written, for one scan of it. The release before goes on beside it: what it inserts has the
defaults.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COUNTS = (
    "stopped_seq",
    "ahead_at",
    "first_received_at",
    "passed_incarnation",
    "rival_incarnation",
    "rival_seq",
)
TIMES = ("rival_since", "rival_beat_at", "own_beat_at")


def _received_at() -> sa.Column[sa.DateTime]:
    return sa.Column(
        "received_at", sa.DateTime(timezone=True), nullable=True, server_default=sa.text("now()")
    )


def upgrade() -> None:
    for name in COUNTS:
        op.add_column(
            "workers", sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
    labels = sa.Column(
        "rival_labels", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'")
    )
    op.add_column("workers", labels)
    for name in TIMES:
        op.add_column("workers", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("workers", _received_at())
    op.add_column("server_instances", _received_at())
    op.create_index(
        "workers_with_rival",
        "workers",
        ["worker_id"],
        postgresql_where=sa.text("rival_since IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("workers_with_rival", table_name="workers")
    op.drop_column("server_instances", "received_at")
    for name in ("received_at", *TIMES, "rival_labels", *COUNTS):
        op.drop_column("workers", name)
