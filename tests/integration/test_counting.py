"""Triggers count the same as a count of the rows, whoever writes these."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from alembic import command

from manman_status.domain.rows import Rows, ServerInstance, Worker
from manman_status.domain.status import Reason, StatusType
from manman_status.leadership import Leadership
from manman_status.processor.leader.count_check import CountCheck
from manman_status.processor.statistics import Statistics
from manman_status.store.counting import add_up_changes, compare_counts, recount
from manman_status.store.forgetting import forget_instance, forget_worker
from manman_status.store.migrate import alembic_config, migrate
from manman_status.store.pool import create_pool
from manman_status.store.retention import delete_ended, delete_unreported
from manman_status.store.writes import (
    lock_instances,
    lock_workers,
    store_rows,
    transaction_time,
)
from tests.kinds import Eventually

LABELS: tuple[dict[str, str], ...] = (
    {},
    {"group": "eu"},
    {"group": "us"},
    {"group": "us", "drain": "true"},
    {"drain": "off", "host": "a"},
)
CHANGES = "SELECT count(*) FROM fleet_count_changes"


async def change_rows(connection: Any, chance: Any) -> None:
    """Some rows as a batch writes them: new ones, others changed, some only beaten."""
    rows, now = Rows(), await transaction_time(connection)
    ids = sorted(chance.sample(range(1, 40), 8))
    await lock_workers(connection, ids, rows)
    await lock_instances(connection, [], rows, active_of=ids, lost_of=ids)
    for worker_id in ids:
        worker = rows.workers.setdefault(
            worker_id, Worker(worker_id, now, now, status=StatusType.RUNNING)
        )
        beat = chance.choice((None, now))
        worker.last_heartbeat = worker.last_heartbeat or beat
        if worker_id in rows.stored_workers and chance.random() < 0.4:
            worker.last_heartbeat = now
            rows.beaten.add(worker_id)
            continue
        worker.status, worker.labels = chance.choice(list(StatusType)), chance.choice(LABELS)
        worker.status_since = worker.received_at = now - timedelta(days=chance.choice((0, 50)))
        rows.changed_workers.add(worker_id)
    for instance_id in chance.sample(range(1, 100), 10):
        if instance_id not in rows.instances and not await known(connection, instance_id):
            rows.put(ServerInstance(instance_id, now, now, worker_id=chance.choice(ids)))
        if instance := rows.instances.get(instance_id):
            instance.status, instance.reason = chance.choice(list(StatusType)), Reason.REPORTED
            rows.changed_instances.add(instance_id)
    await store_rows(connection, rows)


async def known(connection: Any, instance_id: int) -> Any:
    return await connection.fetchval(
        "SELECT 1 FROM server_instances WHERE instance_id = $1", instance_id
    )


async def end_rows(connection: Any, chance: Any) -> None:
    match chance.choice(["forget worker", "forget instance", "ended", "unreported"]):
        case "forget worker":
            await forget_worker(connection, chance.randrange(1, 40), {})
        case "forget instance":
            await forget_instance(connection, chance.randrange(1, 100), {})
        case "ended":
            await delete_ended(connection, retention_days=30)
        case _:
            await connection.execute("UPDATE observation SET observed_through = now()")
            await delete_unreported(connection, retention_days=30)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_written_the_counts_are_those_of_the_rows(
    connection: Any, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        transaction = connection.transaction()
        await transaction.start()
        await (change_rows if chance.random() < 0.7 else end_rows)(connection, chance)
        await (transaction.rollback if chance.random() < 0.1 else transaction.commit)()
        if chance.random() < 0.3:
            await add_up_changes(connection, limit=chance.choice((3, 1_000)))
        assert await compare_counts(connection) == []
    while await add_up_changes(connection, limit=7):
        pass
    assert await compare_counts(connection) == []
    assert await connection.fetchval("SELECT count(*) FROM fleet_counts WHERE number <= 0") == 0


async def test_a_heartbeat_changes_no_count(connection: Any) -> None:
    await connection.execute(
        """INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since,
            reason)
        SELECT n, now(), now(), 'RUNNING', now(), 'reported' FROM generate_series(1, 100) n"""
    )
    assert await connection.fetchval(CHANGES) == 1
    async with connection.transaction():
        now = await transaction_time(connection)
        await connection.execute(
            "UPDATE workers SET seq = 5, last_heartbeat = $1 WHERE worker_id <= 100", now
        )
    assert await connection.fetchval(CHANGES) == 1


async def test_two_who_change_one_group_do_not_wait_for_each_other(database: str) -> None:
    """Nor does whoever adds the changes up wait for either of them."""
    insert = """INSERT INTO workers (worker_id, created_date, status, status_since, reason)
        VALUES ($1, now(), 'RUNNING', now(), 'reported')"""
    async with (
        create_pool(database, application="test", size=3, timeout_seconds=30) as pool,
        pool.acquire() as one,
        pool.acquire() as other,
        pool.acquire() as leader,
    ):
        async with one.transaction():
            await one.execute(insert, 1)
            await other.execute(insert, 2)
            assert await add_up_changes(leader, limit=10) == 1
        assert await compare_counts(leader) == []


async def test_rows_of_the_release_before_are_counted(empty_database: str) -> None:
    await asyncio.to_thread(command.upgrade, alembic_config(empty_database), "0010")
    before = await asyncpg.connect(empty_database)
    await before.execute(
        """INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since,
            reason, labels)
        SELECT n, now(), CASE WHEN n % 3 > 0 THEN now() END, CASE WHEN n % 5 = 0 THEN 'LOST' ELSE
            'RUNNING' END,
            now(), 'reported', jsonb_build_object('group', 'g' || n % 4) FROM generate_series(1, 60)
                n"""
    )
    await before.execute(
        """INSERT INTO server_instances (instance_id, worker_id, created_date, status, status_since,
            reason)
        SELECT n, n, now(), 'RUNNING', now(), 'reported' FROM generate_series(1, 60) n"""
    )
    await asyncio.to_thread(migrate, empty_database)
    # Its code goes on beside the new one, on connections that it has had before.
    await before.execute("UPDATE workers SET status = 'COMPLETE' WHERE worker_id < 10")
    await before.execute("DELETE FROM server_instances WHERE instance_id > 50")
    await before.close()
    async with (
        create_pool(empty_database, application="test", size=1, timeout_seconds=30) as pool,
        pool.acquire() as one,
    ):
        assert await compare_counts(one) == []
        assert (
            await one.fetchval("SELECT sum(number) FROM fleet_counts WHERE entity = 'worker'") == 60
        )


async def test_rows_written_past_the_triggers_are_recounted(
    connection: Any,
) -> None:
    await connection.execute("ALTER TABLE workers DISABLE TRIGGER USER")
    await connection.execute(
        """INSERT INTO workers (worker_id, created_date, status, status_since, reason, labels)
        VALUES (1, now(), 'RUNNING', now(), 'reported', '{"group": "eu"}')"""
    )
    await connection.execute("ALTER TABLE workers ENABLE TRIGGER USER")
    [miscount, unwatched] = await compare_counts(connection)
    assert (miscount.group_name, miscount.kept, miscount.counted) == ("eu", 0, 1)
    assert (unwatched.entity, unwatched.kept, unwatched.counted) == ("unwatched", 0, 1)
    async with connection.transaction():
        await recount(connection)
    assert await compare_counts(connection) == []


async def test_the_leader_heals_a_broken_count(
    connection: Any, database: str, eventually: Eventually
) -> None:
    """It counts anew hourly, and when it begins to lead."""
    await connection.execute(
        "INSERT INTO workers (worker_id, created_date, status, status_since, reason)"
        " VALUES (1, now(), 'RUNNING', now(), 'reported')"
    )
    await connection.execute("UPDATE fleet_count_changes SET number = 7")
    assert await compare_counts(connection) != []
    statistics = Statistics()
    async with create_pool(database, application="test", size=2, timeout_seconds=30) as pool:
        leadership = Leadership(pool, "test", lease_seconds=60)
        check = CountCheck(leadership, statistics)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run()) for each in (leadership, check)]
            await eventually(lambda: statistics.miscounts)
            for task in running:
                task.cancel()
    assert await compare_counts(connection) == []


async def test_who_may_write_the_rows_needs_no_right_to_the_counts(
    connection: Any, database: str
) -> None:
    """A processor of the release before, whose user was granted what that needs."""
    role = "writer_of_rows"
    await connection.execute(f"DROP ROLE IF EXISTS {role}")
    await connection.execute(f"CREATE ROLE {role}; GRANT ALL ON workers TO {role}; SET ROLE {role}")
    await connection.execute(
        """INSERT INTO workers (worker_id, created_date, status, status_since, reason)
        VALUES (1, now(), 'RUNNING', now(), 'reported')"""
    )
    await connection.execute("UPDATE workers SET last_heartbeat = now()")
    await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert await compare_counts(connection) == []
