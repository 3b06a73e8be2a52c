"""Heartbeats that change nothing are stored without being merged: only where merging comes to the
same."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import msgspec

from manman_status.domain.events import Heartbeat, Inventory, microseconds
from manman_status.domain.merge import merge
from manman_status.domain.rows import Receipt, Rows, Worker
from manman_status.domain.status import Reason, StatusType
from manman_status.store.pool import create_pool
from manman_status.store.writes import advance_steady, lock_workers, store_rows, transaction_time
from tests.kinds import Eventually

WORKERS = 4_000
DIGEST = 77
LABELS = {"group": "eu-1", "version": "1.4.2"}
LIFE = (
    "incarnation",
    "stopped_incarnation",
    "labels_incarnation",
    "interval_incarnation",
    "inventory_incarnation",
)
COUNTS = "seq", "stopped_seq", "labels_seq", "interval_seq", "inventory_seq"


def steady(worker_id: int, now: Any, life: Any) -> Any:
    orders: dict[str, Any] = {
        **dict.fromkeys(("incarnation", *LIFE[2:]), life),
        **dict.fromkeys(("seq", *COUNTS[2:]), 5),
    }
    return Worker(
        worker_id=worker_id,
        created_date=now - timedelta(days=1),
        status_since=now - timedelta(hours=1),
        last_heartbeat=now - timedelta(seconds=10),
        status=StatusType.RUNNING,
        reason=Reason.REPORTED,
        evidence={"incarnation": life},
        labels=LABELS,
        interval_seconds=10.0,
        inventory_digest=DIGEST,
        received_at=now - timedelta(hours=1),
        **orders,
    )


def beat(worker_id: int, life: int) -> Heartbeat:
    return Heartbeat(
        worker_id=worker_id,
        incarnation=life,
        seq=6,
        interval_seconds=10.0,
        labels=LABELS,
        servers=Inventory(DIGEST, lambda: ()),
    )


def test_every_field_of_a_heartbeat_is_compared() -> None:
    """Compare a new field in ADVANCE_STEADY, demand it in `_is_whole` of ingest, and name it here.
    A field that is not compared with the row would be lost."""
    compared = {"worker_id", "incarnation", "seq", "interval_seconds", "labels", "servers"}
    change_no_steady_row = {"sent_at", "ahead_at", "outlives_an_end"}
    assert {*Heartbeat.__struct_fields__} == compared | change_no_steady_row


def changes(now: Any, life: Any) -> list[Any]:
    """Differences from a steady row: fields with the values that they may have."""
    at = [0, life - 1, life, life + 1, life + 60_000_000, microseconds(now)]
    moments = [now - timedelta(seconds=seconds) for seconds in (-1, 0, 5, 7_200)]
    ended = {"ended_status": [StatusType.COMPLETE], "ended_reason": [Reason.REPORTED]}
    rivals = {"rival_incarnation": [life - 1, life, life + 1], "rival_seq": [3, 5]}
    return [
        {"status": [*StatusType]},
        {"reason": [*Reason]},
        {"evidence": [{}, {"incarnation": life - 1}, {"incarnation": life, "was": "lost"}]},
        {"labels": [{}, LABELS | {"version": "1.5"}, {"group": "eu-1"}]},
        {"interval_seconds": [None, 20.0]},
        {"last_heartbeat": [None, *moments]},
        *({name: [0, life - 1, life, life + 1]} for name in LIFE),
        *({name: [0, 5, 6, 7]} for name in COUNTS),
        *(
            {name: at}
            for name in ("first_received_at", "passed_incarnation", "ahead_at", "inventory_digest")
        ),
        {"begun_at": at, "begun_status": [StatusType.RUNNING]},
        {"ended_at": [life - 2, life - 1], "first_received_at": [life - 1], **ended},
        {"ended_at": at, **ended},
        {"stopped_incarnation": [life], "stopped_at": at},
        *({"rival_since": [moment], "rival_beat_at": [moment], **rivals} for moment in moments[2:]),
    ]


def odd(steady_beat: Any, chance: Any, now: Any, life: Any) -> Any:
    name, values = chance.choice(
        [
            ("incarnation", [1, life - 1, life + 1, microseconds(now)]),
            ("seq", [1, 5, 7]),
            ("labels", [{}, LABELS | {"drain": "true"}]),
            ("interval_seconds", [20.0]),
            ("servers", [Inventory(DIGEST + 1, lambda: ())]),
            ("sent_at", [1, microseconds(now) + 10**12]),
        ]
    )
    return msgspec.structs.replace(steady_beat, **{name: chance.choice(values)})


LOCK = "SELECT FROM workers WHERE worker_id = $1 FOR UPDATE"


async def waits_for_lock(connection: Any) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE NOT granted AND datname = current_database()"
        )
    )


async def merged(connection: Any, beats: Any, now: Any) -> Any:
    """The transitions of merging these."""
    rows = Rows()
    await lock_workers(connection, beats, rows)
    for each in beats.values():
        merge(rows, each, Receipt(now, microseconds(now) + each.worker_id))
    await store_rows(connection, rows)
    return rows.transitions


async def kept(connection: Any) -> list[Any]:
    return [
        tuple(row) for row in await connection.fetch("SELECT * FROM workers ORDER BY worker_id")
    ]


async def test_a_steady_heartbeat_is_stored_as_merging_it_would_be(database: str) -> None:
    chance = random.Random(5)
    async with (
        create_pool(database, application="test", size=1, timeout_seconds=30) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        now = await transaction_time(connection)
        life = microseconds(now) - 3_600_000_000
        rows, beats = Rows(), {}
        for worker_id in range(1, WORKERS + 1):
            worker = rows.workers[worker_id] = steady(worker_id, now, life)
            for _ in range(chance.choice([0, 1, 1, 2])):
                for name, values in chance.choice(changes(now, life)).items():
                    setattr(worker, name, chance.choice(values))
            beats[worker_id] = beat(worker_id, life)
            if chance.random() < 0.2:
                beats[worker_id] = odd(beats[worker_id], chance, now, life)
        not_whole = set(range(1, WORKERS + 1, 20))
        rows.changed_workers.update(rows.workers)
        await store_rows(connection, rows)

        aside = connection.transaction()
        await aside.start()
        of_all = await merged(connection, beats, now)
        expected = await kept(connection)
        await aside.rollback()

        whole = [each for worker_id, each in beats.items() if worker_id not in not_whole]
        advanced = await advance_steady(connection, whole)
        assert not advanced & not_whole
        assert WORKERS * 0.3 < len(advanced) < WORKERS * 0.7
        rest = {worker_id: each for worker_id, each in beats.items() if worker_id not in advanced}
        assert await merged(connection, rest, now) == of_all
        for found, wanted in zip(await kept(connection), expected, strict=True):
            assert found == wanted


async def test_steady_heartbeats_lock_in_key_order(database: str, eventually: Eventually) -> None:
    """A batch that waits for a worker holds none that comes after it, so two cannot deadlock."""
    async with create_pool(database, application="test", size=3, timeout_seconds=30) as pool:
        async with pool.acquire() as connection, connection.transaction():
            now = await transaction_time(connection)
            for worker_id in (2, 1):  # so they lie in the table
                rows = Rows(workers={worker_id: steady(worker_id, now, 1)})
                rows.changed_workers.add(worker_id)
                await store_rows(connection, rows)
        async with pool.acquire() as batch, pool.acquire() as holder, pool.acquire() as other:
            async with holder.transaction():
                await holder.fetch(LOCK, 1)
                storing = asyncio.create_task(advance_steady(batch, [beat(2, 1), beat(1, 1)]))
                await eventually(lambda: waits_for_lock(other))
                await other.fetch(LOCK + " NOWAIT", 2)
            assert await storing == {1, 2}
