"""the StatusInfo that was applied, so that the order of arrival decides

Adds a column without a default to each of two tables: ACCESS EXCLUSIVE on both for the catalogue
change alone, no row is rewritten. Code of the release before goes on beside it: it neither reads
nor writes the columns, and rows without them are judged by date until their first StatusInfo.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLES = ("workers", "server_instances")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("reported", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "reported")
