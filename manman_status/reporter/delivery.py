"""Delivery over one worker's connection: its events in order until each is confirmed, its
heartbeats in time."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

from manman_status.backoff import LONGEST_SECONDS, Backoff
from manman_status.errors import BrokerUnavailable
from manman_status.reporter.carrier import Carrier, Link, Unroutable, choose_carrier
from manman_status.reporter.life import WorkerLife
from manman_status.reporter.messages import Report
from manman_status.reporter.quiet import quiet_own_connections

log = logging.getLogger("manman_status.reporter")

Answer = TypeVar("Answer")

ALL_CONFIRMED_WITHIN_SECONDS = 10.0
"""Timeout of all that is sent together. Each message alone has less time, and its error says more
about why."""
JITTER = (0.9, 1.0)
"""Share of the interval: workers that started together drift apart, and none is ever later than it
promised."""


class Delivery:
    """The delivery of one worker's life. It runs in one event loop; `wake` and `close` are called
    there too."""

    def __init__(
        self,
        life: WorkerLife,
        url: str,
        *,
        exchange: str,
        interval_seconds: float,
        carrier: Carrier | None = None,
    ) -> None:
        self._life = life
        self._url = url
        self._exchange = exchange
        self._interval_seconds = interval_seconds
        self._woken = asyncio.Event()
        self._closing = asyncio.Event()
        self._backoff = self._new_backoff()
        self._carrier = carrier or choose_carrier()
        self.transport = self._carrier.new_socket(url)
        self.is_connected = False
        self._is_silent = False

    def wake(self) -> None:
        """Have `run` send what is new."""
        self._woken.set()

    def close(self) -> None:
        """Let `run` return once everything is confirmed. No heartbeat is sent any more."""
        self._closing.set()
        self._woken.set()

    def go_silent(self) -> None:
        """Send nothing more, in a forked child: its parent goes on."""
        self._is_silent = True
        self.transport.let_go()

    async def run(self) -> None:
        quiet_own_connections()
        while not self._is_silent and (self._life.waiting or not self._closing.is_set()):
            try:
                await self._deliver()
            except Exception as error:  # noqa: BLE001 - whatever it is, a worker that lives goes on saying so
                await self._wait_after(error)
            finally:
                self.is_connected = False
                self.transport.abort()

    async def _wait_after(self, error: Exception) -> None:
        delay = self._backoff.failed()
        if not isinstance(error, BrokerUnavailable | Unroutable):
            log.error("worker %d cannot report", self._life.worker_id, exc_info=error)
        elif self._backoff.is_worth_saying:
            worker, waiting = self._life.worker_id, self._life.waiting
            log.warning("worker %d cannot report: %s; %d events wait", worker, error, waiting)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), delay)
        if self._closing.is_set():
            await asyncio.sleep(delay)

    async def _deliver(self) -> None:
        """Send until it is closed and all is confirmed. Raises when the broker is unavailable or
        takes nothing."""
        loop = asyncio.get_running_loop()
        name = f"manman-status reporter of worker {self._life.worker_id}"
        async with self._carrier.open_link(
            self.transport, self._url, name=name, exchange=self._exchange, lost=self._woken.set
        ) as link:
            beat_due = loop.time() if self._life.beats else math.inf
            while not self._is_silent:
                if not link.is_connected:
                    raise BrokerUnavailable(cause="the connection was lost")
                self._woken.clear()
                if loop.time() >= beat_due and not self._closing.is_set():
                    beat_due = loop.time() + self._interval_seconds * random.uniform(*JITTER)  # noqa: S311
                    await _answered(link.send(self._life.heartbeat()))
                    self._succeeded()
                if waiting := self._life.oldest(self._carrier.IN_FLIGHT):
                    await self._send(link, waiting)
                elif self._closing.is_set():
                    return
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(beat_due if self._life.beats else None):
                            await self._woken.wait()

    async def _send(self, link: Link, waiting: list[tuple[int, Report]]) -> None:
        """Send events, and confirm them up to the first that failed. Those after it are sent again
        too, so that the last copies are in order."""
        errors = await _answered(link.send_all([report for _, report in waiting]))
        for (number, _), error in zip(waiting, errors, strict=True):
            if error:
                raise error
            self._life.confirm(number)
        self._succeeded()

    def _succeeded(self) -> None:
        if not self.is_connected:
            self.is_connected = True
            after = (
                f" again after {self._backoff.failing_seconds:g} s"
                if self._backoff.failures
                else ""
            )
            log.info("worker %d reports%s", self._life.worker_id, after)
        self._backoff = self._new_backoff()

    def _new_backoff(self) -> Backoff:
        """A backoff within the interval: others may wait for the next heartbeat when the broker is
        back."""
        return Backoff(longest_seconds=min(LONGEST_SECONDS, self._interval_seconds / 2))


async def _answered(sending: Awaitable[Answer]) -> Answer:
    """Await a confirmation, within a bound: a broker that is frozen takes messages and never
    answers."""
    try:
        async with asyncio.timeout(ALL_CONFIRMED_WITHIN_SECONDS):
            return await sending
    except TimeoutError:
        raise BrokerUnavailable(
            cause=f"no confirmation within {ALL_CONFIRMED_WITHIN_SECONDS:g} s"
        ) from None
