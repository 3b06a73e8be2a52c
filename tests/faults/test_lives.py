"""Lives of a worker through a real processor: each once left a worker that beats LOST, or one that
stopped alive."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manman_status.domain.status import Reason
from tests.faults.liveness import Observed
from tests.kinds import Eventually, StartRole
from tests.messaging import Publisher

INTERVAL = 0.5  # counts as 1 s; the timeout is 3 s


class Sender:
    """A worker process that beats until the test ends, or until `stop`."""

    def __init__(
        self, publish: Publisher, incarnation: Any, *servers: Any, seq: int = 0, **labels: Any
    ) -> None:
        self.publish = publish
        self.incarnation, self.seq = incarnation, seq
        self.servers = [{"instance_id": server} for server in servers]
        self.labels = labels
        self.task: asyncio.Task[None] | None = None

    async def beat(self) -> None:
        self.seq += 1
        await self.publish(
            {
                "command_type": "HEARTBEAT",
                "command_args": ["1"],
                "incarnation": self.incarnation,
                "seq": self.seq,
                "interval_seconds": INTERVAL,
                "servers": self.servers,
                "labels": self.labels,
            },
            "worker.1.heartbeat",
        )

    async def _run(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(INTERVAL)

    def start(self) -> Any:
        self.task = asyncio.create_task(self._run())
        return self

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()


@pytest.fixture
def sender(publish: Publisher) -> Iterator[Any]:
    started: list[Sender] = []

    def make(incarnation: Any, *servers: Any, **fields: Any) -> Any:
        started.append(Sender(publish, incarnation, *servers, **fields))
        return started[-1]

    yield make
    for one in started:
        one.stop()


def now_us() -> Any:
    return time.time_ns() // 1_000


async def test_an_incarnation_that_goes_back_is_a_new_life(
    start_quick: StartRole, sender: Any, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    first = sender(2000, 30, group="a").start()
    await eventually(lambda: observed.worker(1))
    first.stop()
    sender(1000, 31, group="b").start()

    async def taken_over() -> bool:
        assert await observed.worker(1) == ("RUNNING", Reason.CLOCK_WENT_BACK)
        assert await observed.server(31) == ("RUNNING", "reported")
        assert await observed.server(30) == ("CRASHED", "superseded")
        return True

    await eventually(taken_over)
    evidence = json.loads(await observed.value("SELECT evidence FROM workers"))
    assert (evidence["incarnation"], evidence["passed_incarnation"]) == (1000, 2000)
    assert json.loads(await observed.value("SELECT labels FROM workers")) == {"group": "b"}


async def test_the_same_incarnation_from_its_start_is_a_new_life(
    start_quick: StartRole, sender: Any, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    first = sender(2000, 30, seq=500).start()
    await eventually(lambda: observed.worker(1))
    first.stop()
    sender(2000, 30).start()
    await eventually(
        lambda: observed.rows("SELECT 1 FROM workers WHERE reason = 'clock_went_back'")
    )
    assert await observed.server(30) == ("RUNNING", "reported")


async def test_one_beat_with_the_greatest_number_changes_nothing(
    start_quick: StartRole, sender: Any, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    await sender(2**63 - 1, seq=2**62).beat()
    await eventually(lambda: observed.worker(1))
    life = sender(now_us(), 31).start()
    await eventually(
        lambda: observed.rows("SELECT 1 FROM workers WHERE incarnation = $1", life.incarnation)
    )
    assert await observed.worker(1) == ("RUNNING", "reported")


async def test_status_info_dated_a_day_ahead_masks_nothing(
    start_quick: StartRole, publish: Publisher, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()

    def info(status: Any, at: Any) -> dict[str, Any]:
        return {
            "entity_type": "worker",
            "identifier": "1",
            "status_type": status,
            "as_of": at.isoformat(),
        }

    ahead = info("CRASHED", datetime.now(UTC) + timedelta(days=1))
    await publish(ahead, "worker.1.status")
    await eventually(lambda: observed.rows("SELECT 1 FROM workers WHERE status = 'CRASHED'"))
    await publish(info("RUNNING", datetime.now(UTC) + timedelta(seconds=1)), "worker.1.status")
    await eventually(lambda: observed.rows("SELECT 1 FROM workers WHERE status = 'RUNNING'"))
    await publish(ahead, "worker.1.status")
    await publish({"command_type": "WORKER_STARTED", "command_args": ["2"]}, "worker.2.lifecycle")
    await eventually(lambda: observed.worker(2))
    assert await observed.worker(1) == ("RUNNING", "reported")


async def test_a_copied_host_is_an_alert_of_its_own(
    start_quick: StartRole, sender: Any, observed: Observed, eventually: Eventually
) -> None:
    """Both run, so neither is LOST and no server of theirs is concluded to be gone."""
    await start_quick()
    older = sender(now_us() - 60_000_000, 30, host="h1").start()
    await eventually(lambda: observed.worker(1))
    newer = sender(now_us(), 31, host="h2").start()
    sql = "SELECT severity, state, summary, evidence FROM alerts WHERE rule = 'duplicate_worker'"
    [(severity, state, summary, evidence)] = await eventually(lambda: observed.rows(sql))
    assert (severity, state) == ("warning", "open")
    assert f"{newer.incarnation} and {older.incarnation}, host h2 and h1" in summary
    assert json.loads(evidence)["differing_labels"] == {"host": ["h2", "h1"]}
    assert await observed.server(30) == await observed.server(31) == ("RUNNING", "reported")
    older.stop()
    await eventually(lambda: observed.rows(sql + " AND state = 'resolved'"))
    await eventually(
        lambda: observed.rows("SELECT 1 FROM server_instances WHERE reason = 'superseded'")
    )
    assert await observed.lost() == []
