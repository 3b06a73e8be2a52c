"""Faults drawn at random against the whole write side: whatever comes, the promises hold.

Good events are stored, no living worker is marked LOST, what is odd is kept or counted, and where monitoring says that
it is ok a worker that dies now is LOST in time.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest

from tests.conftest import run_sql
from tests.faults.liveness import QUICK
from tests.faults.stepping import needs_libfaketime
from tests.fleet import TIMEOUT_SECONDS, Worker
from tests.odd_messages import KEYS, LIFECYCLE, command, mutated

pytestmark = [needs_libfaketime, pytest.mark.slow]

GRACE_SECONDS = 6
SETTINGS = {"recovery_grace_seconds": GRACE_SECONDS, "lease_seconds": 3}
ROUNDS = 10
LOST_WITHIN_SECONDS = TIMEOUT_SECONDS + 3
STALLS_SECONDS = 3
"""What a shared machine may stand still meanwhile."""

READY = """
SELECT observed_through > now() - interval '2 s'
   AND coalesce(clock_stepped_at, '-infinity') + make_interval(secs => $1) < observed_through
   AND resumed_at + make_interval(secs => $1) < observed_through FROM observation
"""
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON server_instances FOR EACH ROW
  WHEN (NEW.instance_id % 1000 = 666) EXECUTE FUNCTION refuse();
"""
ACCEPT = "DROP TRIGGER refuse ON server_instances; DROP FUNCTION refuse"
STATUS = "SELECT status FROM workers WHERE worker_id = $1"
DELAY = "SELECT extract(epoch FROM status_since - last_heartbeat)::float8 FROM workers WHERE worker_id = $1"
STORED = "SELECT count(*) FROM server_instances WHERE instance_id >= 20000000"
SETTLED = """
SELECT sum((statistics -> 'events' -> 'poison' ->> 'dead_lettered')::bigint)
     + sum((statistics -> 'events' -> 'poison' ->> 'only_counted')::bigint) FROM processors
"""


@pytest.fixture
def database(stepping_database):
    return stepping_database


class Nemesis:
    def __init__(self, rng, *, publish, database, clock, channel, processors, start):
        self._rng = rng
        self._publish = publish
        self._database = database
        self._clock = clock
        self._channel = channel
        self._processors = processors
        self._start = start
        self._offset = 0
        self.quarantined = 0

    async def strike(self):
        names = ["odd", "kill", "step", "read", "refuse", "owners", "bury", "forge", "terminate"]
        name = self._rng.choice(names)
        await getattr(self, f"_{name}")()
        return name

    async def _odd(self):
        await self._publish.many([(mutated(self._rng), self._rng.choice(KEYS)) for _ in range(300)])

    async def _kill(self):
        self._processors.pop(0).kill()
        self._processors.append(await self._start())

    async def _step(self):
        self._offset += self._rng.choice([-3600, 3600, -7200, 600])
        self._clock.step_to(self._offset)

    async def _read(self):
        async with holding(self._database, "LOCK TABLE transitions IN ACCESS SHARE MODE"):
            await asyncio.sleep(self._rng.uniform(1, 5))

    async def _refuse(self):
        code = self._rng.choice(["22000", "P0001", "XX000", "57014", "40001"])
        await run_sql(self._database, REFUSE.format(code=code))
        instance = 10_000_666 + 1000 * self.quarantined
        await self._publish(command("SERVER_STARTED", str(instance), "7"), LIFECYCLE)
        self.quarantined += 1
        await asyncio.sleep(3)
        await run_sql(self._database, ACCEPT)

    async def _owners(self):
        for worker in self._rng.sample(range(1, 6), 3):
            await self._publish(command("SERVER_STARTED", "900031", str(worker)), LIFECYCLE)

    async def _bury(self):
        await self._channel.queue_delete("manman.status.dead")
        await self._publish(command("EXPLODE", "1"), LIFECYCLE)

    async def _forge(self):
        forged = [command("CANARY", "x", sent_at="2099-01-01T00:00:00Z")] * 100
        await self._publish.many([(forged, key) for key in KEYS])

    async def _terminate(self):
        sql = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await run_sql(self._database, sql)


@asynccontextmanager
async def holding(database, statement):
    connection = await asyncpg.connect(database)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_comes_the_promises_hold(
    seed, start_processor, publish, database, clock, channel, fleet, observed, eventually
):
    async def start():
        return await start_processor(**(QUICK | SETTINGS))

    processors = [await start(), await start()]
    nemesis = Nemesis(
        random.Random(seed),
        publish=publish,
        database=database,
        clock=clock,
        channel=channel,
        processors=processors,
        start=start,
    )
    fleet.recruit(5)
    dead, done = [], []
    for turn in range(1, ROUNDS + 1):
        victim = Worker(100 + turn)
        fleet.add(victim)
        done.append(await nemesis.strike())
        first = 20_000_000 + 50 * turn
        await publish.many([(command("SERVER_STARTED", str(first + i), "9"), LIFECYCLE) for i in range(50)])
        await eventually(partial(is_value, observed, 50 * turn, STORED))
        await eventually(partial(observed.value, READY, float(GRACE_SECONDS)))
        await eventually(partial(is_value, observed, "RUNNING", STATUS, victim.worker_id))
        assert [entity for entity in await observed.lost() if entity[0] == "worker"] == dead, done
        victim.fall_silent()
        await eventually(partial(is_value, observed, "LOST", STATUS, victim.worker_id))
        dead.append(("worker", victim.worker_id))
        assert await observed.value(DELAY, victim.worker_id) < LOST_WITHIN_SECONDS + STALLS_SECONDS, done
    for processor in processors:
        assert processor.returncode is None, done
        assert "storing_failed" not in processor.log, done
    assert await observed.value(SETTLED), done


async def is_value(observed, wanted, sql, *arguments):
    return [tuple(row) for row in await observed.rows(sql, *arguments)] == [(wanted,)]
