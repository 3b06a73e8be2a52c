"""A nemesis of the write side: servers that fail at each step of a message's way, clocks that step,
senders that mean no good, and bounds that are full."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from manman_status.alerts.silences import LASTING_AT_ONCE
from manman_status.wire.control import SilenceRequested
from manman_status.wire.topology import Topology
from tests.conftest import run_sql
from tests.messaging import Publisher
from tests.odd_messages import HEARTBEAT, KEYS, LIFECYCLE, command, mutated

DEAD_LETTER_QUEUE = Topology().dead_letter_queue
FLEET = range(1, 6)
"""Workers that a nemesis impersonates."""
INVENTED = 1_000_000
"""Workers from here on exist in a flood of ids alone."""
SETTINGS = {"heartbeat_max_length": 1_000}

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON server_instances FOR EACH ROW
  WHEN (NEW.instance_id % 1000 = 666) EXECUTE FUNCTION refuse();
"""
ACCEPT = "DROP TRIGGER refuse ON server_instances; DROP FUNCTION refuse"

# Each is a step of a message's way: its rows, its history, its letter, the commit itself, and what
# a leader does then.
STEPS = {
    "its worker": "BEFORE UPDATE ON workers",
    "its new rows": "BEFORE INSERT ON server_instances",
    "its transitions": "BEFORE INSERT ON transitions",
    "its revision": "BEFORE UPDATE ON revision_counter",
    "its letter": "BEFORE INSERT ON dead_letter_outbox",
    "its letter's end": "BEFORE DELETE ON dead_letter_outbox",
    "the watermark": "BEFORE UPDATE ON observation",
    "the lease": "BEFORE UPDATE ON leases",
    "an alert": "BEFORE INSERT ON alerts",
    "a mark": "BEFORE UPDATE ON deliveries",
}
COMMIT = "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON transitions DEFERRABLE INITIALLY DEFERRED"
FAIL = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF random() < 0.3 THEN RAISE EXCEPTION 'injected' USING ERRCODE = '{code}'; END IF;
  IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
  RETURN NEW;
END $$;
{trigger} FOR EACH ROW EXECUTE FUNCTION fail();
"""
WORK = "DROP FUNCTION fail CASCADE"
PASSING = ["40001", "40P01", "53100", "53200", "55P03", "57P01"]
"""Codes of what passes: a message is none the worse for it."""
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE
     'manman-status%'
"""
CANCEL = TERMINATE.replace("pg_terminate_backend", "pg_cancel_backend")
MANY_SILENCES = """
INSERT INTO silences (silence_id, created_at, ends_at, created_by, why, group_name)
SELECT 'silence' || n, now(), now() + interval '1 hour', '', 'many', 'gone' || n FROM
    generate_series(1, {silences}) n
    ON CONFLICT (silence_id) DO UPDATE SET ends_at = excluded.ends_at
"""


class Nemesis:
    """`processors` are those that run; `start` starts another one."""

    def __init__(
        self,
        rng: random.Random,
        *,
        publish: Publisher,
        database: str,
        clock: Any,
        channel: Any,
        to_broker: Any,
        processors: Any,
        start: Any,
    ) -> None:
        self._rng = rng
        self._publish = publish
        self._database = database
        self._clock = clock
        self._channel = channel
        self._to_broker = to_broker
        self.processors = processors
        self._start = start
        self._offset = 0
        self._invented = INVENTED
        self.started = len(processors)
        self.quarantined = 0

    @property
    def strikes(self) -> dict[str, Any]:
        return {
            name.removeprefix("_strike_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_strike_")
        }

    async def _strike_kill(self) -> None:
        self.processors.pop(0).kill()
        self.processors.append(await self._start())
        self.started += 1

    async def _strike_freeze(self) -> None:
        await self._freeze(self.processors[:1], self._rng.uniform(2, 8))

    async def _freeze(self, processors: Any, seconds: float) -> None:
        for processor in processors:
            os.kill(processor.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            for processor in processors:
                os.kill(processor.pid, signal.SIGCONT)

    async def _strike_step_the_clock(self) -> None:
        self._offset += self._rng.choice([-3600, 3600, -7200, 600])
        self._clock.step_to(self._offset)

    async def _strike_read_for_long(self) -> None:
        async with holding(self._database, "LOCK TABLE transitions IN ACCESS SHARE MODE"):
            await asyncio.sleep(self._rng.uniform(1, 5))

    async def _strike_refuse(self) -> None:
        code = self._rng.choice(["22000", "P0001", "XX000", "57014", "40001"])
        await run_sql(self._database, REFUSE.format(code=code))
        instance = 10_000_666 + 1000 * self.quarantined
        await self._publish(command("SERVER_STARTED", str(instance), "7"), LIFECYCLE)
        self.quarantined += 1
        await asyncio.sleep(3)
        await run_sql(self._database, ACCEPT)

    async def _strike_fail_at_a_step(self) -> None:
        await self._fail(f"CREATE TRIGGER fail {STEPS[self._rng.choice([*STEPS])]}")

    async def _strike_fail_at_two_others(self) -> None:
        for step in self._rng.sample([*STEPS], 2):
            await self._fail(f"CREATE TRIGGER fail {STEPS[step]}")

    async def _strike_fail_at_commit(self) -> None:
        await self._fail(COMMIT)

    async def _fail(self, trigger: Any) -> None:
        """Fail while messages come, so that some of them are affected."""
        await run_sql(self._database, FAIL.format(trigger=trigger, code=self._rng.choice(PASSING)))
        for _ in range(10):
            await self._publish(command("EXPLODE", "1"), LIFECYCLE)
            await self._publish(command("SERVER_STARTED", "900032", "9"), LIFECYCLE)
            await asyncio.sleep(0.2)
        await run_sql(self._database, WORK)

    async def _strike_terminate(self) -> None:
        await run_sql(self._database, TERMINATE)

    async def _strike_cancel(self) -> None:
        for _ in range(20):
            await run_sql(self._database, CANCEL)
            await asyncio.sleep(0.1)

    async def _strike_reset(self) -> None:
        for _ in range(3):
            self._to_broker.reset()
            await asyncio.sleep(self._rng.uniform(0.2, 2))

    async def _strike_bury(self) -> None:
        await self._channel.queue_delete(DEAD_LETTER_QUEUE)
        await self._publish(command("EXPLODE", "1"), LIFECYCLE)

    async def _strike_send_odd(self) -> None:
        await self._publish.many([(mutated(self._rng), self._rng.choice(KEYS)) for _ in range(300)])

    async def _strike_send_poison(self) -> None:
        """More than is kept: alone, in large arrays, and as deep as can be."""
        single = json.dumps(command("EXPLODE", "7")).encode()
        array = json.dumps([[]] * 1_000).encode()
        deep = b'{"command_type":"HEARTBEAT","command_args":' + b"[" * 990 + b"]" * 990 + b"}"
        bodies = [single] * 2_000 + [array] * 100 + [deep] * 100
        await self._publish.many(
            [(body, self._rng.choice((HEARTBEAT, LIFECYCLE))) for body in bodies]
        )

    async def _strike_disown(self) -> None:
        for worker in self._rng.sample([*FLEET], 3):
            await self._publish(command("SERVER_STARTED", "900031", str(worker)), LIFECYCLE)

    async def _strike_forge(self) -> None:
        forged = [command("CANARY", "x", sent_at="2099-01-01T00:00:00Z")] * 100
        await self._publish.many([(forged, key) for key in KEYS])

    async def _strike_impersonate(self) -> None:
        """Send as the fleet's workers, by incarnations of long ago and of years ahead, and with the
        end of one in 9999."""
        now = int(time.time() * 1_000_000)
        for worker in FLEET:
            for incarnation in (now - 10**15, now + 10**14):
                fields = {"incarnation": incarnation, "seq": 2**60, "servers": []}
                await self._publish(command("HEARTBEAT", str(worker), **fields), HEARTBEAT)
            end = {"sent_at": "9999-01-01T00:00:00Z", "incarnation": now - 10**15, "seq": 2**61}
            await self._publish(command("WORKER_STOPPED", str(worker), **end), LIFECYCLE)

    async def _strike_invent(self) -> None:
        """Workers that beat once, two of a group."""
        first, self._invented = self._invented, self._invented + 500
        beats = [
            command("HEARTBEAT", str(i), interval_seconds=1, labels={"group": f"g{i // 2}"})
            for i in range(first, first + 500)
        ]
        await self._publish(beats, HEARTBEAT)

    async def _strike_overflow(self) -> None:
        """More heartbeats than the queue holds, while nobody takes any: the oldest are dropped."""
        frozen = asyncio.create_task(self._freeze(list(self.processors), 4))
        await asyncio.sleep(1)
        beats = [(command("HEARTBEAT", "800", interval_seconds=3600), HEARTBEAT)] * 3_000
        await self._publish.many(beats)
        await frozen

    async def _strike_silence(self) -> None:
        await run_sql(self._database, MANY_SILENCES.format(silences=LASTING_AT_ONCE))
        for number in range(20):
            await self._publish.control(
                SilenceRequested(silence_id=f"more{number}", seconds=60, why="x", group="none")
            )


@asynccontextmanager
async def holding(database: str, statement: Any) -> AsyncIterator[None]:
    connection = await asyncpg.connect(database)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()
