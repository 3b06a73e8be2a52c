"""one consumer a queue

`watermarks` becomes the list of the queues that are read, with a state each. The queues of before
are retired: what is left in them is read, then they are deleted.

Adds nullable columns, and some with a constant default, to tables of a few rows: an ACCESS
EXCLUSIVE lock on `watermarks` and `observation` for the moment that takes. Processors of the
release before go on beside this one, until it has unbound their queues. What only they write
(`pending_sent`, `pending_seen`, `pending_by`, `canaries_from`, and `settled_through` of
`processors`) stays for them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "watermarks", sa.Column("state", sa.Text(), server_default="active", nullable=False)
    )
    op.add_column("watermarks", sa.Column("canary_key", sa.Text(), nullable=True))
    op.add_column(
        "watermarks", sa.Column("clock_steps", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.execute("UPDATE watermarks SET state = 'retired'")
    op.add_column("observation", sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("observation", "dropped_at")
    op.execute("DELETE FROM watermarks")
    for column in ("clock_steps", "canary_key", "state"):
        op.drop_column("watermarks", column)
