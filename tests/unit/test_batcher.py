"""Many small things made into few big ones, in their order, without growing beyond bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from manman_status.processor.batcher import Batcher

NEVER_MS = 3_600_000


class Sink:
    """The receiver of batches. While its gate is shut, a flush does not end."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.taken = asyncio.Condition()

    async def take(self, items: Any) -> None:
        self.batches.append(items)
        async with self.taken:
            self.taken.notify_all()
        await self.gate.wait()

    @property
    def items(self) -> list[Any]:
        return [item for batch in self.batches for item in batch]

    async def wait_for(self, count: Any) -> None:
        async with asyncio.timeout(5), self.taken:
            await self.taken.wait_for(lambda: len(self.items) >= count)


@asynccontextmanager
async def running(batcher: Any) -> AsyncIterator[None]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(batcher.run())
        yield
        batcher.close()


async def turns(count: int = 20) -> None:
    """Lets everybody who can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_full_batch_goes_out_without_waiting() -> None:
    sink = Sink()
    batcher = Batcher(sink.take, max_weight=3, max_wait_ms=NEVER_MS)
    async with running(batcher):
        for item in range(4):
            batcher.add(item)
        await sink.wait_for(3)
        assert sink.batches == [[0, 1, 2]]


async def test_a_batch_that_is_not_full_goes_out_in_time() -> None:
    sink = Sink()
    batcher = Batcher(sink.take, max_weight=1000, max_wait_ms=5)
    async with running(batcher):
        batcher.add("a")
        batcher.add("b")
        await sink.wait_for(2)
        assert sink.batches == [["a", "b"]]


async def test_an_item_may_weigh_more_than_a_batch() -> None:
    sink = Sink()
    batcher = Batcher(sink.take, max_weight=3, max_wait_ms=NEVER_MS)
    async with running(batcher):
        batcher.add("light", 1)
        batcher.add("heavy", 9)
        batcher.add("last", 1)
        await sink.wait_for(2)
        assert sink.batches == [["light", "heavy"]]


async def test_closing_flushes_the_rest_in_batches() -> None:
    sink = Sink()
    batcher = Batcher(sink.take, max_weight=3, max_wait_ms=NEVER_MS)
    for item in range(5):
        batcher.add(item)
    batcher.close()
    async with asyncio.timeout(5):
        await batcher.run()
    assert sink.batches == [[0, 1, 2], [3, 4]]


async def test_closing_with_nothing_waiting_ends_it() -> None:
    batcher = Batcher(Sink().take, max_weight=3, max_wait_ms=NEVER_MS)
    async with running(batcher):
        await turns()


async def test_order_is_kept_and_one_batch_goes_out_at_a_time() -> None:
    flushing, most, seen = 0, 0, []

    async def take(items: Any) -> None:
        nonlocal flushing, most
        flushing += 1
        most = max(most, flushing)
        await asyncio.sleep(0)
        seen.extend(items)
        flushing -= 1

    batcher = Batcher(take, max_weight=7, max_wait_ms=1)
    async with running(batcher):
        for item in range(500):
            batcher.add(item, weight=item % 5)
            if item % 11 == 0:
                await asyncio.sleep(0)
    assert seen == list(range(500))
    assert most == 1


async def test_a_flush_that_fails_ends_it() -> None:
    async def refuse(_: Any) -> None:
        raise LookupError

    batcher = Batcher(refuse, max_weight=1, max_wait_ms=NEVER_MS)
    batcher.add("a")
    with pytest.raises(LookupError):
        await batcher.run()
