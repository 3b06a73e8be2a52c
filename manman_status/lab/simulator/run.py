"""Lives a fleet's life in real time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from manman_status.cancellation import cancel
from manman_status.errors import ManManStatusError
from manman_status.lab.simulator.delivery import Delivery
from manman_status.lab.simulator.fleet import Fleet
from manman_status.lab.simulator.lanes import Lane, Tally
from manman_status.lab.simulator.messages import Message
from manman_status.lab.simulator.truth import Truth
from manman_status.reporter.connection import Publisher

Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[Publisher, Publisher]]]
"""One publisher for heartbeats, one for lifecycle events."""

RETRY_AFTER_SECONDS = 1.0
SHORTEST_TICK_SECONDS = 0.02
LONGEST_TICK_SECONDS = 0.5


class FleetRun:
    """Lifecycle events wait for a broker that is unavailable; heartbeats of that time are dropped,
    as workers do it."""

    def __init__(
        self,
        fleet: Fleet,
        delivery: Delivery,
        *,
        connect: Connect,
        complain: Callable[[str], None],
        truth: Truth | None = None,
    ) -> None:
        self.tally = Tally()
        self._fleet = fleet
        self._delivery = delivery
        self._truth = truth
        self._connect = connect
        self._complain = complain
        self._unavailable: ManManStatusError | None = None
        self._sending: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        self._beats, self._lifecycle = (
            Lane(clock=self.now, truth=truth, tally=self.tally) for _ in range(2)
        )

    def now(self) -> float:
        """Seconds since the fleet began."""
        return time.monotonic() - self._began

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        self._sending = asyncio.create_task(self._keep_sending())
        try:
            yield
        finally:
            await cancel(self._sending)
            if not self._sending.cancelled():
                self._sending.result()

    async def live(self, stop: asyncio.Event, *, seconds: float = math.inf) -> None:
        """Run the fleet until `stop`, or until `seconds` after it began."""
        while not stop.is_set() and self.now() < seconds and not self._has_failed():
            self._hand_on(self._fleet.due(self.now()))
            await self._tick(stop, until=min(self._fleet.next_due(), seconds))

    async def finish(self) -> None:
        """Stop every living worker normally. Raises the error that keeps its messages from the
        broker."""
        self._hand_on(self._fleet.stop(self.now()))
        while self._lifecycle or self._beats or self._delivery.next_due() < math.inf:
            self._hand_on(())
            if self._has_failed():
                return
            if self._unavailable and self._lifecycle:
                raise self._unavailable
            await asyncio.sleep(SHORTEST_TICK_SECONDS)

    def _has_failed(self) -> bool:
        """True when sending has failed; `sending` raises the cause at its end."""
        return self._sending is None or self._sending.done()

    def _hand_on(self, messages: Iterable[Message]) -> None:
        now = self.now()
        said = list(messages)
        if self._truth:
            self._truth.said(said)
        self._delivery.put(said, now)
        due = self._delivery.due(now)
        self._lifecycle.put(message for message in due if message.report.durable)
        self._beats.put(message for message in due if not message.report.durable)
        if self._unavailable:
            self._beats.drop_waiting()

    async def _tick(self, stop: asyncio.Event, *, until: float) -> None:
        wait = min(until, self._delivery.next_due()) - self.now()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                stop.wait(), min(max(wait, SHORTEST_TICK_SECONDS), LONGEST_TICK_SECONDS)
            )

    async def _keep_sending(self) -> None:
        while True:
            try:
                async with self._connect() as (beats, lifecycle):
                    await self._send(beats, lifecycle)
            except ManManStatusError as error:
                if self._unavailable is None:
                    self._complain(str(error))
                self._unavailable = error
                self._beats.drop_waiting()
                await asyncio.sleep(RETRY_AFTER_SECONDS)

    async def _send(self, beats: Publisher, lifecycle: Publisher) -> None:
        self._unavailable = None
        sending = [
            asyncio.create_task(self._beats.send(beats)),
            asyncio.create_task(self._lifecycle.send(lifecycle)),
        ]
        try:
            done, _ = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel(*sending)
