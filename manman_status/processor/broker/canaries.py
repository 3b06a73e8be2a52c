"""Canaries on the broker: sent through each queue by the way of the workers' messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from manman_status.errors import BrokerUnavailable
from manman_status.processor.broker.declare import declare_dropped, look_at, topic
from manman_status.processor.broker.publishing import Publishing
from manman_status.processor.broker.queries import Queries
from manman_status.processor.broker.reading import Reading
from manman_status.processor.seal import Seal
from manman_status.store.observation import QueueMark, QueueState
from manman_status.wire.control import canary_key
from manman_status.wire.dialects import Entrance, entrance_of
from manman_status.wire.topology import Topology

log = structlog.get_logger()

UNPROVEN_SECONDS = 2.0
TRIED_KEYS = 4
"""Number of keys that are tried for each queue that a canary with the known key has not reached
lately."""
KEYS = 1_000_000


class BrokerCanaries:
    """Sends the canaries and reports what the broker says. Failing to send one is no error: its
    absence is what counts."""

    def __init__(
        self,
        publishing: Publishing,
        reading: Reading,
        queries: Queries,
        topology: Topology,
        processor_id: str,
        seal: Seal,
    ) -> None:
        self._seal = seal
        self._publishing = publishing
        self._reading = reading
        self._queries = queries
        self._topology = topology
        self._processor_id = processor_id

    @property
    def is_connected(self) -> bool:
        """True while all queues are read. Publishing does not count: a processor that cannot
        publish proves nothing, but has missed nothing either."""
        return self._reading.is_connected

    @property
    def losses(self) -> int:
        return self._reading.losses

    @property
    def alarm(self) -> str | None:
        return self._publishing.alarm

    @property
    def given(self) -> list[str]:
        return self._reading.given

    @property
    def problems(self) -> dict[str, str]:
        publishing = {"publishing": self._publishing.problem} if self._publishing.problem else {}
        return self._reading.problems | publishing

    def follow(self, marks: Sequence[QueueMark], *, processors: int) -> None:
        self._reading.follow(marks, processors=processors)

    async def send(self, marks: Sequence[QueueMark], sent_at: datetime, clock_steps: int) -> None:
        """Send one canary through each queue that messages are put into."""
        active = [mark for mark in marks if mark.state is QueueState.ACTIVE]
        heartbeats = [
            mark for mark in active if self._topology.partition_of(mark.queue) is not None
        ]
        others = [
            entrance_of(self._topology, mark.queue) for mark in active if mark not in heartbeats
        ]
        sent = [(entrance, entrance.canary_key) for entrance in others]
        if heartbeats:
            entrance = entrance_of(self._topology, heartbeats[0].queue)
            keys = self._heartbeat_keys(entrance, heartbeats, sent_at)
            sent = [(entrance, key) for key in keys] + sent
        for entrance, key in sent:
            body = self._seal.signed_canary(entrance.kind, self._processor_id, sent_at, clock_steps)
            await self._publish(body, entrance.exchange, key)

    def _heartbeat_keys(
        self, entrance: Entrance, marks: Sequence[QueueMark], now: datetime
    ) -> list[str]:
        """Choose keys that reach each of the queues. RabbitMQ decides which queue a key reaches:
        the key by which a canary came is kept with its watermark, and random ones are tried where
        none came."""
        if len(marks) == 1:
            return [entrance.canary_key]
        lately = now - timedelta(seconds=UNPROVEN_SECONDS)
        unproven = sum(
            mark.observed_through is None or mark.observed_through < lately for mark in marks
        )
        numbers = (random.randrange(KEYS) for _ in range(TRIED_KEYS * unproven))  # noqa: S311
        tried = [canary_key(entrance.proven_key, number) for number in numbers]
        return [*dict.fromkeys([mark.canary_key for mark in marks if mark.canary_key] + tried)]

    async def _publish(self, body: bytes, exchange: str, key: str) -> None:
        try:
            await self._publishing.publish_canary(body, exchange=topic(exchange), routing_key=key)
        except BrokerUnavailable as error:
            log.debug("canary_not_sent", routing_key=key, error=str(error))

    async def depths(self) -> tuple[dict[str, int], int | None]:
        queues = self._reading.queues
        names = (*queues, self._topology.dead_letter_queue)
        *depths, dead_letters = await asyncio.gather(*map(self._depth, names))
        return {
            queue: depth for queue, depth in zip(queues, depths, strict=True) if depth is not None
        }, dead_letters

    async def _depth(self, queue: str) -> int | None:
        try:
            found = await self._queries.answer(partial(look_at, queue=queue))
        except BrokerUnavailable as error:
            log.debug("queue_depth_unknown", queue=queue, error=str(error))
            return None
        if found is None and queue == self._topology.dead_letter_queue:
            self._publishing.miss_dead_letters()
        return None if found is None else found[0]

    async def has_dropped(self) -> bool | None:
        """True when the broker dropped heartbeats lately; None when it does not answer."""
        try:
            found = await self._queries.answer(partial(look_at, queue=self._topology.dropped_queue))
            if found is None:  # it was deleted, and the sign with it
                await self._queries.answer(partial(declare_dropped, topology=self._topology))
        except BrokerUnavailable as error:
            log.debug("dropped_heartbeats_unknown", error=str(error))
            return None
        return found is None or found[0] > 0
