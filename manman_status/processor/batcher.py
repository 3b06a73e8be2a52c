"""Many small items become few big batches.

Invariants: order and bound. Items are taken from the front of one list by one loop, which flushes
one batch before it takes the next, so batches and the items in them keep the order of arrival. A
batch ends with the item that reaches the full weight, so it never weighs more than that and one
item. The list itself is not bounded here: the broker's prefetch bounds what is read and not yet
acknowledged, and so what waits. Nothing waits longer than `max_wait_ms` after `run` has seen it,
except for the flush before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Hands lists of items to `flush`, one call at a time, in the order they came.

    A batch goes out when its weight reaches `max_weight`, or `max_wait_ms` after its first item.
    The caller of `add` bounds the number of waiting items. An exception of `flush` ends `run`:
    retrying is the flush's own business.
    """

    def __init__(
        self, flush: Callable[[list[T]], Awaitable[None]], *, max_weight: int, max_wait_ms: int
    ) -> None:
        self._flush = flush
        self._max_weight = max_weight
        self._max_wait_seconds = max_wait_ms / 1000
        self._waiting: list[tuple[T, int]] = []
        self._weight = 0
        self._closed = False
        self._some = asyncio.Event()
        self._enough = asyncio.Event()

    def add(self, item: T, weight: int = 1) -> None:
        """Buffer the item."""
        self._waiting.append((item, weight))
        self._weight += weight
        self._some.set()
        if self._weight >= self._max_weight:
            self._enough.set()

    def close(self) -> None:
        """No more items will come: `run` flushes what waits and returns."""
        self._closed = True
        self._some.set()
        self._enough.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            if not self._waiting:
                return  # only closing wakes without an item
            if not self._enough.is_set() and self._max_wait_seconds:
                await self._wait_for_more()
            await self._flush(self._take())

    async def _wait_for_more(self) -> None:
        try:
            async with asyncio.timeout(self._max_wait_seconds):
                await self._enough.wait()
        except TimeoutError:
            pass

    def _take(self) -> list[T]:
        """The oldest items, up to the full weight or the one that exceeds it."""
        weight = count = 0
        while count < len(self._waiting) and weight < self._max_weight:
            weight += self._waiting[count][1]
            count += 1
        taken = [item for item, _ in self._waiting[:count]]
        del self._waiting[:count]
        self._weight -= weight
        if not self._closed:
            if not self._waiting:
                self._some.clear()
            if self._weight < self._max_weight:
                self._enough.clear()
        return taken
