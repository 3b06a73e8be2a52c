"""Lives a fleet's life in real time, on one connection to the broker."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import msgspec

from manman_status.errors import BrokerUnavailable
from manman_status.reporter.connection import Publisher, Unroutable
from manman_status.reporter.messages import Report
from manman_status.simulator.fleet import Fleet

Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[Publisher]]

RETRY_AFTER_SECONDS = 1.0


class Tally(msgspec.Struct):
    heartbeats: int = 0
    lifecycle: int = 0
    dropped: int = 0


class FleetRun:
    """Lifecycle events wait for a broker that is away; heartbeats of that time are dropped, as workers do it."""

    def __init__(self, fleet: Fleet, *, connect: Connect, complain: Callable[[str], None]) -> None:
        self.tally = Tally()
        self._fleet = fleet
        self._connect = connect
        self._complain = complain
        self._waiting: list[Report] = []
        self._began = time.monotonic()

    async def until(self, stop: asyncio.Event, *, seconds: float = math.inf) -> None:
        """Lives on until `stop` or the end of the time, then ends every worker gracefully."""
        healthy = True
        while not self._is_over(stop, seconds):
            try:
                async with self._connect() as publisher:
                    while not self._is_over(stop, seconds):
                        await self._send(publisher, self._fleet.due(self._now()))
                        healthy = True
                        wait = min(self._fleet.next_due(), seconds) - self._now()
                        await _first(stop, seconds=max(wait, 0))
            except (BrokerUnavailable, Unroutable) as error:
                if healthy:
                    self._complain(str(error))
                healthy = False
                await _first(stop, seconds=RETRY_AFTER_SECONDS)
                self._keep(self._fleet.due(self._now()))
        async with self._connect() as publisher:
            await self._send(publisher, self._fleet.stop(self._now()))

    async def _send(self, publisher: Publisher, reports: list[Report]) -> None:
        waiting, self._waiting = [*self._waiting, *reports], []
        errors = await publisher.send_all(waiting)
        unsent = [report for report, error in zip(waiting, errors, strict=True) if error]
        durable = sum(report.durable for report, error in zip(waiting, errors, strict=True) if not error)
        self.tally.lifecycle += durable
        self.tally.heartbeats += len(waiting) - len(unsent) - durable
        if unsent:
            self._keep(unsent)
            raise next(error for error in errors if error)

    def _keep(self, unsent: list[Report]) -> None:
        self._waiting += [report for report in unsent if report.durable]
        self.tally.dropped += sum(not report.durable for report in unsent)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _is_over(self, stop: asyncio.Event, seconds: float) -> bool:
        return stop.is_set() or self._now() >= seconds


async def _first(stop: asyncio.Event, *, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
