"""an index of the workers that were lost to silence, by time

The sweep counts workers that were lost lately as silent: it finds them without reading all that
were ever lost. A heartbeat changes none of its columns and stays HOT. The condition on the reason
keeps the planner from reading this index for pages of all lost workers.

Adds an index only. It takes SHARE on `workers` while it is built: nothing is written to the table
for one scan of it, at most two seconds at 1,000,000 workers. Reading goes on, and code of the
release before goes on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "workers_lost_since",
        "workers",
        ["status_since"],
        postgresql_where=sa.text("status = 'LOST' AND reason = 'heartbeat_expired'"),
    )


def downgrade() -> None:
    op.drop_index("workers_lost_since", "workers")
