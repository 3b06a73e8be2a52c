"""Only our own cancellation ends a part; what a library cancels is a fault like any other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from manman_status.cancellation import Abandoned, answered, cancel, within
from manman_status.probes import ProbeFiles
from manman_status.running import Part, PartEnded, Pulse, vital, watched


async def lost_confirmation() -> None:
    """Do what aiormq does to a waiting confirmation when its connection is lost."""
    confirmation = asyncio.get_running_loop().create_future()
    confirmation.set_exception(asyncio.CancelledError())
    await confirmation


async def forever() -> None:
    await asyncio.Event().wait()


class Unlucky:
    """Meets each of these once, and then works."""

    def __init__(self, *faults: Any) -> None:
        self.works = asyncio.Event()
        self._faults = list(faults)

    async def run(self) -> None:
        if self._faults:
            await self._faults.pop(0)()
        else:
            self.works.set()
            await forever()


async def fails() -> None:
    raise ValueError("a fault of ours")


async def returns() -> None:
    return


async def test_a_part_begins_again_whatever_ended_it() -> None:
    unlucky = Unlucky(lost_confirmation, fails, returns)
    part = Part(unlucky, rests_seconds=0)
    running = asyncio.create_task(part.keep_running())
    await asyncio.wait_for(unlucky.works.wait(), timeout=60)
    assert not running.done()
    await cancel(running)
    assert running.cancelled()


@pytest.mark.parametrize("end", [lost_confirmation, returns])
async def test_the_end_of_what_is_vital_is_an_error(end: Any) -> None:
    async def processor() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(vital(end(), "reading"))
            await forever()

    with pytest.raises(ExceptionGroup) as raised:
        await processor()
    assert raised.group_contains(PartEnded, match="reading ended, and nobody stopped it")


async def as_one(work: Any) -> None:
    await work


async def test_vital_task_may_end_once_it_is_stopped() -> None:
    stopped = asyncio.Event()
    stopped.set()
    await vital(returns(), "storing", until=stopped)


async def test_our_own_cancellation_ends_what_is_vital() -> None:
    task = asyncio.create_task(vital(forever(), "reading"))
    await asyncio.sleep(0)
    await cancel(task)
    assert task.cancelled()


async def test_a_cancellation_that_is_not_ours_is_a_lost_connection() -> None:
    with pytest.raises(Abandoned):
        await answered(lost_confirmation())
    with pytest.raises(Abandoned):
        await within(60, lost_confirmation())


async def test_a_timeout_around_it_stays_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await answered(forever())


async def test_nothing_is_awaited_for_longer_than_is_said() -> None:
    """Not even what takes no cancellation."""
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        await within(0.01, stubborn())
    let_go.set()


async def test_part_that_does_not_move_is_stuck_after_its_rest() -> None:
    stuck, resting = (Part(Unlucky(forever), rests_seconds=rest) for rest in (0, 60))
    tasks = [asyncio.create_task(part.keep_running()) for part in (stuck, resting)]
    await asyncio.sleep(0.2)
    assert stuck.is_stuck(for_seconds=0.1)
    assert not stuck.is_stuck(for_seconds=60)
    assert not resting.is_stuck(for_seconds=0.1)
    await cancel(*tasks)


def test_a_processor_that_is_not_alive_touches_no_file(tmp_path: Path) -> None:
    files = ProbeFiles(tmp_path)
    files.is_ready = lambda: True
    files.is_alive = lambda: False
    files.touch()
    assert list(tmp_path.iterdir()) == []
    files.is_alive = lambda: True
    files.touch()
    assert {file.name for file in tmp_path.iterdir()} == {"alive", "ready"}


async def test_the_pulse_of_a_task_stops_when_it_does() -> None:
    pulse, go_on = Pulse(), asyncio.Event()

    async def work() -> str:
        await go_on.wait()
        return "done"

    task = asyncio.create_task(as_one(watched(work(), pulse)))
    await asyncio.sleep(0.2)
    assert pulse.age_seconds > 0.1
    go_on.set()
    await task
    assert pulse.age_seconds < 0.1
