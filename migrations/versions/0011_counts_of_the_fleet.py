"""counts of the fleet, kept by triggers, and who is late

Adds tables, and triggers that count workers and server instances in the transaction that changes
them, whoever does it: code of the release before too, which goes on beside it. The triggers take
SHARE ROW EXCLUSIVE on both tables, and it is held while what is there is counted: nothing is
written to them for one scan of each, a few seconds at 1,000,000 workers with 3,000,000 server
instances. Reading goes on.
"""

# ruff: noqa: S608 - the SQL is put together from constants

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

KEY = ("entity", "group_name", "status", "has_beat", "is_draining")
COLUMNS = ", ".join((*KEY, "number"))
ENDED_OR_LOST = "('LOST', 'COMPLETE', 'CRASHED')"


def _of(row: str) -> str:
    """The key of a worker's count, from a row of `workers`."""
    return (
        f"'worker', coalesce({row}labels ->> 'group', ''), {row}status, {row}last_heartbeat IS NOT"
        f" NULL, lower(coalesce({row}labels ->> 'drain', '')) NOT IN ('', '0', 'false', 'no',"
        " 'off')"
    )


INSTANCE = "'game_server_instance', '', status, false, false"


def _unwatched(row: str) -> str:
    return f"{row}last_heartbeat IS NULL AND {row}status NOT IN {ENDED_OR_LOST}"


def _function(name: str, body: str) -> str:
    """Run as the owner: roles that write the rows need no right to the counts."""
    return f"""CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET
        search_path FROM CURRENT
        AS $$ BEGIN {body} RETURN NULL; END $$"""


def _add(source: str, key: str, *, sign: str = "") -> str:
    counts = f"SELECT {key}, {sign}count(*) FROM {source} GROUP BY 1, 2, 3, 4, 5"
    return f"INSERT INTO fleet_count_changes ({COLUMNS}) {counts};"


FUNCTIONS = {
    "count_new_workers": (
        f"""{_add("new_rows", _of(""))}
        INSERT INTO unwatched_workers SELECT worker_id FROM new_rows WHERE {_unwatched("")} ON
            CONFLICT DO NOTHING;"""
    ),
    "count_gone_workers": (
        f"""{_add("old_rows", _of(""), sign="-")}
        DELETE FROM unwatched_workers WHERE worker_id IN (SELECT worker_id FROM old_rows);"""
    ),
    "count_changed_worker": (
        f"""
        INSERT INTO fleet_count_changes ({COLUMNS}) VALUES ({_of("OLD.")}, -1), ({_of("NEW.")}, 1);
        IF {_unwatched("NEW.")} THEN
            INSERT INTO unwatched_workers VALUES (NEW.worker_id) ON CONFLICT DO NOTHING;
        ELSIF {_unwatched("OLD.")} THEN
            DELETE FROM unwatched_workers WHERE worker_id = NEW.worker_id;
        END IF;"""
    ),
    "count_new_instances": _add("new_rows", INSTANCE),
    "count_gone_instances": _add("old_rows", INSTANCE, sign="-"),
    "count_changed_instances": (
        f"""
        INSERT INTO fleet_count_changes ({COLUMNS}) SELECT {INSTANCE}, sum(step) FROM (
            SELECT status, 1 AS step FROM new_rows UNION ALL SELECT status, -1 FROM old_rows
        ) changed GROUP BY status HAVING sum(step) <> 0;"""
    ),
}
# Each heartbeat updates a worker's row. A trigger for each statement would receive all those rows;
# a trigger for each row has a WHEN clause, by which PostgreSQL skips them without a call.
TRIGGERS = (
    """CREATE TRIGGER count_new_workers AFTER INSERT ON workers REFERENCING NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION count_new_workers()""",
    """CREATE TRIGGER count_gone_workers AFTER DELETE ON workers REFERENCING OLD TABLE AS old_rows
        FOR EACH STATEMENT EXECUTE FUNCTION count_gone_workers()""",
    """CREATE TRIGGER count_changed_worker AFTER UPDATE OF status, labels ON workers FOR EACH ROW
        WHEN (OLD.status <> NEW.status OR OLD.labels <> NEW.labels) EXECUTE FUNCTION
            count_changed_worker()""",
    """CREATE TRIGGER count_first_beat AFTER UPDATE OF last_heartbeat ON workers FOR EACH ROW
        WHEN ((OLD.last_heartbeat IS NULL) <> (NEW.last_heartbeat IS NULL)
              AND OLD.status = NEW.status AND OLD.labels = NEW.labels)
        EXECUTE FUNCTION count_changed_worker()""",
    """CREATE TRIGGER count_new_instances AFTER INSERT ON server_instances REFERENCING NEW TABLE AS
        new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION count_new_instances()""",
    """CREATE TRIGGER count_gone_instances AFTER DELETE ON server_instances REFERENCING OLD TABLE AS
        old_rows
        FOR EACH STATEMENT EXECUTE FUNCTION count_gone_instances()""",
    """CREATE TRIGGER count_changed_instances AFTER UPDATE ON server_instances
        REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION count_changed_instances()""",
)
FILL = (
    (
        f"INSERT INTO fleet_counts ({COLUMNS}) SELECT {_of('')}, count(*) FROM workers GROUP BY 1,"
        " 2, 3, 4, 5"
    ),
    (
        f"INSERT INTO fleet_counts ({COLUMNS}) SELECT {INSTANCE}, count(*) FROM server_instances"
        " GROUP BY 1, 2, 3, 4, 5"
    ),
    f"INSERT INTO unwatched_workers SELECT worker_id FROM workers WHERE {_unwatched('')}",
)


def _count() -> list[sa.Column[object]]:
    """The columns of `_of`, and the number."""
    kinds = (sa.Text(), sa.Text(), sa.Text(), sa.Boolean(), sa.Boolean(), sa.BigInteger())
    return [
        sa.Column(name, kind, nullable=False)
        for name, kind in zip((*KEY, "number"), kinds, strict=True)
    ]


def _worker_id() -> sa.Column[object]:
    return sa.Column("worker_id", sa.BigInteger(), autoincrement=False, primary_key=True)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table("fleet_counts", *_count(), sa.PrimaryKeyConstraint(*KEY))
    op.create_table(
        "fleet_count_changes",
        sa.Column("change_id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        *_count(),
    )
    op.create_table("unwatched_workers", _worker_id())
    op.create_table(
        "late_workers",
        _worker_id(),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("is_draining", sa.Boolean(), nullable=False),
        _time("last_heartbeat"),
        _time("deadline"),
        sa.Column("timeout_seconds", sa.Double(), nullable=False),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, primary_key=True),
        _time("swept_through", nullable=True),
        _time("oldest_heartbeat", nullable=True),
        sa.CheckConstraint("id = 1", name="only_one"),
        postgresql_with={"fillfactor": "10"},
    )
    op.execute("INSERT INTO sweeps (id) VALUES (1)")
    for name, body in FUNCTIONS.items():
        op.execute(_function(name, body))
    for trigger in TRIGGERS:
        op.execute(trigger)
    for statement in FILL:
        op.execute(statement)


def downgrade() -> None:
    for trigger in TRIGGERS:
        _, _, name, *_ = trigger.split()
        table = "server_instances" if "instances" in name else "workers"
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for name in FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}()")
    for table in (
        "sweeps",
        "late_workers",
        "unwatched_workers",
        "fleet_count_changes",
        "fleet_counts",
    ):
        op.drop_table(table)
