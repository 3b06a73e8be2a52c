"""lost servers of a worker"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "server_instances_lost_by_worker",
        "server_instances",
        ["worker_id"],
        postgresql_where=sa.text("status = 'LOST'"),
    )


def downgrade() -> None:
    op.drop_index("server_instances_lost_by_worker", table_name="server_instances")
