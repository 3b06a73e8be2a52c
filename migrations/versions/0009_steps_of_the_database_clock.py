"""steps of the database's clock

Adds nullable columns, and two with a constant default, to a table of one row: an ACCESS EXCLUSIVE
lock on `observation` for the moment that takes. Code of the release before neither reads nor writes
them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "observation", sa.Column("clock_steps", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "observation",
        sa.Column("clock_steps_settled", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "observation", sa.Column("clock_stepped_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column("observation", sa.Column("clock_step_seconds", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("observation", "clock_step_seconds")
    op.drop_column("observation", "clock_stepped_at")
    op.drop_column("observation", "clock_steps_settled")
    op.drop_column("observation", "clock_steps")
