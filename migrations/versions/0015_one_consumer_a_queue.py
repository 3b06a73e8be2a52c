"""one consumer a queue

`watermarks` becomes the list of the queues that are read, with a state each. The queues of before are retired: what is
left in them is read, then they are deleted. Who had settled what is asked no more.

Changes tables of a few rows: an ACCESS EXCLUSIVE lock on `watermarks`, `processors` and `observation` for the moment
that takes. Processors of the release before cannot report any more, so they store nothing; the broker keeps what they
held, and gives it to those of this one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("watermarks", sa.Column("state", sa.Text(), server_default="active", nullable=False))
    op.add_column("watermarks", sa.Column("canary_key", sa.Text(), nullable=True))
    op.add_column("watermarks", sa.Column("clock_steps", sa.BigInteger(), server_default="0", nullable=False))
    op.execute("UPDATE watermarks SET state = 'retired'")
    for column in ("pending_sent", "pending_seen", "pending_by", "canaries_from"):
        op.drop_column("watermarks", column)
    op.drop_column("processors", "settled_through")
    op.add_column("observation", sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("observation", "dropped_at")
    settled_through = sa.Column(
        "settled_through", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
    )
    op.add_column("processors", settled_through)
    op.execute("DELETE FROM watermarks")
    op.add_column("watermarks", sa.Column("pending_sent", sa.DateTime(timezone=True), nullable=True))
    op.add_column("watermarks", sa.Column("pending_seen", sa.DateTime(timezone=True), nullable=True))
    op.add_column("watermarks", sa.Column("pending_by", sa.Text(), nullable=True))
    op.add_column("watermarks", sa.Column("canaries_from", sa.DateTime(timezone=True), nullable=True))
    for column in ("clock_steps", "canary_key", "state"):
        op.drop_column("watermarks", column)
