"""bridges vouch for what they read

A bridge reads another system's database and publishes what it finds as events. The table holds
how far each bridge has looked; `observed_through` is the least of these and of the queues'
watermarks.

Adds a table only. Processors of the release before do not wait for bridges, so start the first
bridge when all of them are replaced.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bridges",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("observed_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("clock_steps", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("written_revision", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
        postgresql_with={"fillfactor": "10"},
    )


def downgrade() -> None:
    op.drop_table("bridges")
