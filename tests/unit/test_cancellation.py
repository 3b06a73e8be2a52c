"""A cancelled task ends, even if a library drops the first cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from manman_status import cancellation
from manman_status.cancellation import cancel


async def forever() -> None:
    await asyncio.Event().wait()


async def drops_the_first() -> None:
    with suppress(asyncio.CancelledError):
        await forever()
    await forever()


async def test_a_task_that_drops_a_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancellation, "CANCEL_AGAIN_SECONDS", 0.01)
    tasks = [asyncio.create_task(work()) for work in (forever, drops_the_first)]
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel(*tasks), timeout=5)
    assert all(task.cancelled() for task in tasks)


async def test_a_task_that_tidies_up_is_given_the_time_for_it() -> None:
    tidied = []

    async def tidies() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.05)
            tidied.append(True)

    task = asyncio.create_task(tidies())
    await asyncio.sleep(0)
    await cancel(task)
    assert tidied


async def test_tasks_that_are_over_or_none_at_all_are_left_be() -> None:
    over = asyncio.create_task(asyncio.sleep(0, "done"))
    await over
    await cancel(over)
    await cancel()
    assert over.result() == "done"
