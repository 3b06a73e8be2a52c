"""epochs of the history

Adds three columns to a table of one row, and gives the history that it has a random epoch: an
ACCESS EXCLUSIVE lock on `revision_counter` for the moment that takes. Code of the release before
neither reads nor writes them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

RANDOM = (
    "UPDATE revision_counter SET epoch = substr(md5(random()::text || clock_timestamp()::text),"
    " 1, 8)"
)


def upgrade() -> None:
    op.add_column(
        "revision_counter", sa.Column("epoch", sa.Text(), server_default="", nullable=False)
    )
    op.execute(RANDOM)
    op.add_column("revision_counter", sa.Column("previous_epoch", sa.Text(), nullable=True))
    op.add_column(
        "revision_counter",
        sa.Column("epoch_begins_after", sa.BigInteger(), server_default="0", nullable=False),
    )


def downgrade() -> None:
    op.drop_column("revision_counter", "epoch_begins_after")
    op.drop_column("revision_counter", "previous_epoch")
    op.drop_column("revision_counter", "epoch")
