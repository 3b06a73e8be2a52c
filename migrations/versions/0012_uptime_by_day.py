"""uptime by day

New tables, and a trigger on `workers` that notes when a worker goes to another group: it takes
SHARE ROW EXCLUSIVE on `workers` for the moment of the catalogue change. The release before goes on
beside it, and its writes are noted too. The leader fills the tables little by little; until it has,
uptime is read from `transitions` as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Run as the owner: roles that write the rows need no right to the moves.
NOTE_MOVE = """
CREATE FUNCTION note_uptime_move() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path
    FROM CURRENT AS $$
BEGIN
    INSERT INTO uptime_moves (worker_id) VALUES (NEW.worker_id);
    RETURN NULL;
END $$
"""
# What was created today has no part in a day that is over.
ON_MOVE = """
CREATE TRIGGER uptime_moves AFTER UPDATE OF labels ON workers FOR EACH ROW
WHEN (coalesce(OLD.labels ->> 'group', '') <> coalesce(NEW.labels ->> 'group', '')
      AND OLD.created_date < date_trunc('day', now(), 'UTC'))
EXECUTE FUNCTION note_uptime_move()
"""


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _times(name: str) -> sa.Column[list[int]]:
    return sa.Column(name, ARRAY(sa.BigInteger()), server_default="{}", nullable=False)


def _now(name: str) -> sa.Column[sa.DateTime]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text("clock_timestamp()"),
        nullable=False,
    )


def upgrade() -> None:
    op.create_table(
        "uptime_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("through_revision", sa.BigInteger(), nullable=False),
        _times("blind"),
        sa.Column("done_through", sa.BigInteger(), nullable=True),
        sa.Column("is_complete", sa.Boolean(), server_default="false", nullable=False),
        _now("made_at"),
        sa.PrimaryKeyConstraint("day"),
    )
    op.create_table(
        "uptime_changes",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("is_fleet", sa.Boolean(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("old_status", sa.Text(), nullable=False),
        sa.Column("new_status", sa.Text(), nullable=False),
        _count("changes"),
        _count("seen"),
        _count("lost"),
        _count("longest"),
        _times("opened"),
        _times("crossed_begun"),
        _times("crossed_ended"),
        sa.PrimaryKeyConstraint("day", "is_fleet", "group_name", "old_status", "new_status"),
    )
    op.create_table(
        "uptime_losses",
        sa.Column("worker_id", sa.BigInteger(), nullable=False),
        sa.Column("begun", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", "begun"),
    )
    op.create_index("uptime_losses_by_day", "uptime_losses", ["day"])
    op.create_table(
        "uptime_moves",
        sa.Column("move_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("worker_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("is_apart", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("is_taken", sa.Boolean(), server_default="false", nullable=False),
        sa.PrimaryKeyConstraint("move_id"),
    )
    op.create_index(
        "uptime_moves_to_take",
        "uptime_moves",
        ["move_id"],
        postgresql_where=sa.text("NOT is_taken"),
    )
    op.execute(NOTE_MOVE)
    op.execute(ON_MOVE)


def downgrade() -> None:
    op.execute("DROP TRIGGER uptime_moves ON workers")
    op.execute("DROP FUNCTION note_uptime_move()")
    for table in ("uptime_moves", "uptime_losses", "uptime_changes", "uptime_days"):
        op.drop_table(table)
