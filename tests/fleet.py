"""A small fleet that really beats, in this process, over one connection that comes back when the
broker does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity

from manman_status.domain.events import microseconds
from manman_status.reporter.messages import Incarnation, Report, utc_now
from manman_status.wire.messages import RunningServer
from manman_status.wire.topology import worker_heartbeat_key

INTERVAL_SECONDS = 1.0
TIMEOUT_SECONDS = 3.0
"""The timeout of these fleets' workers, where the minimum is not longer."""

UNAVAILABLE = (*CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, TimeoutError)


class Worker:
    """Beats while `beating`, with its servers as inventory. Its clock may be wrong."""

    def __init__(
        self, worker_id: int, *, servers: Any = (), group: str = "", clock_off: Any = timedelta(0)
    ) -> None:
        self.worker_id = worker_id
        self.servers = list(servers)
        self._labels = {"group": group} if group else None
        self._clock_off = clock_off
        self.start()

    def start(self) -> None:
        """A new incarnation, of the same servers unless `servers` is changed before its first
        beat."""
        number = microseconds(self._clock())
        self.life = Incarnation(
            self.worker_id,
            number=number,
            interval_seconds=INTERVAL_SECONDS,
            labels=self._labels,
            clock=self._clock,
        )
        self.beating = True

    def go_silent(self) -> None:
        self.beating = False

    def go_on(self) -> None:
        """Beat again, as the incarnation that went silent."""
        self.beating = True

    def beat(self) -> Any:
        return self.life.heartbeat([RunningServer(instance_id) for instance_id in self.servers])

    def _clock(self) -> Any:
        return utc_now() + self._clock_off


class MinimalWorker(Worker):
    """Says nothing but who it is."""

    def beat(self) -> Any:
        body = b'{"command_type":"HEARTBEAT","command_args":["%d"]}' % self.worker_id
        return Report(worker_heartbeat_key(self.worker_id), body, durable=False)


class DatedWorker(Worker):
    """A worker without incarnation and numbers: its events stand in the order of its clock."""

    def start(self) -> None:
        self.life = Incarnation(
            self.worker_id, number=None, interval_seconds=INTERVAL_SECONDS, clock=self._clock
        )
        self.beating = True


class Fleet:
    """Beats of all that are beating every `beat_every` seconds; what cannot be sent is not sent
    later."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._channels: tuple[AbstractChannel, AbstractChannel] | None = None
        self._connected = asyncio.Event()
        self.beat_every = 0.25
        self.workers: dict[Any, Any] = {}

    def add(self, *workers: Any) -> None:
        self.workers |= {worker.worker_id: worker for worker in workers}

    def recruit(self, number: int, **options: Any) -> None:
        """Workers 1 to `number`, each with one server: 1001 onwards."""
        self.add(*(Worker(i, servers=[1000 + i], **options) for i in range(1, number + 1)))

    def is_connected(self) -> Any:
        return self._connected.is_set()

    async def report(self, *reports: Any) -> None:
        """Publish each until the broker confirms it, in order, as a worker does with lifecycle
        events."""
        for report in reports:
            while True:
                await self._connected.wait()
                assert self._channels is not None
                confirmed, _ = self._channels
                try:
                    await self._publish(confirmed, report)
                    break
                except UNAVAILABLE:
                    await asyncio.sleep(0.1)

    async def run(self) -> None:
        while True:
            with contextlib.suppress(*UNAVAILABLE):
                async with await aio_pika.connect(self._url, timeout=2) as connection:
                    confirmed, plain = (
                        await connection.channel(),
                        await connection.channel(publisher_confirms=False),
                    )
                    self._channels = confirmed, plain
                    self._connected.set()
                    await self._beat(plain)
            self._connected.clear()
            await asyncio.sleep(0.25)

    async def _beat(self, channel: Any) -> None:
        """Spread over the time, as workers are that started one after another."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            workers = list(self.workers.values())
            for worker in workers or [None]:
                if worker and worker.beating:
                    await self._publish(channel, worker.beat())
                due = max(due + self.beat_every / max(len(workers), 1), clock() - self.beat_every)
                if due - clock() > 0.005:
                    await asyncio.sleep(due - clock())

    async def _publish(self, channel: Any, report: Any) -> None:
        mode = (
            aio_pika.DeliveryMode.PERSISTENT
            if report.durable
            else aio_pika.DeliveryMode.NOT_PERSISTENT
        )
        exchange = await channel.get_exchange("internal_service_events", ensure=False)
        await exchange.publish(
            aio_pika.Message(report.body, delivery_mode=mode), report.routing_key
        )


@pytest.fixture
async def fleet(broker: str) -> AsyncIterator[Fleet]:
    """An empty one, running. A processor must have declared the exchange before there are
    workers."""
    fleet = Fleet(broker)
    running = asyncio.create_task(fleet.run())
    yield fleet
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
