"""The least that storing beats can cost: `URL COUNT` → rows a second, in upserts of 500, and µs of
CPU for each.

The table is a copy of `workers` with its indexes and rows; written is what the processor writes for
a beat.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

import asyncpg
import uvloop

from manman_status.store.writes import BEAT_COLUMNS

ROWS = 500
TABLE = """
DROP TABLE IF EXISTS bare_workers;
CREATE TABLE bare_workers (LIKE workers INCLUDING ALL);
ALTER TABLE bare_workers SET (fillfactor = 60);
INSERT INTO bare_workers SELECT * FROM workers;
VACUUM ANALYZE bare_workers
"""
WRITTEN = {name: kind for name, kind in BEAT_COLUMNS.items() if name != "worker_id"}
UPSERT = f"""
INSERT INTO bare_workers (worker_id, created_date, status, status_since, reason,
    {", ".join(WRITTEN)})
SELECT worker_id, now(), 'RUNNING', now(), 'reported', {", ".join(WRITTEN)}
FROM unnest({
    ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(BEAT_COLUMNS.values(), start=1))
})
    AS beat ({", ".join(BEAT_COLUMNS)})
ON CONFLICT (worker_id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in WRITTEN)}
"""


async def upsert(url: str, count: int) -> tuple[float, float]:
    connection = await asyncpg.connect(url)
    for statement in TABLE.split(";"):
        await connection.execute(statement)
    workers = [
        row[0] for row in await connection.fetch("SELECT worker_id FROM workers ORDER BY worker_id")
    ]
    began, began_cpu = time.perf_counter(), time.process_time()
    for first in range(0, count, ROWS):
        ids = [workers[place % len(workers)] for place in range(first, first + ROWS)]
        values = {"worker_id": ids, "last_heartbeat": [datetime.now(UTC)] * ROWS}
        await connection.execute(
            UPSERT, *(values.get(name, [first] * ROWS) for name in BEAT_COLUMNS)
        )
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    await connection.close()
    return count / seconds, cpu / count * 1e6


print(*uvloop.run(upsert(sys.argv[1], int(sys.argv[2]))))
