"""the time as of which each transition is published

`transitions.as_of` is the report's own time, and rises for each entity; `newest_as_of` holds the
newest one of each. Rows of the release before have none and are published as of `at`, which is also
what the table begins with.

Adds a table, filled from one scan of `workers` and of `server_instances` that keeps nobody waiting,
and then a column without a default to `transitions`: an ACCESS EXCLUSIVE lock for a moment. The
release before goes on beside it. While it does, a change that it writes has `at`, and one that
comes after that may have an earlier time.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

FILL = """
INSERT INTO newest_as_of (entity, entity_id, as_of)
SELECT 'worker', worker_id, status_since FROM workers
 UNION ALL
SELECT 'game_server_instance', instance_id, status_since FROM server_instances
"""


def upgrade() -> None:
    op.create_table(
        "newest_as_of",
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("entity IN ('worker', 'game_server_instance')", name="entity_known"),
        sa.PrimaryKeyConstraint("entity", "entity_id"),
        postgresql_with={"fillfactor": "80"},
    )
    op.execute(FILL)
    op.add_column("transitions", sa.Column("as_of", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("transitions", "as_of")
    op.drop_table("newest_as_of")
