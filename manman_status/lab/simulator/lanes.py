"""Two ways to the broker, so that beats never queue behind a pile of lifecycle events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from manman_status.errors import BrokerUnavailable
from manman_status.lab.simulator.messages import Message
from manman_status.lab.simulator.truth import Truth
from manman_status.reporter.carrier import Unroutable
from manman_status.reporter.connection import IN_FLIGHT, Publisher

ANSWER_WITHIN_SECONDS = 5.0


class Tally(msgspec.Struct):
    """`slowest_seconds` is the longest that a heartbeat took, from when it was due until the broker
    had it."""

    heartbeats: int = 0
    lifecycle: int = 0
    dropped: int = 0
    slowest_seconds: float = 0.0


class Lane:
    """Messages of one kind, in their order. What could not be sent stays at the front if it must
    arrive, else it is dropped and counted."""

    def __init__(self, *, clock: Callable[[], float], truth: Truth | None, tally: Tally) -> None:
        self._clock = clock
        self._truth = truth
        self._tally = tally
        self._waiting: deque[tuple[float, Message]] = deque()
        self._busy = 0
        self._filled = asyncio.Event()

    def put(self, messages: Iterable[Message]) -> None:
        now = self._clock()
        self._waiting.extend((now, message) for message in messages)
        self._filled.set()

    def __len__(self) -> int:
        return len(self._waiting) + self._busy

    async def send(self, publisher: Publisher) -> None:
        """Sends until something goes wrong: never returns. Raises BrokerUnavailable or
        Unroutable."""
        while True:
            while not self._waiting:
                self._filled.clear()
                await self._filled.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), IN_FLIGHT))]
            self._busy = len(batch)
            unsent = batch
            try:
                errors = await self._attempt(publisher, [message for _, message in batch])
                unsent = [entry for entry, error in zip(batch, errors, strict=True) if error]
                self._count(batch, errors)
            finally:
                self._busy = 0
                self._keep(unsent)
            if failed := next((error for error in errors if error), None):
                raise failed

    def drop_waiting(self) -> None:
        """Drop the waiting messages, since the broker is unavailable: they count as tried."""
        now = self._clock()
        waiting, self._waiting = list(self._waiting), deque()
        if self._truth:
            for _, message in waiting:
                self._truth.tried(message, now)
        self._keep(waiting)

    async def _attempt(
        self, publisher: Publisher, messages: list[Message]
    ) -> list[Unroutable | BrokerUnavailable | None]:
        if self._truth:
            now = self._clock()
            for message in messages:
                self._truth.tried(message, now)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
                return await publisher.send_all([message.report for message in messages])
        except TimeoutError:
            raise BrokerUnavailable(cause=f"nothing within {ANSWER_WITHIN_SECONDS:g} s") from None

    def _count(
        self,
        batch: list[tuple[float, Message]],
        errors: list[Unroutable | BrokerUnavailable | None],
    ) -> None:
        now = self._clock()
        for (put_at, message), error in zip(batch, errors, strict=True):
            if error is not None:
                continue
            if self._truth:
                self._truth.stored(message, now)
            if message.report.durable:
                self._tally.lifecycle += 1
            else:
                self._tally.heartbeats += 1
                self._tally.slowest_seconds = max(self._tally.slowest_seconds, now - put_at)

    def _keep(self, unsent: list[tuple[float, Message]]) -> None:
        durable = [entry for entry in unsent if entry[1].report.durable]
        self._waiting.extendleft(reversed(durable))
        self._tally.dropped += len(unsent) - len(durable)
